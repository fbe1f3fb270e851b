"""Law 8 (docs/laws.md): merging updates equals a TFF round; and updates that are left out."""

import dataclasses
import functools
import json
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from local_updates import update_eagerly
from spaces import SPACE

from fedsup_tf.architecture import Architecture
from fedsup_tf.client_update import ClientUpdate
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet
from tff_programs.learning import training_process
from tff_programs.programs import merge
from tff_programs.simulation.clients import client_element
from tflite.format.update_file import DeviceUpdate, write_update
from tflite.merge.merge import merge_updates
from tflite.merge.merge_report import NothingToMergeError

PREPROCESSING = Preprocessing((128.0,), (64.0,))
TRAINING = LocalTraining(batch_size=8)
RATE = 0.05
MIDDLE = Architecture((16, 16), (2, 1), (5, 3))
# Neither contains the other: one is wider in stage a, the other in stage b.
ACROSS = [Architecture((8, 24), (2, 1), (3, 5)), Architecture((16, 16), (1, 2), (5, 3))]


def make_supernet():
    """Returns a supernet without zero residual branches, so that every tensor is trained."""
    supernet, rng = Supernet(SPACE), np.random.default_rng(1)
    for name, variable in supernet.weights_by_name().items():
        if "gamma" in name:
            variable.assign(rng.uniform(0.5, 1, variable.shape))
    return supernet


def values_of(supernet):
    return {name: value.numpy() for name, value in supernet.weights_by_name().items()}


SUPERNET = make_supernet()
BASE = values_of(SUPERNET)
BASE_HASH = fingerprint(BASE)


def device_data(number, examples):
    rng = np.random.default_rng(number)
    images = rng.integers(0, 256, (examples, 6, 6, 1)).astype(np.uint8)
    return images, rng.integers(0, 3, examples).astype(np.int32), np.array([5, number], np.int32)


def train_on_device(number, architecture, examples=12, **changes):
    """Trains a subnet on the data of the phone with this number; returns its update."""
    subnet = make_supernet().extract(architecture)
    images, labels, seed = device_data(number, examples)
    update = update_eagerly(
        subnet,
        subnet.weights_by_name(),
        architecture,
        images,
        labels,
        seed,
        RATE,
        TRAINING,
        PREPROCESSING,
    )
    fields = dict(
        delta=update.delta,
        architecture=architecture,
        base_hash=BASE_HASH,
        base_round=7,
        examples=examples,
        loss_before=float(update.loss),
        loss_after=float(update.loss),
        client=f"phone {number}",
    )
    return DeviceUpdate(**{**fields, **changes})


@functools.cache
def shapes_of(architecture):
    return Supernet(SPACE.fixed_architecture(architecture)).weight_shapes


def make_update(number, architecture, examples=3, **changes):
    """Returns an update with random values."""
    rng = np.random.default_rng(number)
    fields = dict(
        delta={
            name: rng.normal(size=shape).astype(np.float32)
            for name, shape in shapes_of(architecture).items()
        },
        architecture=architecture,
        base_hash=BASE_HASH,
        base_round=7,
        examples=examples,
        loss_before=1.5,
        loss_after=0.5,
        client=f"phone {number}",
    )
    return DeviceUpdate(**{**fields, **changes})


def merged(updates, **choices):
    SUPERNET.assign_weights(BASE)
    report = merge_updates(SUPERNET, BASE_HASH, updates, **choices)
    return values_of(SUPERNET), report


def federated_round(execution, devices):
    """Returns the weights after a TFF round of `(number, architecture, examples)` devices."""
    learning = training_process.build_fedsup_process(SPACE, TRAINING, PREPROCESSING, RATE)
    state = execution(learning.initialize)
    weights = tff.learning.models.ModelWeights(tuple(BASE.values()), ())
    state = execution(lambda: learning.set_model_weights(state, weights))
    elements = []
    for number, architecture, examples in devices:
        images, labels, seed = device_data(number, examples)
        elements.append(client_element(SPACE, images, labels, architecture, number, seed))
    output = execution(lambda: learning.next(state, elements))
    trained = execution(lambda: learning.get_model_weights(output.state)).trainable
    return dict(zip(BASE, map(np.asarray, trained), strict=True))


def assert_same_bits(actual, expected):
    for name, value in expected.items():
        assert actual[name].tobytes() == value.tobytes(), name


def covered_by(*architectures):
    """Counts, for each entry of the supernet, the nets that contain it."""
    counts = {name: np.zeros(value.shape, int) for name, value in BASE.items()}
    for architecture in architectures:
        for name, part in SUPERNET.slices(architecture).items():
            box = part.indices()
            counts[name][box] += 1
    return counts


# ------------------------------------------------------------------ the arithmetic


def test_one_update_merged_is_its_round_to_the_bit(execution, monkeypatch):
    update = train_on_device(0, MIDDLE, examples=13)

    def send_update(supernet, weights, *_):
        delta = {
            name: tf.reshape(tf.constant(update.delta.get(name, [])), tf.shape(weights[name]))
            for name in supernet.weight_shapes
        }
        return ClientUpdate(delta, tf.constant(13.0), tf.constant(update.loss_before))

    monkeypatch.setattr(training_process, "local_update", send_update)
    expected = federated_round(execution, [(0, MIDDLE, 13)])
    actual, _ = merged([update])
    assert_same_bits(actual, expected)
    changed = [name for name in BASE if (actual[name] != BASE[name]).any()]
    assert set(changed) == set(update.delta)


def test_what_a_device_trains_is_what_a_tff_client_trains(execution):
    devices = [(0, ACROSS[0], 13), (1, ACROSS[1], 9)]
    expected = federated_round(execution, devices)
    actual, _ = merged(train_on_device(*device) for device in devices)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("aggregation", ["coverage", "diluted"])
@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_an_entry_becomes_the_mean_of_those_that_hold_it(aggregation, weighting):
    updates = [
        make_update(n, architecture, examples)
        for n, architecture, examples in [(0, ACROSS[0], 1), (1, ACROSS[1], 5), (2, ACROSS[0], 2)]
    ]
    actual, _ = merged(updates, aggregation=aggregation, weighting=weighting)
    total = {name: np.zeros(value.shape) for name, value in BASE.items()}
    divisor = {name: np.zeros(value.shape) for name, value in BASE.items()}
    for update in updates:
        weight = update.examples if weighting == "examples" else 1
        for name, part in SUPERNET.slices(update.architecture).items():
            if name in update.delta:
                box = part.indices()
                total[name][box] += weight * update.delta[name]
                divisor[name][box] += weight
    counts = covered_by(*ACROSS)
    for name, value in BASE.items():
        if aggregation == "diluted":
            divisor[name][:] = 8 if weighting == "examples" else 3
        expected = value + total[name] / np.maximum(divisor[name], 1)
        np.testing.assert_allclose(actual[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
        untouched = counts[name] == 0
        np.testing.assert_array_equal(actual[name][untouched], value[untouched])


def test_a_long_update_is_cut_to_the_norm_and_a_short_one_is_left():
    long, short = make_update(0, MIDDLE), make_update(1, SPACE.smallest())
    norms = [
        np.sqrt(sum(np.sum(v.astype(np.float64) ** 2) for v in u.delta.values()))
        for u in (long, short)
    ]
    clip = float(np.mean(norms))
    assert norms[1] < clip < norms[0]
    actual, report = merged([long], clip_norm=clip)
    assert report.used[0].norm == pytest.approx(norms[0], rel=1e-6)
    change = [actual[name].astype(np.float64) - BASE[name] for name in BASE]
    assert np.sqrt(sum(np.sum(c**2) for c in change)) == pytest.approx(clip, rel=1e-4)
    assert_same_bits(merged([short], clip_norm=clip)[0], merged([short])[0])


# --------------------------------------------------------------- what is left out


def test_unusable_updates_are_named_and_do_not_stop_the_others(tmp_path):
    good = [make_update(0, ACROSS[0]), make_update(1, ACROSS[1])]
    other_space = SearchSpace(**{**vars(SPACE), "classes": 4})
    foreign = {
        name: np.zeros(shape, np.float32)
        for name, shape in Supernet(other_space.fixed_architecture(MIDDLE)).weight_shapes.items()
    }
    outside = Architecture((8, 40), (1, 1), (3, 3))
    huge = {name: np.full_like(v, 3e38) for name, v in good[0].delta.items()}
    write_update(tmp_path / "good", good[1])
    write_update(tmp_path / "foreign", make_update(2, MIDDLE, delta=foreign))
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:-5])
    updates = [
        make_update(3, MIDDLE, base_hash="f" * 64, base_round=6),
        good[0],
        tmp_path / "foreign",
        tmp_path / "cut",
        make_update(4, MIDDLE, delta=foreign),
        dataclasses.replace(make_update(5, MIDDLE), architecture=outside),
        make_update(6, ACROSS[0], delta=huge),
        tmp_path / "none",
        tmp_path / "good",
    ]
    actual, report = merged(updates)
    assert [update.name for update in report.used] == ["phone 0", str(tmp_path / "good")]
    reasons = dict(report.rejected)
    told = {
        "phone 3": f"{BASE_HASH[:12]}, received one that started from ffffffffffff of round 6",
        str(tmp_path / "foreign"): "of shape (16, 3), received (16, 4)",
        str(tmp_path / "cut"): "cannot be read",
        "phone 4": "of shape",
        "phone 5": "asks for 40",
        "phone 6": "times the",
        str(tmp_path / "none"): "found none",
    }
    assert list(reasons) == list(told)
    for name, text in told.items():
        assert text in reasons[name]
    assert not any(reason.startswith("'") for reason in reasons.values())
    assert_same_bits(actual, merged(good)[0])


def test_a_nested_update_costs_itself_alone(tmp_path):
    good = [make_update(0, ACROSS[0]), make_update(1, ACROSS[1])]
    path = tmp_path / "deep"
    write_update(path, good[0])
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    for depth in (900, 100_000):
        header["__metadata__"]["fedsup-tf"] = "[" * depth + "]" * depth
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
        actual, report = merged([good[0], path, good[1]])
        assert [name for name, _ in report.rejected] == [str(path)]
        assert_same_bits(actual, merged(good)[0])


def test_the_same_delta_under_other_names_counts_once():
    update, other = make_update(0, ACROSS[0]), make_update(1, ACROSS[1], examples=7)
    copies = [dataclasses.replace(update, client=f"copy {n}", examples=n + 9) for n in range(4)]
    actual, report = merged([update, *copies, other])
    assert [name for name, _ in report.duplicates] == [f"copy {n}" for n in range(4)]
    assert_same_bits(actual, merged([update, other])[0])


def test_the_same_update_counts_once(tmp_path):
    update, other = make_update(0, ACROSS[0]), make_update(1, ACROSS[1], examples=7)
    write_update(tmp_path / "again", update)
    actual, report = merged([update, other, tmp_path / "again", update])
    assert [tuple(d) for d in report.duplicates] == [
        (str(tmp_path / "again"), "phone 0"),
        ("phone 0", "phone 0"),
    ]
    assert len(report.used) == 2
    assert not report.rejected
    assert_same_bits(actual, merged([update, other])[0])


def test_an_update_that_is_in_the_supernet_is_refused():
    old, new = make_update(0, ACROSS[0]), make_update(1, ACROSS[1])
    # Also if it started from another supernet, as is the case after it has been merged.
    stale = make_update(2, MIDDLE, base_hash="f" * 64)
    known = {old.identity, stale.identity}
    actual, report = merged([old, stale, new], already_merged=known)
    assert [update.name for update in report.used] == ["phone 1"]
    assert [name for name, _ in report.rejected] == ["phone 0", "phone 2"]
    assert all("already merged" in reason for _, reason in report.rejected)
    assert_same_bits(actual, merged([new])[0])


def test_an_update_of_other_classes_is_left_out(tmp_path):
    names = ("cat", "dog", "cow")
    told = dataclasses.replace(make_update(0, MIDDLE), class_names=names)
    untold = make_update(1, MIDDLE)
    turned = dataclasses.replace(make_update(2, MIDDLE), class_names=("dog", "cat", "cow"))
    fewer = dataclasses.replace(make_update(3, MIDDLE), class_names=names[:2])
    write_update(tmp_path / "turned", turned)
    updates = [told, untold, tmp_path / "turned", fewer]
    _, report = merged(updates, class_names=list(names))
    assert [update.name for update in report.used] == ["phone 0", "phone 1"]
    reasons = [reason for _, reason in report.rejected]
    assert "0 is 'cat', received one of 3, of which 0 is 'dog'" in reasons[0]
    assert "2 is 'cow', received one of 2, of which 2 is None" in reasons[1]
    # If the supernet's classes are unknown, nothing is compared.
    assert len(merged(updates)[1].used) == 4


def test_a_merge_of_nothing_usable_is_an_error_that_changes_nothing(tmp_path):
    supernet = make_supernet()
    stale = [make_update(n, MIDDLE, base_hash="f" * 64) for n in range(8)]
    with pytest.raises(ValueError, match=r"8 that cannot[^\0]*phone 0: Expected[^\0]*3 others"):
        merge_updates(supernet, BASE_HASH, stale)
    with pytest.raises(ValueError, match="received none"):
        merge_updates(supernet, BASE_HASH, [])
    assert_same_bits(values_of(supernet), BASE)


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (dict(aggregation="median"), "coverage, diluted, received 'median'"),
        (dict(weighting="age"), "examples, uniform, received 'age'"),
        (dict(clip_norm=0.0), "clip_norm to be a finite number above 0"),
        (dict(clip_norm=float("nan")), "clip_norm to be a finite number above 0"),
    ],
)
def test_unknown_choices_are_refused(choice, told):
    with pytest.raises(ValueError, match=told):
        merged([make_update(0, MIDDLE)], **choice)


# --------------------------------------------------------------------- the report


def test_the_report_tells_how_far_updates_reach():
    _, report = merged(make_update(n, a) for n, a in enumerate([*ACROSS, ACROSS[0]]))
    counts = covered_by(ACROSS[0], ACROSS[1], ACROSS[0])
    for name, count in counts.items():
        updates, share = report.coverage[name]
        assert updates == count.max(), name
        assert share == pytest.approx(np.count_nonzero(count) / count.size), name
    # The union of two nets that do not contain each other is not a box.
    assert 0 < report.coverage["b_0/pointwise/kernel"].share < 1
    assert report.coverage["b_1/pointwise/kernel"].updates == 1
    fields = json.loads(json.dumps(report.to_fields()))
    assert fields["used"][1]["architecture"]["widths"] == [16, 16]
    assert fields["coverage"]["head/bias"] == {"updates": 3, "share": 1.0}


def test_updates_are_held_one_at_a_time():
    alive = []

    def stream():
        for number in range(5):
            # The merge still holds the last update; earlier ones have been freed.
            assert sum(reference() is not None for reference in alive) <= 1
            update = make_update(number, MIDDLE)
            alive.append(weakref.ref(update))
            yield update
            del update

    _, report = merged(stream())
    assert len(report.used) == 5


# -------------------------------------------------------------------- the program


def run_program(arguments):
    """Runs `fedsup merge` in this process, and prints the error that ends it."""
    try:
        merge.main(["fedsup merge", *arguments])
    except (ValueError, OSError) as error:
        print("ended with", error)


@pytest.mark.slow
def test_the_program_writes_a_new_supernet_and_tells_what_is_in_it(tmp_path, capsys):
    base, new, folder = tmp_path / "base.safetensors", tmp_path / "new.safetensors", tmp_path / "in"
    make_supernet().save_checkpoint(base, {"round": 7, "settings": {"a": 1}})
    before = base.read_bytes()
    updates = [make_update(0, ACROSS[0]), make_update(1, ACROSS[1], examples=9)]
    for number, update in enumerate(updates):
        write_update(folder / f"{number}.safetensors", update)
    (folder / "2.safetensors").write_bytes(b"cut")
    (folder / ".9.part.safetensors").write_bytes(b"being written")
    (tmp_path / "empty").mkdir()
    out = f"--out={new}"
    calls = [
        [str(base), str(folder)],
        [str(base), out],
        [str(base), str(tmp_path / "empty"), out],
        [str(base), str(folder / "0.safetensors"), f"--out={folder / '0.safetensors'}"],
        [str(base), str(folder), str(folder / "1.safetensors"), out, "--aggregation=diluted"],
        [str(new), str(folder), f"--out={tmp_path / 'third.safetensors'}"],
    ]
    told = []
    for arguments in calls:
        run_program(arguments)
        told.append(capsys.readouterr().out)
    assert "Expected --out=FILE" in told[0]
    assert "at least one update or folder" in told[1]
    assert "found none" in told[2]
    assert "expected another file than the input" in told[3]
    assert "ended with" not in told[4]
    assert f"left out: {folder / '2.safetensors'}: " in told[4]
    assert f"counted once: {folder / '1.safetensors'}, the same as" in told[4]
    assert "2 used, 1 left out" in told[4]
    assert "being written" not in "".join(told)
    assert ".9.part" not in "".join(told)
    assert told[5].count("already merged") == 2
    assert "ended with" in told[5]

    assert base.read_bytes() == before
    supernet, information = Supernet.load_checkpoint(new)
    assert_same_bits(values_of(supernet), merged(updates, aggregation="diluted")[0])
    identities = [update.identity for update in updates]
    assert information == {"round": 8, "settings": {"a": 1}, "merged": identities}
    fields = json.loads((tmp_path / "new.merge.json").read_text())
    assert [update["examples"] for update in fields["used"]] == [3, 9]
    assert fields["base"] == {"path": str(base), "hash": BASE_HASH, "round": 7}
    assert fields["supernet"]["hash"] == fingerprint(supernet.weights_by_name())
    assert [update["name"] for update in fields["rejected"]] == [str(folder / "2.safetensors")]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"base.safetensors", "new.safetensors", "new.merge.json", "in", "empty"}


# ------------------------------------------------------------------ updates of older supernets


def test_an_older_supernets_update_counts_by_its_factor():
    older = "1" * 64
    late = make_update(1, MIDDLE, base_hash=older, base_round=5)
    values, report = merged([late], older={older: 0.5})
    full, _ = merged([make_update(1, MIDDLE)])
    for name, value in BASE.items():
        expected = (full[name] - value) / 2
        np.testing.assert_allclose(values[name] - value, expected, 0, 1e-6, err_msg=name)
    assert [update.scale for update in report.used] == [0.5]


def test_factors_of_older_supernets_change_nothing_of_others():
    updates = [make_update(1, MIDDLE), make_update(2, ACROSS[0])]
    assert_same_bits(merged(updates, older={"1" * 64: 0.5})[0], merged(updates)[0])


def test_an_unknown_supernets_update_is_refused_beside_older_ones():
    foreign = make_update(1, MIDDLE, base_hash="2" * 64)
    _, report = merged([foreign, make_update(2, MIDDLE)], older={"1" * 64: 0.5})
    assert ["started from 222222222222" in update.reason for update in report.rejected] == [True]


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.5, float("nan")])
def test_a_factor_that_is_none_is_refused(factor):
    with pytest.raises(ValueError, match=r"the factor of .* above 0 and of at most 1"):
        merged([make_update(1, MIDDLE)], older={"1" * 64: factor})


def test_an_error_of_nothing_usable_tells_of_each_update():
    foreign = make_update(1, MIDDLE, base_hash="2" * 64)
    with pytest.raises(NothingToMergeError) as raised:
        merged([foreign])
    assert [update.name for update in raised.value.rejected] == ["phone 1"]
