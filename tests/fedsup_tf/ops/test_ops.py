"""Law 10 (docs/laws.md): values and gradients of ops equal TensorFlow's own."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
from pairs import all_pairs

from fedsup_tf.ops import builtin_depthwise, normalization, ops

MODES = {"fast": contextlib.nullcontext, "builtin": ops.builtin_operators}
SIZES = [(1, 1, 1), (1, 5, 7), (3, 8, 8), (2, 2, 2), (2, 7, 4), (4, 16, 16)]


def gradients(function, inputs, seed):
    """Returns the value of `function(*inputs)` and gradients of a random projection of it."""
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
    """Returns `function` as a traced function whose inputs have only the given axes static."""

    def call(*inputs):
        specs = [
            tf.TensorSpec([n if axis in known else None for axis, n in enumerate(value.shape)])
            for value, known in zip(inputs, static_axes, strict=True)
        ]
        return tf.function(function, input_signature=specs)(*inputs)

    return call


def depthwise_case(size, side, stride):
    """Returns images and a kernel, and TensorFlow's value and gradients."""
    rng = np.random.default_rng(side)
    images = rng.normal(size=(*size, 6)).astype(np.float32)
    kernel = rng.normal(size=(side, side, 6, 1)).astype(np.float32)
    expected = gradients(
        lambda x, w: tf.nn.depthwise_conv2d(x, w, [1, stride, stride, 1], "SAME"),
        (images, kernel),
        0,
    )
    return (images, kernel), expected


@pytest.mark.parametrize(
    ("size", "side", "stride", "mode"), all_pairs(SIZES, (1, 3, 5, 7), (1, 2), tuple(MODES))
)
def test_depthwise_conv2d_equals_tensorflow(size, side, stride, mode):
    inputs, expected = depthwise_case(size, side, stride)
    with MODES[mode]():
        actual = gradients(lambda x, w: ops.depthwise_conv2d(x, w, stride), inputs, 0)
    assert_same(actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "side", "stride"),
    all_pairs([size for size in SIZES if size[1] == size[2]], (1, 3, 5, 7), (1, 2)),
)
def test_depthwise_conv2d_of_unknown_shapes_equals_tensorflow(size, side, stride):
    inputs, expected = depthwise_case(size, side, stride)
    traced = unknown_shapes(lambda x, w: ops.depthwise_conv2d(x, w, stride), ([1, 2], []))
    assert_same(gradients(traced, inputs, 0), expected)


@pytest.mark.parametrize(
    ("size", "side", "stride", "mode"), all_pairs(SIZES, (1, 3, 5), (1, 2), tuple(MODES))
)
def test_conv2d_equals_tensorflow(size, side, stride, mode):
    rng = np.random.default_rng(side)
    images = rng.normal(size=(*size, 3)).astype(np.float32)
    kernel = rng.normal(size=(side, side, 3, 5)).astype(np.float32)
    expected = gradients(lambda x, w: tf.nn.conv2d(x, w, stride, "SAME"), (images, kernel), 0)
    with MODES[mode]():
        actual = gradients(lambda x, w: ops.conv2d(x, w, stride), (images, kernel), 0)
    assert_same(actual, expected)


@pytest.mark.parametrize(
    ("mode", "channels"), [("fast", 0), ("fast", 4), ("builtin", 4), ("builtin", 9)]
)
def test_pointwise_conv2d_equals_tensorflow(mode, channels):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 5, 3, channels)).astype(np.float32)
    kernel = rng.normal(size=(1, 1, channels, 6)).astype(np.float32)
    with MODES[mode]():
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


@pytest.mark.parametrize(
    ("size", "activate", "mode"), all_pairs(SIZES, (False, True), tuple(MODES))
)
def test_parametric_normalization_equals_its_formula(size, activate, mode):
    rng = np.random.default_rng(1)
    images = 2 + 3 * rng.normal(size=(*size, 4)).astype(np.float32)
    vectors = [rng.normal(size=4).astype(np.float32) for _ in range(3)]
    expected = gradients(
        lambda *inputs: plain_normalization(*inputs, activate), (images, *vectors), 0
    )
    with MODES[mode]():
        actual = gradients(
            lambda *inputs: normalization.parametric_normalization(*inputs, 1e-5, activate)[0],
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
        lambda *inputs: normalization.parametric_normalization(*inputs, 1e-5, True)[0],
        (images, zeros, zeros, ones),
        0,
    )
    assert all(np.isfinite(value).all() for value in actual)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_average_pool_equals_tensorflow(mode, size):
    images = np.random.default_rng(2).normal(size=(*size, 3)).astype(np.float32)
    expected = gradients(lambda x: tf.nn.avg_pool2d(x, 2, 2, "SAME"), (images,), 0)
    with MODES[mode]():
        assert_same(gradients(ops.average_pool, (images,), 0), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 9, 4), (6, 2, 9), (5, 9, 2)])
def test_matmul_equals_tensorflow(mode, sizes):
    rows, inner, columns = sizes
    rng = np.random.default_rng(3)
    inputs = [
        rng.normal(size=shape).astype(np.float32) for shape in ((rows, inner), (inner, columns))
    ]
    expected = gradients(tf.matmul, inputs, 0)
    with MODES[mode]():
        assert_same(gradients(ops.matmul, inputs, 0), expected)
        if mode == "builtin":
            traced = unknown_shapes(ops.matmul, ([1], [0, 1]))
            assert_same(gradients(traced, inputs, 0), expected)


# Weights of images in a normalization.

WEIGHTS = np.array([3, 0, 1, 2], np.float32)


def weighted_normalization(images, weights, activate):
    """Returns values, and gradients of a loss with the normalization's weights of images."""
    rng = np.random.default_rng(1)
    vectors = [rng.normal(size=4).astype(np.float32) for _ in range(3)]

    def function(*inputs):
        result, mean_square = normalization.parametric_normalization(
            *inputs, 1e-5, activate, sample_weights=tf.constant(weights)
        )
        found.append(mean_square)
        return result * tf.reshape(weights, [-1, 1, 1, 1])

    found = []
    values = [value.numpy() for value in gradients(function, (images, *vectors), 0)]
    return [*values, found[0].numpy()], vectors


def random_images(size=(4, 3, 5, 4), seed=4):
    return 2 + 3 * np.random.default_rng(seed).normal(size=size).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activate", [False, True])
def test_weighted_normalization_equals_its_formula(mode, activate):
    images, weights = random_images(), np.array([0.3, 0.0, 1.7, 0.9], np.float32)

    def plain(images, alpha, beta, gamma):
        shares = tf.reshape(weights / weights.sum(), [-1, 1, 1, 1])
        squares = tf.reduce_sum(shares * (images - alpha) ** 2, [0, 1, 2]) / 15
        result = gamma * (images - alpha) / tf.sqrt(squares + 1e-5) + beta
        result = tf.nn.relu6(result) if activate else result
        return result * tf.reshape(weights, [-1, 1, 1, 1])

    with MODES[mode]():
        actual, vectors = weighted_normalization(images, weights, activate)
    expected = gradients(plain, (images, *vectors), 0)
    for got, want in zip(actual[:-1], expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("mode", MODES)
def test_images_of_weight_zero_change_nothing(mode):
    images = random_images()
    noise = images.copy()
    noise[1] = 255 * random_images(seed=5)[1]
    with MODES[mode]():
        first, _ = weighted_normalization(images, WEIGHTS, True)
        second, _ = weighted_normalization(noise, WEIGHTS, True)
    for got, want in zip(second, first, strict=True):
        np.testing.assert_array_equal(got, want)
    assert not first[1][1].any()  # Nor do they get a gradient.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1.0, 0.25, 1e-6])
def test_a_weight_is_a_number_of_repetitions(mode, scale):
    images, repeats = random_images(), WEIGHTS.astype(int)
    with MODES[mode]():
        actual, vectors = weighted_normalization(images, WEIGHTS * np.float32(scale), False)
    found = []

    def repeated(images, *vectors):
        result, mean_square = normalization.parametric_normalization(
            tf.repeat(images, repeats, 0), *vectors, 1e-5
        )
        found.append(mean_square)
        # Sums over each image's repetitions, as the weights do.
        return tf.math.segment_sum(result, np.repeat(np.arange(4), repeats))

    expected = [*gradients(repeated, (images, *vectors), 0), found[0]]
    for number, (got, want) in enumerate(zip(actual, expected, strict=True)):
        is_mean_square = number == len(expected) - 1
        got = got if is_mean_square else got / np.float32(scale)
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("mode", MODES)
def test_normalization_of_images_that_all_weigh_nothing_is_finite(mode):
    with MODES[mode]():
        actual, _ = weighted_normalization(random_images(), np.zeros(4, np.float32), True)
    assert all(np.isfinite(value).all() for value in actual)
    assert not actual[-1].any()


# Formulations of a depthwise convolution, of which the fastest in the runtime is chosen.


@pytest.mark.parametrize(
    ("size", "side", "stride"),
    all_pairs([(2, 14, 5), (3, 13, 4), (2, 28, 6), (1, 3, 3)], (3, 5, 7), (1, 2)),
)
def test_each_formulation_of_depthwise_conv2d_equals_tensorflow(size, side, stride):
    inputs, expected = depthwise_case(size, side, stride)
    positions = [builtin_depthwise.KernelPositions(length, side, stride) for length in size[1:]]
    by_pairs = lambda x, w: builtin_depthwise.pair_products(x, w, *positions)
    assert_same(gradients(by_pairs, inputs, 0), expected)
    divisors = [n for n in range(1, positions[0].outputs + 1) if positions[0].outputs % n == 0]
    assert len(divisors) > 1
    for blocks in divisors:
        in_blocks = lambda x, w, n=blocks: builtin_depthwise.block_products(x, w, *positions, n)
        assert_same(gradients(in_blocks, inputs, 0), expected)


def test_the_formulation_fits_the_map(monkeypatch):
    chosen = []
    monkeypatch.setattr(builtin_depthwise, "pair_products", lambda *_: chosen.append("pairs"))
    monkeypatch.setattr(builtin_depthwise, "block_products", lambda *rest: chosen.append(rest[4]))
    sides = ((2, 512), (4, 256), (8, 128), (16, 32), (64, 32), (67, 32))
    for side, channels in sides:
        images, kernel = tf.zeros((32, side, side, channels)), tf.zeros((5, 5, channels, 1))
        builtin_depthwise.depthwise_conv2d(images, kernel, 1)
    assert chosen[:4] == ["pairs", 1, 4, 8]
    # A matrix of all pixels by all pixels of such a feature map would not fit in memory.
    assert chosen[4] >= 16
    assert chosen[5] == 67
