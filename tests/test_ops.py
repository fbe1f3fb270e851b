"""Law 10: values and gradients of ops equal TensorFlow's own."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf import ops

MODES = {"fast": contextlib.nullcontext, "builtin": ops.builtin_operators}
SIZES = [(1, 1, 1), (1, 5, 7), (3, 8, 8), (2, 2, 2), (2, 7, 4), (4, 16, 16)]


def gradients(function, inputs, seed):
    """Values and gradients of a random projection of `function(*inputs)`."""
    inputs = [tf.constant(value) for value in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = function(*inputs)
        projection = np.random.default_rng(seed).normal(size=value.shape).astype(np.float32)
        loss = tf.reduce_sum(value * projection)
    return [value, *tape.gradient(loss, inputs)]


def assert_same(actual, expected):
    for got, want in zip(actual, expected, strict=True):
        assert got.shape == want.shape
        scale = max(np.abs(want).max(), 1e-3)
        np.testing.assert_allclose(got / scale, want / scale, atol=3e-6)


def unknown_shapes(function, static_axes):
    """`function` traced once for inputs of which only the named axes are known."""

    def call(*inputs):
        specs = [
            tf.TensorSpec([n if axis in known else None for axis, n in enumerate(value.shape)])
            for value, known in zip(inputs, static_axes, strict=True)
        ]
        return tf.function(function, input_signature=specs)(*inputs)

    return call


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 3, 5, 7])
@pytest.mark.parametrize("size", SIZES)
def test_depthwise_conv2d_equals_tensorflow(mode, stride, side, size):
    rng = np.random.default_rng(side)
    images = rng.normal(size=(*size, 6)).astype(np.float32)
    kernel = rng.normal(size=(side, side, 6, 1)).astype(np.float32)
    expected = gradients(
        lambda x, w: tf.nn.depthwise_conv2d(x, w, [1, stride, stride, 1], "SAME"),
        (images, kernel),
        0,
    )
    with MODES[mode]():
        function = lambda x, w: ops.depthwise_conv2d(x, w, stride)
        assert_same(gradients(function, (images, kernel), 0), expected)
        if size[1] == size[2] and mode == "fast":
            traced = unknown_shapes(function, ([1, 2], []))
            assert_same(gradients(traced, (images, kernel), 0), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("size", SIZES)
def test_conv2d_equals_tensorflow(mode, stride, side, size):
    rng = np.random.default_rng(side)
    images = rng.normal(size=(*size, 3)).astype(np.float32)
    kernel = rng.normal(size=(side, side, 3, 5)).astype(np.float32)
    expected = gradients(lambda x, w: tf.nn.conv2d(x, w, stride, "SAME"), (images, kernel), 0)
    with MODES[mode]():
        actual = gradients(lambda x, w: ops.conv2d(x, w, stride), (images, kernel), 0)
    assert_same(actual, expected)


@pytest.mark.parametrize("channels", [0, 4])
def test_pointwise_conv2d_equals_tensorflow(channels):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 5, 3, channels)).astype(np.float32)
    kernel = rng.normal(size=(1, 1, channels, 6)).astype(np.float32)
    actual = gradients(ops.pointwise_conv2d, (images, kernel), 0)
    if channels:
        assert_same(
            actual, gradients(lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), (images, kernel), 0)
        )
    else:
        np.testing.assert_array_equal(actual[0], np.zeros((2, 5, 3, 6)))


@pytest.mark.parametrize("mode", MODES)
def test_relu6_equals_tensorflow_at_its_corners_too(mode):
    values = np.array([-7.0, -0.0, 0.0, 1e-20, 3.0, 5.999, 6.0, 6.5], np.float32)
    with MODES[mode]():
        actual = gradients(ops.relu6, (values,), 0)
    expected = gradients(tf.nn.relu6, (values,), 0)
    for got, want in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(got, want)


def plain_normalization(images, alpha, beta, gamma, activate):
    mean_square = tf.reduce_mean((images - alpha) ** 2, [0, 1, 2])
    result = gamma * (images - alpha) / tf.sqrt(mean_square + 1e-5) + beta
    return tf.nn.relu6(result) if activate else result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_parametric_normalization_equals_its_formula(mode, activate, size):
    rng = np.random.default_rng(1)
    images = 2 + 3 * rng.normal(size=(*size, 4)).astype(np.float32)
    vectors = [rng.normal(size=4).astype(np.float32) for _ in range(3)]
    expected = gradients(
        lambda *inputs: plain_normalization(*inputs, activate), (images, *vectors), 0
    )
    with MODES[mode]():
        actual = gradients(
            lambda *inputs: ops.parametric_normalization(*inputs, 1e-5, activate)[0],
            (images, *vectors),
            0,
        )
    for got, want in zip(actual, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("size", SIZES)
def test_parametric_normalization_of_a_dead_channel_is_finite(size):
    images = np.zeros((*size, 3), np.float32)
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    actual = gradients(
        lambda *inputs: ops.parametric_normalization(*inputs, 1e-5, True)[0],
        (images, zeros, zeros, ones),
        0,
    )
    assert all(np.isfinite(value).all() for value in actual)
