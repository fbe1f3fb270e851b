"""Tests that files of the first release stay readable; `data/first_release` has samples.

The samples are a checkpoint of the smallest subnet of `digits_small`; the supernet of a run of one
round with two tiers; and, of that supernet's smallest subnet, a `.tflite`, an update, and the
checkpoint of a device that trained for two epochs. `expected.json` has the values that the first
release read from them.
"""

import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.presets import digits_small
from fedsup_tf.supernet import Supernet
from tff_programs.programs.checkpoint import load_trained
from tflite.device.trainer import DeviceTrainer
from tflite.format.metadata import read_metadata
from tflite.format.update_file import read_update
from tflite.merge.received_updates import subnet_shapes

FOLDER = Path(__file__).parents[1] / "data" / "first_release"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
# The run's search space has two widths and two kernels; these are the smaller ones.
SMALLEST = Architecture((8,), (1,), (3,))
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 17, (6, 8, 8, 1)).astype(np.uint8)
LABELS = np.arange(6)


@pytest.fixture(scope="module")
def run_supernet():
    return Supernet.load_checkpoint(FOLDER / "run_supernet.safetensors")[0]


def test_a_checkpoint_loads_with_its_weights_and_information():
    space = digits_small().fixed_architecture(digits_small().smallest())
    supernet, information = Supernet.load_checkpoint(FOLDER / "checkpoint.safetensors", space)
    assert information == {"round": 7, "names": ["a"]}
    assert fingerprint(supernet.values_by_name()) == EXPECTED["checkpoint"]
    assert supernet.architecture == digits_small().smallest()


def test_the_supernet_of_a_run_folder_loads_with_its_data():
    trained = load_trained(FOLDER / "run_supernet.safetensors")
    assert fingerprint(trained.weights) == EXPECTED["run"]
    assert trained.information["round"] == 1
    tiers = {name: Architecture.from_json(text) for name, text in trained.information["tiers"]}
    assert tiers == {"smallest": SMALLEST, "largest": Architecture((16,), (1,), (5,))}
    assert len(trained.data) == 6
    assert trained.data.name == "digits"
    assert trained.preprocessing.mean == (4.8834,)


def test_a_tflite_opens_infers_and_trains():
    metadata = read_metadata(FOLDER / "smallest.tflite")
    assert (metadata.architecture, metadata.round) == (SMALLEST, 1)
    assert metadata.supernet_hash == EXPECTED["run"]
    trainer = DeviceTrainer(FOLDER / "smallest.tflite")
    np.testing.assert_allclose(trainer.infer(IMAGES[:2]), EXPECTED["logits"], atol=1e-5)
    assert trainer.evaluate(IMAGES, LABELS) == pytest.approx(EXPECTED["evaluate"], abs=1e-5)
    reports = trainer.fit(IMAGES, LABELS, epochs=2, learning_rate=0.05, seed=1)
    assert [report.loss for report in reports] == pytest.approx(EXPECTED["losses"], abs=1e-4)


def test_a_devices_checkpoint_goes_on_where_it_stood():
    trainer = DeviceTrainer(FOLDER / "smallest.tflite")
    notes = trainer.load_checkpoint(FOLDER / "device_checkpoint.safetensors")
    assert notes == {"learning_rate": 0.05}
    assert [report.loss for report in trainer.history] == EXPECTED["losses"]
    np.testing.assert_allclose(trainer.infer(IMAGES[:2]), EXPECTED["trained_logits"], atol=1e-5)


def test_an_update_is_read(run_supernet):
    shapes = functools.partial(subnet_shapes, run_supernet)
    update = read_update(FOLDER / "update.safetensors", run_supernet.space, shapes)
    assert (update.architecture, update.base_round, update.examples) == (SMALLEST, 1, 6)
    assert (update.base_hash, update.client) == (EXPECTED["run"], "a phone")
    assert update.class_names is None
    assert fingerprint(update.delta) == EXPECTED["update"]
    # The identity depends only on the content, not on the file's other fields.
    content = "\n".join([EXPECTED["run"], SMALLEST.to_json(), EXPECTED["update"]])
    assert update.identity == hashlib.sha256(content.encode()).hexdigest()
    assert update.loss_after < update.loss_before
