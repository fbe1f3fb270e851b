"""Tests of federated partitions, and of the program that shows them."""

import numpy as np
import pytest
from absl import flags

from fedsup_tf.data.data_settings import DataSettings
from fedsup_tf.data.partition import ClientIndices, label_counts, partition
from tff_programs.programs import data

CLASSES = 10
TRAIN = np.random.default_rng(1).permutation(np.repeat(np.arange(CLASSES), 60))
TEST = np.random.default_rng(2).permutation(np.repeat(np.arange(CLASSES), 20))
SEEDS = range(5)
# 1,230 examples in classes of very different sizes.
UNEQUAL = np.repeat(np.arange(5), (1000, 150, 50, 23, 7))

KINDS = [
    ("iid", {}),
    ("shard", {"classes_per_client": 1}),
    ("shard", {"classes_per_client": 3}),
    ("shard", {"classes_per_client": 10}),
    ("shard", {"classes_per_client": 13}),
    ("dirichlet", {"beta": 0.01}),
    ("dirichlet", {"beta": 0.1}),
    ("dirichlet", {"beta": 1.0}),
    ("dirichlet", {"beta": 1e3}),
]


def divide(kind="iid", train=TRAIN, test=TEST, clients=12, seed=0, **options):
    return partition(kind, train, test, clients, seed, **options)


@pytest.mark.parametrize("labels", [TRAIN, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_each_training_example_has_one_client(kind, options, labels):
    for seed in SEEDS:
        divided = divide(kind, train=labels, clients=12, seed=seed, **options)
        assert len(divided) == 12
        everything = np.sort(np.concatenate([client.train for client in divided]))
        np.testing.assert_array_equal(everything, np.arange(len(labels)))
        for client in divided:
            assert len(client.train)
            assert client.train.dtype == client.test.dtype == np.int64


@pytest.mark.parametrize("labels", [TRAIN, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_test_sets_follow_the_training_sets(kind, options, labels):
    for seed in SEEDS:
        for client in divide(kind, train=labels, clients=12, seed=seed, **options):
            assert 1 <= len(client.test) <= len(TEST) // 12
            assert len(np.unique(client.test)) == len(client.test)
            own = np.bincount(labels[client.train], minlength=CLASSES)
            drawn = np.bincount(TEST[client.test], minlength=CLASSES)
            assert np.all(drawn[own == 0] == 0)
            assert np.abs(drawn - own / own.sum() * len(client.test)).max() < 1


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_the_seed_decides_everything(kind, options):
    first, again, other = (divide(kind, seed=seed, **options) for seed in (3, 3, 4))
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.train, same.train)
        np.testing.assert_array_equal(one.test, same.test)
    different = [
        [not np.array_equal(a, b) for a, b in zip(*pair, strict=True)]
        for pair in zip(first, other, strict=True)
    ]
    assert np.any(different, axis=0).all()


def test_training_sets_do_not_depend_on_test_sets():
    for few, many in zip(
        divide("dirichlet", beta=0.3, test_examples=3),
        divide("dirichlet", beta=0.3, test_examples=30, test=TEST[::-1]),
        strict=True,
    ):
        np.testing.assert_array_equal(few.train, many.train)
        assert len(few.test) == 3
        assert len(many.test) > 3


# Identical distributions.


@pytest.mark.parametrize("clients", [1, 7, 600])
def test_iid_clients_have_equal_sizes(clients):
    sizes = [len(client.train) for client in divide("iid", clients=clients)]
    assert max(sizes) - min(sizes) <= 1


def test_iid_clients_are_alike():
    counts = label_counts(divide("iid", clients=4), TRAIN, CLASSES)
    assert np.abs(counts - 15).max() < 12
    assert counts.std() > 0


# Shards.


@pytest.mark.parametrize("classes_per_client", [1, 2, 5, 10])
def test_shards_of_the_paper(classes_per_client):
    labels = np.repeat(np.arange(10), 6000)
    for seed in SEEDS:
        divided = divide(
            "shard", labels, clients=100, seed=seed, classes_per_client=classes_per_client
        )
        counts = label_counts(divided, labels, 10)
        assert set(counts.sum(axis=1)) == {600}
        assert set((counts > 0).sum(axis=1)) == {classes_per_client}
        assert set(counts[counts > 0]) == {600 // classes_per_client}


@pytest.mark.parametrize("clients", [5, 7, 12, 30])
@pytest.mark.parametrize("classes_per_client", [1, 2, 3, 4, 5, 8])
def test_a_client_has_as_many_classes_as_shards_wherever_possible(clients, classes_per_client):
    for labels in (TRAIN, UNEQUAL):
        classes = len(np.unique(labels))
        if clients * classes_per_client < classes:
            continue
        for seed in SEEDS:
            divided = divide(
                "shard", labels, clients=clients, seed=seed, classes_per_client=classes_per_client
            )
            held = label_counts(divided, labels, classes) > 0
            assert held.sum(axis=1).max() <= classes_per_client
            if labels is TRAIN and classes_per_client <= classes:
                # No class has more shards than there are clients.
                assert held.sum(axis=1).min() == classes_per_client


def test_a_class_of_more_shards_than_clients_is_everywhere():
    labels = np.repeat([0, 1, 2], (900, 50, 50))
    counts = label_counts(divide("shard", labels, clients=10, classes_per_client=2), labels, 3)
    assert np.all(counts[:, 0] > 0)
    # 20 shards of at least 50 examples: 18 of class 0, and one of each other class.
    assert (counts[:, 1:] > 0).sum(axis=0).tolist() == [1, 1]
    assert sorted(counts[:, 0].tolist()) == [50, 50] + [100] * 8


def test_shards_are_nearly_equal_where_classes_are_not():
    for seed in SEEDS:
        divided = divide("shard", UNEQUAL, clients=40, seed=seed, classes_per_client=1)
        sizes = [len(client.train) for client in divided]
        # 1,230 examples in 40 shards are 31 each; a shard has one class, and the smallest has 7.
        assert max(sizes) <= 35
        assert sorted(sizes)[:2] == [7, 23]


def test_a_class_goes_to_any_client():
    """The clients of a class depend on the seed, and every client may get every class."""
    held = sum(
        label_counts(divide("shard", seed=seed, classes_per_client=2), TRAIN, CLASSES) > 0
        for seed in range(60)
    )
    # In 60 draws, a client holds a given class 12 times on average.
    assert held.min() >= 2
    assert held.max() <= 26


# Dirichlet.


@pytest.mark.parametrize("beta", [1e-6, 1e-3, 0.01, 0.1])
def test_no_client_is_empty(beta):
    for seed in range(20):
        sizes = [
            len(client.train) for client in divide("dirichlet", clients=60, seed=seed, beta=beta)
        ]
        assert min(sizes) >= 1


def test_as_many_clients_as_examples():
    for kind, options in (("dirichlet", {"beta": 0.01}), ("shard", {"classes_per_client": 1})):
        sizes = [len(client.train) for client in divide(kind, clients=len(TRAIN), **options)]
        assert sizes == [1] * len(TRAIN)


def test_beta_decides_how_alike_clients_are():
    spread = []
    for beta in (0.01, 0.1, 1.0, 100.0):
        divided = [divide("dirichlet", clients=10, seed=seed, beta=beta) for seed in SEEDS]
        counts = np.array([label_counts(clients, TRAIN, CLASSES) for clients in divided])
        spread.append(counts.std())
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > 15
    assert spread[-1] < 2


def test_shares_are_those_of_a_dirichlet_distribution():
    """For n clients, a share has mean 1/n and variance (n - 1) / (n^2 (n beta + 1))."""
    labels, clients, beta = np.zeros(2000, np.int64), 4, 0.5
    divided = [
        divide("dirichlet", labels, clients=clients, seed=seed, beta=beta) for seed in range(400)
    ]
    shares = np.array([[len(client.train) / 2000 for client in one] for one in divided])
    np.testing.assert_allclose(shares.mean(axis=0), 1 / clients, atol=0.04)
    variance = (clients - 1) / (clients**2 * (clients * beta + 1))
    np.testing.assert_allclose(shares.var(axis=0), variance, rtol=0.25)


# Test sets.


def test_test_sets_are_smaller_where_a_class_is_rare():
    train, test = np.repeat([0, 1], 50), np.repeat([0, 1], (100, 5))
    (client,) = divide("iid", train, test, clients=1)
    assert np.bincount(test[client.test]).tolist() == [5, 5]


def test_a_class_that_no_test_example_has_is_left_out():
    train, test = np.repeat([0, 1, 2], 50), np.repeat([0, 1], 20)
    (client,) = divide("iid", train, test, clients=1, test_examples=10)
    assert np.bincount(test[client.test]).tolist() == [5, 5]
    # A client that holds only such a class has no test examples.
    clients = divide("shard", train, test, clients=3, classes_per_client=1)
    assert [len(client.test) > 0 for client in clients] == [train[c.train[0]] < 2 for c in clients]


def test_classes_that_only_the_test_split_has():
    (client,) = divide("iid", np.array([0, 1]), np.array([0, 1, 7]), clients=1)
    assert client.test.tolist() == [0, 1]


# Neighbours and amounts.


def test_contiguous_clients_have_neighbours_at_the_same_place_of_both_splits():
    clients = divide("contiguous", clients=6)
    assert np.concatenate([client.train for client in clients]).tolist() == list(range(len(TRAIN)))
    assert np.concatenate([client.test for client in clients]).tolist() == list(range(len(TEST)))
    assert len({len(client.train) for client in clients}) == 1
    uneven = divide("contiguous", clients=6, quantity=1.0)
    assert np.concatenate([client.train for client in uneven]).tolist() == list(range(len(TRAIN)))
    shares = [
        [len(getattr(client, part)) / len(labels) for client in uneven]
        for part, labels in (("train", TRAIN), ("test", TEST))
    ]
    np.testing.assert_allclose(*shares, atol=1 / len(TEST))


def test_a_quantity_makes_amounts_uneven():
    options = {"shard": {"classes_per_client": 3}, "dirichlet": {"beta": 10.0}}
    for kind in ("iid", "shard", "dirichlet", "contiguous"):
        even, uneven, more = (
            divide(kind, clients=20, quantity=quantity, **options.get(kind, {}))
            for quantity in (0.0, 0.5, 3.0)
        )
        sizes = [np.log([len(c.train) for c in clients]) for clients in (even, uneven, more)]
        assert np.std(sizes[0]) < np.std(sizes[1])
        assert np.isfinite(sizes[2]).all()
        used = np.concatenate([client.train for client in more])
        assert len(set(used.tolist())) == len(used)
        if kind in ("iid", "contiguous"):
            assert len(used) == len(TRAIN)
            assert np.std(sizes[1]) < np.std(sizes[2])
        else:
            # No client loses a class.
            for ours, theirs in zip(even, more, strict=True):
                assert set(TRAIN[ours.train]) == set(TRAIN[theirs.train])
                assert set(theirs.train) <= set(ours.train)


# Counts and refusals.


def test_label_counts():
    clients = [ClientIndices(np.array(train), np.array([0])) for train in ([0, 3], [1, 2, 4])]
    counts = label_counts(clients, np.array([0, 1, 1, 2, 2]), 4)
    assert counts.tolist() == [[1, 0, 1, 0], [0, 2, 1, 0]]
    with pytest.raises(ValueError, match="Expected labels below 2, received 2"):
        label_counts(clients, np.array([0, 1, 1, 2, 2]), 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"kind": "random"},
            "partition to be one of iid, shard, dirichlet, contiguous, received 'random'",
        ),
        ({"clients": 0}, "clients to be a whole number from 1, received 0"),
        ({"clients": 2.0}, "clients to be a whole number"),
        ({"clients": 601}, "at most 600 clients"),
        ({"seed": -1}, "seed to be a whole number from 0"),
        ({"seed": None}, "seed to be a whole number"),
        ({"test_examples": 0}, "test_examples to be a whole number from 1"),
        ({"kind": "shard"}, "classes_per_client of a shard partition .* received None"),
        ({"kind": "shard", "classes_per_client": 0}, "whole number from 1, received 0"),
        ({"kind": "shard", "clients": 3, "classes_per_client": 3}, "from 10 .* received 3 x 3"),
        ({"kind": "shard", "clients": 61, "classes_per_client": 10}, "to 600 .* received 61 x 10"),
        ({"kind": "dirichlet"}, "of at least 1e-06 .* received None"),
        ({"kind": "dirichlet", "beta": 0}, "of at least 1e-06 .* received 0"),
        ({"kind": "dirichlet", "beta": -1.0}, "of at least 1e-06 .* received -1"),
        ({"kind": "dirichlet", "beta": float("nan")}, "of at least 1e-06 .* received nan"),
        ({"kind": "dirichlet", "beta": float("inf")}, "of at least 1e-06 .* received inf"),
        ({"kind": "dirichlet", "beta": 1e-300}, "of at least 1e-06 .* received 1e-300"),
        ({"quantity": -1}, "quantity to be a finite number of at least 0"),
        (
            {"quantity": 11},
            "quantity to be a finite number of at least 0 and of at most 10, received 11",
        ),
        ({"train": TRAIN.astype(float)}, "training labels .* float64"),
        ({"train": TRAIN[:, np.newaxis]}, r"training labels .* \(600, 1\)"),
        ({"train": TRAIN - 1}, "whole numbers from 0"),
        ({"test": TEST[:0]}, r"test labels .* \(0,\)"),
    ],
)
def test_impossible_partitions_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        divide(**arguments)


# The program.


def run(*arguments):
    data.main(["fedsup data", *arguments])


def test_program_prints_a_table_and_draws_a_picture(capsys, tmp_path):
    picture = tmp_path / "clients.png"
    run("--clients=7", "--partition=dirichlet", "--beta=0.5", f"--plot={picture}")
    printed = capsys.readouterr().out
    sizes = DataSettings(partition="dirichlet", clients=7, beta=0.5).load().train_sizes
    assert f"{min(sizes):>8,}{np.median(sizes):>8g}{max(sizes):>8,}\n" in printed
    assert "1,438 / 359" in printed
    assert "dirichlet partition, beta 0.5, seed 0" in printed
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [path.name for path in tmp_path.iterdir()] == ["clients.png"]


@pytest.mark.slow
@pytest.mark.parametrize(("clients", "classes"), [(1, 1), (3, 10), (60, 12), (700, 2)])
def test_pictures_of_all_sizes(clients, classes, tmp_path):
    counts = np.zeros((clients, classes), np.int64)
    counts[:, 0] = 1
    counts[0] = 5000
    figure = data.plot_partition(counts, [f"class {i}" for i in range(classes)], "title")
    data.save_png(figure, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_a_picture_that_cannot_be_written_leaves_the_old(tmp_path, monkeypatch):
    picture = tmp_path / "picture.png"
    picture.write_text("old")
    figure = data.plot_partition(np.ones((2, 2), np.int64), ["a", "b"], "title")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="No space"):
        data.save_png(figure, picture)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("picture.png", "old")
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--clients=5000"], "at most 1438 clients"),
        (["--beta=0.5"], "--beta goes with --partition=dirichlet, received --partition=shard"),
        (["--partition=iid", "--classes_per_client=5"], "goes with --partition=shard"),
        (["--image_shape=4,4,1"], "at least 8 x 8"),
        (["--dataset=cifar10", "--data_dir=/no/such/folder"], "/no/such/folder: expected"),
        (["--plot=/proc/a.png"], "--plot=.*No such file"),
        (["more"], r"Expected flags alone, received \['more'\]"),
    ],
)
def test_program_refuses_in_one_line(arguments, says):
    with pytest.raises((ValueError, OSError), match=says) as error:
        run(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "argument", ["--dataset=mnist", "--image_shape=8,8", "--image_shape=a,b,c", "--partition=no"]
)
def test_unknown_values_of_flags(argument):
    with pytest.raises(flags.IllegalFlagValueError, match=argument.partition("=")[0]):
        run(argument)


def test_a_flag_file_may_hold_what_the_chosen_partition_does_not_use(capsys, tmp_path):
    file = tmp_path / "shard.flags"
    file.write_text("--clients=9\n--partition=shard\n--classes_per_client=2\n", encoding="utf-8")
    run(f"--flagfile={file}", "--partition=dirichlet", "--beta=0.5")
    assert "dirichlet partition, beta 0.5, seed 0" in capsys.readouterr().out
    run("--clients=5", "--flagfile", str(file), "--clients=7", "--classes_per_client=3")
    printed = capsys.readouterr().out
    assert "clients             7" in printed
    assert "3 classes per client" in printed
    # A flag on the command line itself is still a mistake.
    with pytest.raises(ValueError, match="--classes_per_client goes with --partition=shard"):
        run(f"--flagfile={file}", "--partition=iid", "--classes_per_client=3")
