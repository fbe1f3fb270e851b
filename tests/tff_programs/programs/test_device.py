"""Tests of training on one person's examples: results, refusals, resuming after a kill."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fedsup_tf.data import datasets
from fedsup_tf.data.data_settings import DataSettings
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.data.own_data import split_by_class
from fedsup_tf.data.partition import partition
from fedsup_tf.files.checkpoint import fingerprint, read_tensors
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet
from tff_programs.programs import personal_examples
from tff_programs.reports import device_report
from tff_programs.reports.device_report import Scores
from tflite.device.trainer import DeviceTrainer, EpochReport
from tflite.export.export import BatchSizes, Origin, export_tflite
from tflite.format.metadata import read_metadata
from tflite.merge.merge import merge_updates

SPACE = SearchSpace(
    name="tiny",
    image_shape=(8, 8, 1),
    classes=10,
    stem_width=8,
    stem_stride=1,
    stages=(Stage("a", (8, 16), (1,), (3,), 2),),
)
# Runs calls of the program in one process; prints their output and the heavy modules loaded.
RUNNER = """
import contextlib, io, json, os, sys
from tff_programs.programs.cli import main
results = []
for arguments in json.loads(sys.argv[1]):
    sys.argv, out = ["fedsup", "device", *arguments], io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as error:
            code = error.code or 0
    results.append([code, out.getvalue()])
heavy = ("tensorflow", "tensorflow_federated", "jax")
print(json.dumps([results, [name for name in heavy if name in sys.modules]]))
"""


def run(*calls):
    """Returns the exit code and the output of each call."""
    result = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps([list(map(str, call)) for call in calls])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    results, heavy = json.loads(result.stdout)
    assert heavy == []  # Phones do not have these modules.
    return results


@pytest.fixture(scope="module")
def supernet():
    return Supernet(SPACE, seed=1)


@pytest.fixture(scope="module")
def net_path(tmp_path_factory, supernet):
    """Returns the path of a `.tflite` of the smaller of two subnets, for handwritten digits."""
    path = tmp_path_factory.mktemp("model") / "tiny.tflite"
    subnet = supernet.extract(SPACE.smallest())
    shapes = {
        name.replace("gamma", "mean_square"): shape
        for name, shape in subnet.weight_shapes.items()
        if name.endswith("/gamma")
    }
    dataset = datasets.load_dataset("digits")
    export_tflite(
        path,
        subnet,
        {name: np.ones(shape, np.float32) for name, shape in shapes.items()},
        dataset.preprocessing,
        LocalTraining(batch_size=16),
        Origin(SPACE, fingerprint(supernet.weights_by_name()), 7, dataset.class_names),
        BatchSizes(16, 32, 1),
    )
    return path


@pytest.fixture(scope="module")
def metadata(net_path):
    return read_metadata(net_path)


# The program.


@pytest.mark.slow
def test_a_client_of_the_digits_learns_and_its_update_can_be_merged(net_path, supernet, tmp_path):
    out = tmp_path / "out"
    options = ("--client=3", "--clients=10", "--learning_rate=0.1", "--epochs=4")
    ((code, told),) = run([net_path, f"--out={out}", *options])
    assert code == 0, told
    dataset = datasets.load_dataset("digits")
    own = partition(
        "shard", dataset.train_labels, dataset.test_labels, 10, 0, classes_per_client=5
    )[3]
    images, labels = dataset.train_images[own.train], dataset.train_labels[own.train]
    test = dataset.test_images[own.test], dataset.test_labels[own.test]
    # The same by hand.
    trainer = DeviceTrainer(net_path)
    before, accuracy_before = trainer.evaluate(images, labels), trainer.evaluate(*test)[1]
    trainer.fit(images, labels, epochs=4, learning_rate=0.1, seed=0)
    trainer.refresh_mean_squares(images, labels, seed=0)
    after, accuracy_after = trainer.evaluate(images, labels), trainer.evaluate(*test)[1]
    assert after[0] < before[0]
    shares = f"{100 * accuracy_before:.1f} % -> {100 * accuracy_after:.1f} %"
    assert f"personal accuracy {shares} on {len(test[1])} test images" in told
    assert [line.split()[1] for line in told.splitlines() if line.startswith("  epoch")] == [
        "1/4",
        "2/4",
        "3/4",
        "4/4",
    ]
    assert "ms a step" in told
    merged = merge_updates(
        supernet, fingerprint(supernet.weights_by_name()), [out / "update.safetensors"]
    )
    (update,) = merged.used
    assert (update.examples, str(update.architecture)) == (len(labels), "8x1k3")
    expected = trainer.update(
        examples=len(labels),
        loss_before=before[0],
        loss_after=after[0],
        client="client 3 of digits",
    )
    assert update.identity == expected.identity
    with Image.open(out / "training.png") as picture:
        assert picture.width > 2 * picture.height > 600


@pytest.mark.slow
def test_a_run_goes_on_where_it_ended(net_path, tmp_path):
    out = tmp_path / "out"
    call = [net_path, f"--out={out}"]
    first, again, more, other = run(
        [*call, "--epochs=2"],
        [*call, "--epochs=2"],
        [*call, "--epochs=3"],
        [*call, "--epochs=3", "--learning_rate=0.5"],
    )
    assert [code for code, _ in (first, again, more)] == [0, 0, 0]
    assert "goes on" not in first[1]
    # Nothing remains to be done: the same result, and no speed, since there were no steps.
    assert "goes on after epoch 2" in again[1]
    assert "epoch 1/2" not in again[1]
    assert "ms a step" not in again[1]
    gain = [line for line in first[1].splitlines() if line.startswith("personal")]
    assert gain
    assert [line for line in again[1].splitlines() if line.startswith("personal")] == gain
    lines = [line for line in more[1].splitlines() if line.startswith("  epoch")]
    assert len(lines) == 1
    assert lines[0].startswith("  epoch 3/3 ")
    assert "a run with other settings: expected learning_rate 0.02, received 0.5" in other[0]


# Kills itself during the third epoch, as a phone's system kills an app.
KILLED = """
import os, sys
from tflite.device import trainer
real, calls = trainer.DeviceTrainer.train_batch, []
def train_batch(self, *arguments, **options):
    calls.append(1)
    if len(calls) == int(os.environ["LAST_STEP"]):
        os.kill(os.getpid(), 9)
    return real(self, *arguments, **options)
trainer.DeviceTrainer.train_batch = train_batch
from tff_programs.programs.cli import main
main()
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_after_its_last_whole_epoch(net_path, tmp_path):
    out = tmp_path / "out"
    call = ["device", str(net_path), f"--out={out}", "--epochs=4"]
    # Client 0 has 69 images: 5 steps per epoch.
    result = subprocess.run(
        [sys.executable, "-c", KILLED, *call],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LAST_STEP": "13"},
    )
    assert result.returncode == -9, result.stderr
    assert "epoch 2/4" in result.stdout
    assert os.listdir(out) == ["checkpoint.safetensors"]
    # For comparison, a run that ended regularly after two epochs.
    calm = [str(net_path), f"--out={tmp_path / 'calm'}"]
    (code, told), *_ = run(call[1:], [*calm, "--epochs=2"], [*calm, "--epochs=4"])
    assert code == 0
    assert "goes on after epoch 2" in told
    epochs = [line.split()[1] for line in told.splitlines() if line.startswith("  epoch")]
    assert epochs == ["3/4", "4/4"]
    updates = [
        read_tensors(tmp_path / folder / "update.safetensors", "update")
        for folder in ("out", "calm")
    ]
    assert updates[0][1] == updates[1][1]
    assert fingerprint(updates[0][0]) == fingerprint(updates[1][0])


@pytest.mark.slow
def test_patience_holds_examples_out(net_path, tmp_path):
    out = tmp_path / "out"
    ((code, told),) = run(
        [net_path, f"--out={out}", "--patience=1", "--epochs=30", "--learning_rate=0.3"]
    )
    assert code == 0, told
    lines = [line for line in told.splitlines() if line.startswith("  epoch")]
    assert 1 < len(lines) < 30
    assert all("held out" in line for line in lines)
    _, metadata = read_tensors(out / "update.safetensors", "update")
    # Some of the 69 images are held out and not trained on.
    assert f"{metadata['examples']} training images, {69 - metadata['examples']} held out" in told
    assert 50 < metadata["examples"] < 60


@pytest.mark.slow
def test_a_training_that_diverges_writes_no_update(net_path, tmp_path):
    ((told, _),) = run([net_path, f"--out={tmp_path / 'out'}", "--learning_rate=1e5", "--epochs=2"])
    assert "The training diverged: expected a loss below that of guessing, 2.30" in told
    assert "No update is written. Give a --learning_rate below 100000" in told
    assert not (tmp_path / "out" / "update.safetensors").exists()


@pytest.mark.slow
def test_bad_calls_are_refused_in_words(net_path, tmp_path):
    out = f"--out={tmp_path / 'out'}"
    (tmp_path / "empty").mkdir()
    wrong = {
        (): "the model's .tflite file",
        (net_path,): "--out=FOLDER",
        (tmp_path / "none.tflite", out): "none.tflite",
        (__file__, out): "Export it again",
        (net_path, out, "--client=20"): "names 0, 1, 2, 3, 4 and 15 more, received 20",
        (net_path, out, "--learning_rate=0"): "expected a finite number above 0, received '0'",
        (net_path, out, "--learning_rate=1e30"): "too large",
        (net_path, out, f"--data={tmp_path}/none"): "received nothing at this path",
        (net_path, out, f"--data={tmp_path}/empty"): "a subfolder of pictures for each class",
        (net_path, out, f"--data={tmp_path}/empty", "--client=2"): "--data is instead of",
        (net_path, out, "--image_shape=9,9,1"): "received (9, 9, 1)",
        (net_path, out, "--patience=1", "--held_out_share=0.001"): "enough examples",
        (net_path, out, "--head_only"): "received a file without it",
        (net_path, out, "--threads=0"): "--threads=0: 0 is not an integer in the range [1, 1024]",
    }
    for (code, _), told in zip(run(*wrong), wrong.values(), strict=True):
        assert isinstance(code, str), told
        assert code.startswith("fedsup device: ")
        assert told in code
    assert not (tmp_path / "out").exists()


# Examples.


def read_examples(path, metadata, test_share, seed):
    settings = DataSettings(path, test_share=test_share, seed=seed)
    return personal_examples.read_examples(personal_examples.for_model(settings, metadata))[0]


def test_a_clients_number_is_not_mistaken_for_another_clients_name():
    def data(*names):
        images, clients = np.zeros((6, 2, 2), np.uint8), np.repeat(names, 2)
        return FederatedDataset.from_arrays(images, np.arange(6) % 2, clients)

    of_names = data("ann", "bob", "7")
    found = [personal_examples.client_number(of_names, name) for name in ("bob", "7", "1")]
    assert found == [2, 0, 1]
    of_numbers = data("1", "2", "10")
    assert personal_examples.client_number(of_numbers, "10") == 2
    for client in ("0", "3"):
        with pytest.raises(ValueError, match=f"one of the names 1, 2, 10, received {client}"):
            personal_examples.client_number(of_numbers, client)


def write_pictures(folder, images_by_class, ending="png"):
    for name, images in images_by_class.items():
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{number}.{ending}")


def test_a_folder_of_pictures_is_read_pixel_by_pixel(tmp_path, metadata):
    random = np.random.default_rng(0)
    images = {name: random.integers(0, 256, (5, 8, 8), np.uint8) for name in ("3", "7")}
    write_pictures(tmp_path / "me", images)
    (tmp_path / "me" / "3" / "notes.txt").write_text("no picture")
    examples = read_examples(str(tmp_path / "me"), metadata, 0.2, 0)
    assert examples.name == "me"
    assert examples.labels.tolist() == [3] * 4 + [7] * 4
    assert examples.test_labels.tolist() == [3, 7]
    together = np.concatenate([examples.images, examples.test_images])
    assert together.dtype == np.uint8
    # The model's pixels are from 0 to 16.
    expected = np.concatenate(list(images.values()))[..., np.newaxis]
    expected = np.rint(expected * (16 / 255)).astype(np.uint8)
    assert sorted(image.tobytes() for image in together) == sorted(map(bytes, expected))


def test_pictures_of_other_sizes_colours_and_positions_are_made_to_fit(tmp_path, metadata):
    # The central square of a wide picture; each pixel is the mean of 2 x 2.
    wide = np.zeros((16, 24), np.uint8)
    wide[:, 4:20] = np.arange(8).repeat(2) * 30
    colour = np.zeros((8, 8, 4), np.uint8)
    colour[...] = (255, 0, 0, 255)
    write_pictures(tmp_path, {"0": [wide, wide], "1": [colour, colour]})
    turned = Image.Exif()
    turned[0x0112] = 6  # Orientation: rotated by 90 degrees.
    for name in ("0", "1"):
        picture = Image.fromarray(np.arange(8, dtype=np.uint8).repeat(8).reshape(8, 8) * 30)
        (tmp_path / "2").mkdir(exist_ok=True)
        picture.save(tmp_path / "2" / f"{name}.jpeg", exif=turned, quality=100)
    examples = read_examples(str(tmp_path), metadata, 0.5, 0)
    rising = np.rint(np.tile(np.arange(8) * 30, (8, 1)) * (16 / 255))
    np.testing.assert_array_equal(examples.images[0, ..., 0], rising)
    assert np.unique(examples.images[1]).tolist() == [round(76 * 16 / 255)]  # Red's brightness.
    np.testing.assert_allclose(examples.images[2, ..., 0], rising[:, ::-1], atol=1)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda folder: (folder / "1").rename(folder / "cat"),
            "of the 10 classes 0, .* received cat",
        ),
        (lambda folder: (folder / "1" / "0.png").unlink(), "class '1', received no file"),
        (
            lambda folder: (folder / "1" / "0.png").write_bytes(b"no picture"),
            "class '1', received 1 file, which cannot be read",
        ),
        (lambda folder: None, "expected examples to train on and examples for the test"),
        (
            lambda folder: write_pictures(folder / "me", {"2": [np.zeros((8, 8), np.uint8)]}),
            "with pictures beside folders of folders",
        ),
        (
            lambda folder: (
                (folder / "1").rename(folder.parent / "1"),
                [
                    write_pictures(folder / who, {"2": [np.zeros((8, 8), np.uint8)] * 3})
                    for who in ("ann", "bob")
                ],
            ),
            "one person.*those of 2 clients. Give --dataset=.* --client=NAME",
        ),
    ],
)
def test_folders_that_do_not_fit_are_refused(tmp_path, metadata, damage, told):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    write_pictures(tmp_path / "me", {"1": [noise]})
    damage(tmp_path / "me")
    with pytest.raises(ValueError, match=told):
        read_examples(str(tmp_path / "me"), metadata, 0.2, 0)


def test_an_npz_is_read_with_its_test_part_or_divided(tmp_path, metadata):
    path = tmp_path / "me.npz"
    images = np.arange(10, dtype=np.uint8).repeat(64).reshape(10, 8, 8, 1)
    labels = np.arange(10) % 2
    np.savez(path, test_labels=labels[:3], labels=labels, images=images, test_images=images[:3])
    examples = read_examples(str(path), metadata, 0.2, 0)
    np.testing.assert_array_equal(examples.images, images)
    np.testing.assert_array_equal(examples.test_labels, labels[:3])
    np.savez(path, images=images, labels=labels)
    examples = read_examples(str(path), metadata, 0.4, 0)
    assert np.bincount(examples.test_labels).tolist() == [2, 2]
    # Each image, identified by its pixels, kept its label and is in one part.
    assert (examples.images[:, 0, 0, 0] % 2).tolist() == examples.labels.tolist()
    both = np.concatenate([examples.images, examples.test_images])[:, 0, 0, 0]
    assert sorted(both.tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (dict(images=np.zeros((3, 8, 8, 1), np.uint8)), r"received \['images'\]"),
        (dict(images=np.zeros((3, 8, 8, 1)), labels=np.zeros(2, int)), r"labels of shape \(3,\)"),
        (dict(images=np.zeros((3, 8, 8, 1)), labels=np.full(3, 0.5)), "received float64"),
        (
            dict(images=np.zeros(3), labels=np.zeros(3, int), test_images=np.zeros(3)),
            "both or none",
        ),
        (dict(images=np.array([{}]), labels=np.zeros(1, int)), "a complete .npz"),
    ],
)
def test_other_npz_files_are_refused(tmp_path, metadata, arrays, told):
    path = tmp_path / "me.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=told) as error:
        read_examples(str(path), metadata, 0.2, 0)
    assert str(path) in str(error.value)


def test_files_that_are_no_npz_are_refused(tmp_path, metadata):
    path = tmp_path / "me.npz"
    np.savez(path, images=np.zeros((3, 8, 8, 1), np.uint8), labels=np.zeros(3, int))
    for content in (path.read_bytes()[:-30], b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a complete \.npz"):
            read_examples(str(path), metadata, 0.2, 0)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="several arrays, received one array"):
        read_examples(str(path), metadata, 0.2, 0)


def test_a_share_is_set_aside_of_each_class():
    labels = np.array([0] * 10 + [4] * 5 + [2])
    kept, aside = split_by_class(labels, 0.2, 3)
    assert np.bincount(labels[aside], minlength=5).tolist() == [2, 0, 0, 0, 1]
    assert sorted([*kept, *aside]) == list(range(16))
    np.testing.assert_array_equal(aside, split_by_class(labels, 0.2, 3)[1])
    others = [split_by_class(labels, 0.2, seed)[1].tolist() for seed in range(10)]
    assert len({tuple(other) for other in others}) > 5
    for share in (0.0, 1.0, -1, float("nan")):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            split_by_class(labels, share, 3)
    for share in (0.01, 0.99):
        with pytest.raises(ValueError, match="enough examples"):
            split_by_class(np.zeros(3, int), share, 3)


# What it shows.


def test_an_epochs_line_has_a_bar_of_its_loss():
    report = EpochReport(3, 0.5, 0.75, 0.1, 5)
    line = device_report.epoch_line(report, 12, 40, 1.0)
    assert line == (
        "  epoch  3/12 | loss 0.500 ##########.......... | accuracy  75.0 % | 400 examples/s"
    )
    # If the loss is worse than before training, the bar is full and no longer.
    assert "#" * 20 + " |" in device_report.epoch_line(report._replace(loss=9.0), 12, 40, 1.0)
    held_out = report._replace(held_out_loss=0.25, held_out_accuracy=1.0)
    assert "| held out 0.250 100.0 % |" in device_report.epoch_line(held_out, 12, 40, 1.0)


def test_speed_is_of_all_steps():
    history = [EpochReport(1, 1.0, 0.5, 0.2, 5), EpochReport(2, 1.0, 0.5, 0.3, 5)]
    assert device_report.speed_line(history, 40) == "50.00 ms a step, 160 examples/s"


def test_the_picture_shows_losses_and_gain(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: figures.append(self))
    monkeypatch.setattr(device_report, "replace_file", lambda path, write: write(path))
    history = [
        EpochReport(1, 0.9, 0.5, 0.1, 5, 0.8, 0.5),
        EpochReport(2, 0.4, 0.5, 0.1, 5, 0.9, 0.5),
    ]
    before, after = Scores(1.2, 1.5, 0.25), Scores(0.3, 0.5, 0.875)
    device_report.draw_training(str(tmp_path / "x.png"), "me", history, before, after)
    losses, accuracy = figures[0].axes
    own, held_out, kept = losses.lines
    assert own.get_xydata().tolist() == [[0, 1.2], [1, 0.9], [2, 0.4]]
    assert held_out.get_xydata().tolist() == [[1, 0.8], [2, 0.9]]
    assert set(kept.get_xdata()) == {1}
    assert [bar.get_height() for bar in accuracy.patches] == [25, 87.5]
    assert [text.get_text() for text in accuracy.texts] == ["25.0 %", "87.5 %"]
