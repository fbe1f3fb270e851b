"""Tests that the sample models of the tests of `tflite.device` equal a current export.

Those tests also run without TensorFlow, so that they cannot export a model themselves.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files import checkpoint
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet
from tflite.device.model import DeviceModel
from tflite.export.export import BatchSizes, Origin, export_tflite
from tflite.flatbuffer.flatbuffer import count_operators
from tflite.format.metadata import split_model

SAMPLES = Path(__file__).parents[2] / "data" / "device"
SPACE = SearchSpace(
    name="tiny",
    image_shape=(8, 8, 1),
    classes=4,
    stem_width=8,
    stem_stride=1,
    stages=(Stage("a", (8,), (1,), (3,), 2),),
)

pytestmark = pytest.mark.slow


def export_tiny(path):
    """Exports a net with one block of 8 channels, which can also train only its head."""
    supernet = Supernet(SPACE, seed=1)
    subnet = supernet.extract(SPACE.smallest())
    names = [name for name in subnet.weight_shapes if name.endswith("/gamma")]
    mean_squares = {
        name.replace("gamma", "mean_square"): np.ones(subnet.weight_shapes[name], np.float32)
        for name in names
    }
    export_tflite(
        path,
        subnet,
        mean_squares,
        Preprocessing((100.0,), (60.0,)),
        LocalTraining(batch_size=8),
        Origin(SPACE, checkpoint.fingerprint(supernet.weights_by_name()), 7, tuple("abcd")),
        BatchSizes(8, 5, 3),
        with_train_head=True,
    )


def convert_foreign():
    """Converts a model that is foreign to this project: it adds 1 to two numbers."""
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x + 1.0}, input_signature=[tf.TensorSpec([2])])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.f.get_concrete_function()], module
    )
    return converter.convert()


def test_the_sample_is_the_export_of_its_net(tmp_path):
    export_tiny(tmp_path / "tiny.tflite")
    (model, metadata), (sample, told) = map(
        split_model, (tmp_path / "tiny.tflite", SAMPLES / "tiny.tflite")
    )
    # Later versions may add options that older files do without.
    added = {}
    for field in ("training", "preprocessing"):
        assert getattr(told, field).items() <= getattr(metadata, field).items()
        added[field] = getattr(metadata, field)
    assert dataclasses.replace(told, **added) == metadata
    assert count_operators(sample) == count_operators(model)
    states = [
        DeviceModel(path, trusted=True).state()
        for path in (tmp_path / "tiny.tflite", SAMPLES / "tiny.tflite")
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        np.testing.assert_array_equal(states[1][name], value)


def test_the_foreign_sample_has_no_metadata_and_computes():
    sample = (SAMPLES / "foreign.tflite").read_bytes()
    assert count_operators(sample) == count_operators(convert_foreign())
    with pytest.raises(ValueError, match="behind the model"):
        split_model(SAMPLES / "foreign.tflite")
