"""Tests of packing tensors into shared variables of a `.tflite`."""

import numpy as np
import pytest
import tensorflow as tf

from tflite.export.packing import HEAD_KERNEL, pack, packing, unpack

SHAPES = {
    "stem/kernel": (3, 3, 1, 8),
    "norm/beta": (8,),
    "norm/alpha": (8,),
    "norm/mean_square": (8,),
    "a/kernel": (1, 1, 8, 16),
    "wide/kernel": (1, 1, 64, 129),
    HEAD_KERNEL: (16, 4),
    "head/bias": (4,),
}
RANDOM = np.random.default_rng(0)
TENSORS = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_small_kernels_vectors_and_mean_squares_share_a_variable_each():
    names = {variable: set(shapes) for variable, shapes in packing(SHAPES).items()}
    assert names == {
        "kernels": {"stem/kernel", "a/kernel"},
        "vectors": {"norm/alpha", "norm/beta", "head/bias"},
        "mean_squares": {"norm/mean_square"},
        "wide/kernel": {"wide/kernel"},
        # Updated separately when only the head is trained.
        HEAD_KERNEL: {HEAD_KERNEL},
    }


def test_frozen_tensors_share_a_variable_that_trained_ones_do_not():
    shapes = {
        "stem/kernel": (3, 3, 1, 8),
        "stem_norm/beta": (8,),
        "stem_norm/mean_square": (8,),
        "mb1_0/pointwise/kernel": (1, 1, 64, 129),
        "mb10_0/pointwise/kernel": (1, 1, 8, 8),
        "head/bias": (4,),
    }
    names = {k: set(part) for k, part in packing(shapes, ("stem", "mb1")).items()}
    assert names == {
        "frozen": {"stem/kernel", "stem_norm/beta"},
        "mb1_0/pointwise/kernel": {"mb1_0/pointwise/kernel"},
        "mean_squares": {"stem_norm/mean_square"},
        "kernels": {"mb10_0/pointwise/kernel"},
        "vectors": {"head/bias"},
    }


def test_the_order_of_the_names_does_not_matter():
    first, second = packing(SHAPES), packing(dict(reversed(SHAPES.items())))
    assert list(first) == list(second)
    for variable, shapes in first.items():
        assert list(shapes.items()) == list(second[variable].items())


@pytest.mark.parametrize("variable", packing(SHAPES))
def test_unpacking_gives_back_what_was_packed(variable):
    shapes = packing(SHAPES)[variable]
    value = pack(TENSORS, shapes)
    assert value.dtype == tf.float32
    found = unpack(value, shapes)
    assert found.keys() == shapes.keys()
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, TENSORS[name])


def test_one_tensor_alone_keeps_its_shape_and_several_lie_behind_each_other():
    variables = packing(SHAPES)
    assert pack(TENSORS, variables["wide/kernel"]).shape == (1, 1, 64, 129)
    assert pack(TENSORS, variables["mean_squares"]).shape == (8,)
    parts = [TENSORS[name].reshape(-1) for name in ("a/kernel", "stem/kernel")]
    np.testing.assert_array_equal(pack(TENSORS, variables["kernels"]), np.concatenate(parts))


def test_a_kernel_has_a_variable_of_its_own_from_some_size_on():
    shapes = {"a/kernel": (1, 1, 64, 128), "b/kernel": (1, 1, 1, 8193)}
    assert set(packing(shapes)) == {"kernels", "b/kernel"}
