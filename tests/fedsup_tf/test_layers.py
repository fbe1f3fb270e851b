"""Tests of elastic layers: Keras' contract, and slices of layers that compute like layers."""

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf import layers
from fedsup_tf.normalization_layers import GroupNormalization, ParametricNormalization

RNG = np.random.default_rng(0)
# Each layer with the shape it is built for, and a narrower choice of inputs and arguments.
CASES = {
    "conv": (layers.ElasticConv2D(6, 3, 2), (None, 5, 4, 4), 3, dict(filters=2)),
    "pointwise": (layers.ElasticConv2D(6, 1), (None, 5, 4, 4), 3, dict(filters=5)),
    "depthwise": (layers.ElasticDepthwiseConv2D(5, 2), (None, 5, 4, 4), 3, dict(kernel_size=3)),
    "dense": (layers.ElasticDense(3), (None, 4), 2, {}),
    "parametric": (ParametricNormalization(), (None, 5, 4, 4), 3, {}),
    "group": (GroupNormalization(), (None, 5, 4, 24), 16, {}),
}
CONFIGS = {
    "conv": (layers.ElasticConv2D, dict(filters=6, kernel_size=3, strides=2)),
    "pointwise": (
        layers.ElasticConv2D,
        dict(filters=6, kernel_size=1, kernel_initializer="ones", trainable=False),
    ),
    "depthwise": (
        layers.ElasticDepthwiseConv2D,
        dict(kernel_size=5, strides=2, kernel_initializer="glorot_normal"),
    ),
    "depthwise_default": (layers.ElasticDepthwiseConv2D, dict(kernel_size=3)),
    "dense": (layers.ElasticDense, dict(units=3, kernel_initializer="zeros")),
    "parametric": (
        ParametricNormalization,
        dict(epsilon=1e-3, activate=True, zero_scale=True),
    ),
    "group": (
        GroupNormalization,
        dict(epsilon=1e-3, activate=True, zero_scale=True),
    ),
}


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def built(name):
    """Returns a case's layer with random weights, and inputs with all channels."""
    layer, shape, _, _ = CASES[name]
    inputs = normal(3, *shape[1:])
    layer(inputs)
    for variable in layer.own_weights().values():
        variable.assign(normal(*variable.shape))
    return layer, inputs


def computed(name, weights, inputs):
    """Computes the output of a case's layer with TensorFlow or NumPy."""
    kernel = weights.get("kernel")
    if name == "conv":
        return tf.nn.conv2d(inputs, kernel, 2, "SAME")
    if name == "pointwise":
        return tf.nn.conv2d(inputs, kernel, 1, "SAME")
    if name == "depthwise":
        return tf.nn.depthwise_conv2d(inputs, kernel, [1, 2, 2, 1], "SAME")
    if name == "dense":
        return inputs @ kernel + weights["bias"]
    if name == "parametric":
        shifted = inputs - weights["alpha"]
        normalized = shifted / np.sqrt((shifted**2).mean((0, 1, 2)) + 1e-5)
        return weights["gamma"] * normalized + weights["beta"]
    result = np.empty_like(inputs)
    for image, first in np.ndindex(len(inputs), inputs.shape[-1] // 8):
        group = inputs[image, :, :, 8 * first : 8 * first + 8]
        normalized = (group - group.mean()) / np.sqrt(group.var() + 1e-5)
        result[image, :, :, 8 * first : 8 * first + 8] = normalized
    return weights["gamma"] * result + weights["beta"]


def cut(name, weights, channels, filters=None, kernel_size=None):
    """Slices the weights of a narrower layer with NumPy."""
    if name in ("conv", "pointwise"):
        return {"kernel": weights["kernel"][:, :, :channels, :filters]}
    if name == "depthwise":
        margin = (5 - kernel_size) // 2
        rows = slice(margin, 5 - margin)
        return {"kernel": weights["kernel"][rows, rows, :channels]}
    if name == "dense":
        return {"kernel": weights["kernel"][:channels], "bias": weights["bias"]}
    return {vector: value[:channels] for vector, value in weights.items()}


def arrays(layer):
    return {name: variable.numpy() for name, variable in layer.own_weights().items()}


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------- Keras' contract


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_makes_the_same_layer(name):
    layer_class, arguments = CONFIGS[name]
    layer = layer_class(**arguments, name="mine")
    config = layer.get_config()
    again = layer_class.from_config(config)
    assert again.get_config() == config
    assert again.name == "mine"
    for argument, value in arguments.items():
        if argument != "kernel_initializer":
            assert getattr(again, argument) == value
    for made in (layer, again):
        made.build((None, 5, 4, 8))
    shapes = {key: tuple(value.shape) for key, value in layer.own_weights().items()}
    assert {key: tuple(value.shape) for key, value in again.own_weights().items()} == shapes


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_survives_keras_own_serialization(name):
    layer_class, arguments = CONFIGS[name]
    layer = layer_class(**arguments)
    serialized = tf.keras.layers.serialize(layer)
    again = tf.keras.layers.deserialize(serialized, {layer_class.__name__: layer_class})
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("name", ["pointwise", "dense"])
def test_the_kernel_initializer_survives_the_config(name):
    layer_class, arguments = CONFIGS[name]
    again = layer_class.from_config(layer_class(**arguments).get_config())
    again.build((None, 5, 4, 8))
    expected = 1 if name == "pointwise" else 0
    np.testing.assert_array_equal(again.kernel, np.full(again.kernel.shape, expected))


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("conv", {"kernel": (3, 3, 4, 6)}),
        ("pointwise", {"kernel": (1, 1, 4, 6)}),
        ("depthwise", {"kernel": (5, 5, 4, 1)}),
        ("dense", {"kernel": (4, 3), "bias": (3,)}),
        ("parametric", {"alpha": (4,), "beta": (4,), "gamma": (4,)}),
        ("group", {"beta": (24,), "gamma": (24,)}),
    ],
)
def test_a_built_layer_has_named_trainable_weights_in_order(name, shapes):
    layer, _ = built(name)
    own = layer.own_weights()
    assert {key: tuple(variable.shape) for key, variable in own.items()} == shapes
    assert [id(variable) for variable in layer.trainable_weights] == [
        id(variable) for variable in own.values()
    ]


@pytest.mark.parametrize("name", ["parametric", "group"])
@pytest.mark.parametrize("zero_scale", [False, True])
def test_a_normalization_starts_without_shift_and_with_its_scale(name, zero_scale):
    layer = CONFIGS[name][0](zero_scale=zero_scale)
    layer.build((None, 5, 4, 8))
    for key, variable in layer.own_weights().items():
        start = 1 if key == "gamma" and not zero_scale else 0
        np.testing.assert_array_equal(variable, np.full(8, start))


def test_a_depthwise_kernel_starts_with_the_variance_of_two_over_its_area():
    layer = layers.ElasticDepthwiseConv2D(5)
    layer.build((None, 8, 8, 4000))
    assert np.std(layer.kernel) == pytest.approx((2 / 25) ** 0.5, rel=0.02)


def test_a_strided_pointwise_convolution_is_an_error():
    with pytest.raises(ValueError, match="1 x 1 convolution takes strides 1, received 2"):
        layers.ElasticConv2D(4, 1, 2)


def test_an_even_depthwise_kernel_is_an_error():
    with pytest.raises(ValueError, match="odd kernel_size, received 4"):
        layers.ElasticDepthwiseConv2D(4)


# -------------------------------------------------------------------- a part and a whole


@pytest.mark.parametrize("name", CASES)
def test_a_whole_layer_computes_with_all_of_its_weights(name):
    layer, inputs = built(name)
    assert_close(layer(inputs), computed(name, arrays(layer), inputs))


@pytest.mark.parametrize("name", CASES)
def test_narrower_arguments_compute_with_a_cut_of_the_weights(name):
    layer, inputs = built(name)
    _, _, channels, arguments = CASES[name]
    inputs = inputs[..., :channels]
    weights = cut(name, arrays(layer), channels, **arguments)
    assert_close(layer(inputs, **arguments), computed(name, weights, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_widths_unknown_to_a_graph_compute_the_same(name):
    layer, inputs = built(name)
    _, shape, channels, arguments = CASES[name]

    @tf.function(
        input_signature=[
            tf.TensorSpec([*shape[:-1], None]),
            {key: tf.TensorSpec([], tf.int32) for key in arguments},
        ]
    )
    def call(inputs, arguments):
        return layer(inputs, **arguments)

    narrow = inputs[..., :channels]
    actual = call(narrow, {key: tf.constant(value) for key, value in arguments.items()})
    assert_close(actual, layer(narrow, **arguments))


@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("name", ["parametric", "group"])
def test_a_normalization_activates_if_asked(name, activate):
    layer = CONFIGS[name][0](activate=activate)
    inputs = 5 * normal(2, 3, 3, 8)
    layer(inputs)
    layer.gamma.assign(np.full(8, 9))
    plain = computed(name, arrays(layer), inputs)
    assert plain.min() < 0
    assert plain.max() > 6
    assert_close(layer(inputs), np.clip(plain, 0, 6) if activate else plain)


# ---------------------------------------------------------------------- normalizations


def test_group_normalization_of_an_image_does_not_depend_on_its_batch():
    layer, inputs = built("group")
    np.testing.assert_allclose(layer(inputs[:1]), layer(inputs)[:1], atol=1e-6)


def test_parametric_normalization_of_an_image_depends_on_its_batch():
    layer, inputs = built("parametric")
    assert np.abs(layer(inputs[:1]) - layer(inputs)[:1]).max() > 1e-2


@pytest.mark.parametrize("name", ["parametric", "group"])
@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((3, 4, 4, 8), np.float32),
        np.zeros((1, 1, 1, 8), np.float32),
        normal(1, 1, 1, 8),
        np.full((2, 3, 3, 8), 1e4, np.float32),
    ],
    ids=["dead", "dead 1 x 1 of one image", "1 x 1 of one image", "large"],
)
def test_a_normalization_and_its_gradients_stay_finite(name, inputs):
    layer = CONFIGS[name][0](activate=True)
    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        result = layer(inputs)
        loss = tf.reduce_sum(result * normal(*result.shape))
    assert np.isfinite(result).all()
    for gradient in tape.gradient(loss, [inputs, *layer.trainable_weights]):
        assert np.isfinite(gradient).all()
