"""End-to-end test: the app trains a subnet on one writer's digits, `fedsup merge` merges it.

The app's own classes run in a JVM on the real engine of its library; only the screen is left out.
"""

import functools
import json
import subprocess
from pathlib import Path

import numpy as np
import programs
import pytest
import tensorflow as tf
from android import BUILD, REASON, compile_app, examples_file

from fedsup_tf import calibration
from fedsup_tf.accuracy import build_accuracy
from fedsup_tf.client_update import local_update
from fedsup_tf.data import datasets
from fedsup_tf.data.partition import partition
from fedsup_tf.files import checkpoint
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.presets import digits_small
from fedsup_tf.supernet import Supernet
from tflite.export.export import BatchSizes, Origin, export_tflite
from tflite.format.update_file import read_update
from tflite.merge.received_updates import subnet_shapes

CLIENTS, WRITER = 20, 3
ROUND = 4


pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


class Story:
    """One supernet, one writer, one phone."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.digits = datasets.load_dataset("digits")
        labels = self.digits.train_labels
        clients = partition(
            "shard", labels, self.digits.test_labels, CLIENTS, seed=0, classes_per_client=5
        )
        self.writer = clients[WRITER]
        others = [client.train for number, client in enumerate(clients) if number != WRITER]
        self.supernet = self.train(np.sort(np.concatenate(others)))
        self.architecture = self.supernet.space.smallest()
        self.base = folder / "supernet.safetensors"
        self.supernet.save_checkpoint(self.base, {"round": ROUND})

    def train(self, examples: np.ndarray) -> Supernet:
        """Trains a supernet on digits for a few epochs, so that an update can still improve it."""
        supernet = Supernet(digits_small(), seed=0)
        update = local_update(
            supernet,
            supernet.weights_by_name(),
            supernet.space.largest(),
            tf.constant(self.digits.train_images[examples]),
            tf.constant(self.digits.train_labels[examples]),
            tf.constant([0, 1]),
            0.1,
            LocalTraining(epochs=3, sandwich=2),
            self.digits.preprocessing,
        )
        weights = supernet.weights_by_name()
        supernet.assign_weights({n: value + update.delta[n] for n, value in weights.items()})
        return supernet

    @functools.cached_property
    def model(self) -> Path:
        """The subnet that the phone receives."""
        subnet = self.supernet.extract(self.architecture)
        sums = calibration.sum_mean_squares(
            subnet,
            subnet.weights_by_name(),
            tf.constant(self.digits.train_images),
            200,
            self.digits.preprocessing,
        )
        count = len(self.digits.train_labels)
        export_tflite(
            self.folder / "subnet.tflite",
            subnet,
            {name: value.numpy() / count for name, value in sums.items()},
            self.digits.preprocessing,
            LocalTraining(batch_size=16),
            Origin(
                self.supernet.space,
                checkpoint.fingerprint(self.supernet.weights_by_name()),
                ROUND,
                self.digits.class_names,
            ),
            BatchSizes(),
        )
        return self.folder / "subnet.tflite"

    @functools.cached_property
    def update(self) -> Path:
        """Returns the update that the app writes after training on the writer's digits."""
        own = self.writer.train
        examples = examples_file(
            self.folder / "examples.bin",
            self.digits.train_images[own],
            self.digits.train_labels[own],
        )
        update = self.folder / "update.safetensors"
        phone = self.folder / "phone"
        phone.mkdir()
        compile_app()
        program = [BUILD, "java", "org.fedsup.demo.Phone"]
        arguments = [phone, self.model, examples, update]
        told = subprocess.run([*program, *arguments], check=True, capture_output=True, text=True)
        print(told.stdout)
        return update

    @functools.cached_property
    def merged(self) -> Supernet:
        """The supernet after the phone's update."""
        out = self.folder / "merged.safetensors"
        programs.run("merge", str(self.base), str(self.update), f"--out={out}", check=True)
        return Supernet.load_checkpoint(out)[0]


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    return Story(tmp_path_factory.mktemp("story"))


def test_python_reads_the_update_that_the_app_wrote(story):
    shapes = functools.partial(subnet_shapes, story.supernet)
    update = read_update(story.update, story.supernet.space, shapes)
    assert update.architecture == story.architecture
    assert update.base_hash == checkpoint.fingerprint(story.supernet.weights_by_name())
    assert update.base_round == ROUND
    assert update.examples == len(story.writer.train)
    assert update.client is None
    assert update.loss_after < 0.7 * update.loss_before
    assert all(np.any(value) for value in update.delta.values())


def test_the_supernet_moves_only_where_the_subnet_lives(story):
    shapes = functools.partial(subnet_shapes, story.supernet)
    update = read_update(story.update, story.supernet.space, shapes)
    slices = story.supernet.slices(story.architecture)
    after = story.merged.weights_by_name()
    untouched = 0
    for name, before in story.supernet.weights_by_name().items():
        expected = before.numpy().copy()
        box = slices[name].indices()
        outside = np.ones(expected.shape, bool)
        outside[box] = False
        untouched += outside.sum()
        if name in update.delta:
            expected[box] += update.delta[name]
        np.testing.assert_array_equal(after[name].numpy()[outside], before.numpy()[outside])
        np.testing.assert_allclose(after[name].numpy(), expected, rtol=0, atol=1e-6)
    assert untouched > 0


def test_the_supernet_reads_the_writers_digits_better(story):
    accuracy = build_accuracy(story.supernet, story.digits.preprocessing)

    def share(supernet, images, labels, indices):
        weights = {name: value.numpy() for name, value in supernet.weights_by_name().items()}
        return accuracy(weights, story.architecture, images[indices], labels[indices], 50)

    digits, writer = story.digits, story.writer
    for indices, images, labels in (
        (writer.train, digits.train_images, digits.train_labels),
        (writer.test, digits.test_images, digits.test_labels),
    ):
        before = share(story.supernet, images, labels, indices)
        after = share(story.merged, images, labels, indices)
        print(f"accuracy on {len(indices)} of the writer's digits: {before:.3f} to {after:.3f}")
        assert after > before


def test_the_merge_tells_of_one_phone(story):
    assert story.merged is not None
    told = json.loads((story.folder / "merged.merge.json").read_text(encoding="utf-8"))
    assert [used["examples"] for used in told["used"]] == [len(story.writer.train)]
    assert told["rejected"] == []
