"""Tests of initializing a supernet with the weights of another: all, a part, or none."""

import dataclasses

import numpy as np
import pytest
from spaces import SPACE

from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.initial_weights import load_initial_weights, take_initial_weights
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet


@pytest.fixture(scope="module")
def source():
    """Returns a supernet without any initial values."""
    supernet = Supernet(SPACE, seed=9)
    rng = np.random.default_rng(0)
    supernet.assign_weights(
        {
            name: rng.normal(size=shape).astype(np.float32)
            for name, shape in supernet.weight_shapes.items()
        }
    )
    return supernet


def test_a_supernet_of_the_same_space_is_taken_whole(source):
    initial = take_initial_weights(SPACE, source)
    expected = source.values_by_name()
    assert list(initial.values) == list(expected)
    assert all(np.array_equal(initial.values[name], expected[name]) for name in expected)
    assert (initial.whole, initial.sliced, initial.new) == (tuple(expected), (), ())
    assert initial.source_hash == fingerprint(expected)


def test_a_narrower_space_begins_with_the_subnet_that_it_is(source):
    """Its largest net computes the same as that subnet of the source."""
    architecture = SPACE.decode([8, 16, 1, 1, 3, 3])
    narrow = SPACE.fixed_architecture(architecture)
    initial = take_initial_weights(narrow, source)
    supernet = Supernet(narrow)
    supernet.assign_weights(initial.values)
    images = np.random.default_rng(1).normal(size=(4, *SPACE.image_shape)).astype(np.float32)
    np.testing.assert_array_equal(supernet(images), source.extract(architecture)(images))
    assert "b_0/pointwise/kernel" in initial.sliced
    assert not initial.new


def test_a_wider_space_holds_the_source_as_its_subnet(source):
    wide = dataclasses.replace(
        SPACE, stages=(Stage("a", (8, 16, 32), (1, 2, 3), (3, 5, 7)), SPACE.stages[1])
    )
    supernet = Supernet(wide)
    supernet.assign_weights(take_initial_weights(wide, source).values)
    architecture = SPACE.largest()
    images = np.random.default_rng(1).normal(size=(4, *SPACE.image_shape)).astype(np.float32)
    np.testing.assert_allclose(
        supernet(images, architecture), source(images, architecture), rtol=1e-5, atol=1e-5
    )


def test_a_tensor_that_the_source_lacks_begins_at_random(source):
    deep = dataclasses.replace(SPACE, stages=(Stage("a", (8, 16), (1, 3), (3, 5)), SPACE.stages[1]))
    initial = take_initial_weights(deep, source, seed=4)
    assert set(initial.new) == {name for name in initial.values if name.startswith("a_2/")}
    expected = Supernet(deep, 4).values_by_name()
    assert all(np.array_equal(initial.values[name], expected[name]) for name in initial.new)


@pytest.mark.parametrize(
    ("changes", "new"),
    [
        ({"classes": 5}, {"head/kernel", "head/bias"}),
        ({"image_shape": (6, 6, 3)}, {"stem/kernel"}),
        ({"image_shape": (12, 10, 1)}, set()),
    ],
)
def test_what_means_something_else_begins_at_random(source, changes, new):
    space = dataclasses.replace(SPACE, **changes)
    initial = take_initial_weights(space, source)
    assert set(initial.new) == new
    assert len(initial.whole) + len(new) == len(initial.values)


def test_other_classes_of_the_same_number_get_a_new_head(source, tmp_path):
    path = tmp_path / "net.safetensors"
    source.save_checkpoint(path, {"class_names": ["a", "b", "c"]})
    assert not load_initial_weights(path, SPACE, ["a", "b", "c"]).new
    assert not load_initial_weights(path, SPACE).new
    initial = load_initial_weights(path, SPACE, ["a", "b", "d"])
    assert initial.new == ("head/kernel", "head/bias")
    assert "2 left new (head/kernel, head/bias)" in str(initial)


@pytest.mark.parametrize(
    ("space", "told"),
    [
        (dataclasses.replace(SPACE, normalization="group"), "with group normalization"),
        (SearchSpace("other", (6, 6, 1), 3, 8, 1, (Stage("x", (8,), (1,), (3,)),)), "stages x"),
    ],
)
def test_a_supernet_of_another_kind_is_refused_by_name(source, tmp_path, space, told):
    path = tmp_path / "net.safetensors"
    source.save_checkpoint(path)
    with pytest.raises(ValueError, match=told) as raised:
        load_initial_weights(path, space)
    assert str(path) in str(raised.value)
