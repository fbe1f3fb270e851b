"""Tests of the shapes of a subnet's tensors, with which updates are read."""

import functools

import numpy as np
import pytest
import subnet_shapes as by_rule
from spaces import SPACE

from fedsup_tf.files import checkpoint
from fedsup_tf.presets import PRESETS
from fedsup_tf.supernet import Supernet
from tflite.merge.received_updates import subnet_shapes


@pytest.mark.parametrize("preset", PRESETS)
def test_the_shapes_of_an_architecture_are_those_of_its_extracted_net(preset):
    space, rng = PRESETS[preset](), np.random.default_rng(0)
    supernet = Supernet(space)
    for architecture in (space.smallest(), space.largest(), *(space.sample(rng) for _ in "abcd")):
        expected = Supernet(space.fixed_architecture(architecture)).weight_shapes
        assert subnet_shapes(supernet, architecture) == expected


def test_the_shapes_that_tests_without_tensorflow_use_are_those_of_the_net():
    shapes_of = functools.partial(subnet_shapes, Supernet(SPACE))
    rng = np.random.default_rng(0)
    for architecture in (SPACE.smallest(), SPACE.largest(), *(SPACE.sample(rng) for _ in "abcd")):
        assert by_rule.subnet_shapes(SPACE, architecture) == shapes_of(architecture)


def test_the_fingerprint_of_a_supernet_survives_its_file(tmp_path):
    supernet = Supernet(SPACE, seed=3)
    supernet.save_checkpoint(tmp_path / "supernet.safetensors")
    loaded, _ = Supernet.load_checkpoint(tmp_path / "supernet.safetensors")
    prints = [checkpoint.fingerprint(net.weights_by_name()) for net in (supernet, loaded)]
    assert prints[0] == prints[1]
