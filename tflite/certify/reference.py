"""The net in TensorFlow's own operations and gradients: what an exported model is held against.

It shares with the exporter neither the formulation of an operation nor of a gradient, so that an
error in those cannot be in both. Where a value before ReLU6 lies within rounding of 0 or 6, two
right engines may put it on different sides, and then one passes a gradient that the other stops;
so the sides can be given.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from fedsup_tf.block import under
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.space import GROUP_SIZE
from fedsup_tf.supernet import Supernet, has_weight_decay

Tensors = Mapping[str, tf.Tensor]


class Pass(NamedTuple):
    """What a pass through the net gives.

    Attributes:
      logits: `(batch, classes)`.
      mean_squares: What each parametric normalization found, by the name of its variable.
      before_relu6: `(batch, height, width, channels)` by the name of the normalization.
    """

    logits: tf.Tensor
    mean_squares: dict[str, tf.Tensor]
    before_relu6: dict[str, tf.Tensor]


class Step(NamedTuple):
    """What a step of SGD gives.

    Attributes:
      weights: After the step.
      momenta: After the step.
      loss: Before the step.
      computed: The pass that the step began with.
    """

    weights: dict[str, tf.Tensor]
    momenta: dict[str, tf.Tensor]
    loss: tf.Tensor
    computed: Pass


@tf.autograph.experimental.do_not_convert
def compute(
    subnet: Supernet,
    weights: Tensors,
    images: tf.Tensor,
    frozen: Tensors | None = None,
    sides: Tensors | None = None,
) -> Pass:
    """Computes the net.

    Args:
      subnet: A subnet, as `Supernet.extract` gives it.
      weights: Its weights by name, in float32 or float64.
      images: Normalized images in the same precision.
      frozen: Mean squares by name that are used in place of the batch's.
      sides: By the name of a normalization, 1 where ReLU6 passes a gradient and 0 where it stops
        it; by default as the values are.
    """
    mean_squares, before = {}, {}

    def normalize(norm, name, values):
        vectors = under(name, weights)
        if "alpha" in vectors:
            values = values - vectors["alpha"]
            mean_squares[f"{name}/mean_square"] = tf.reduce_mean(values * values, [0, 1, 2])
            mean_square = (frozen or mean_squares)[f"{name}/mean_square"]
            values = values / tf.sqrt(mean_square + norm.epsilon)
        else:
            values = _normalize_groups(values, norm.epsilon)
        values = values * vectors["gamma"] + vectors["beta"]
        if not norm.activate:
            return values
        before[name] = values
        return tf.nn.relu6(values) if sides is None else _relu6(values, sides[name])

    stem = subnet.stem
    maps = tf.nn.conv2d(images, weights["stem/kernel"], stem.strides, "SAME")
    maps = normalize(subnet.stem_norm, "stem_norm", maps)
    for block in itertools.chain.from_iterable(subnet.blocks):
        own = under(block.name, weights)
        strides = [1, block.strides, block.strides, 1]
        branch = tf.nn.depthwise_conv2d(maps, own["depthwise/kernel"], strides, "SAME")
        branch = normalize(block.depthwise_norm, f"{block.name}/depthwise_norm", branch)
        branch = tf.nn.conv2d(branch, own["pointwise/kernel"], 1, "SAME")
        branch = normalize(block.pointwise_norm, f"{block.name}/pointwise_norm", branch)
        if block.strides == 2:
            maps = tf.nn.avg_pool2d(maps, 2, 2, "SAME")
        if "shortcut/kernel" in own and own["shortcut/kernel"].shape[3]:
            maps = tf.nn.conv2d(maps, own["shortcut/kernel"], 1, "SAME")
        maps = branch + maps
    features = tf.reduce_mean(maps, [1, 2])
    return Pass(features @ weights["head/kernel"] + weights["head/bias"], mean_squares, before)


@tf.autograph.experimental.do_not_convert
def loss_and_gradients(
    subnet: Supernet,
    weights: Tensors,
    images: tf.Tensor,
    labels: tf.Tensor,
    label_smoothing: float,
    sides: Tensors | None = None,
) -> tuple[tf.Tensor, dict[str, tf.Tensor], Pass]:
    """Mean cross-entropy and its gradients, by TensorFlow's automatic differentiation."""
    classes = subnet.space.classes
    targets = tf.one_hot(labels, classes, dtype=images.dtype)
    targets = targets * (1 - label_smoothing) + label_smoothing / classes
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        computed = compute(subnet, weights, images, sides=sides)
        losses = tf.nn.softmax_cross_entropy_with_logits(targets, computed.logits)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
    return loss, gradients, computed


class Reference:
    """A subnet that is trained in TensorFlow, on the uint8 images that the exported model takes."""

    def __init__(self, subnet: Supernet, preprocessing: Preprocessing, training: LocalTraining):
        """Makes the reference of a subnet, as `Supernet.extract` gives it."""
        self.training = training
        self._subnet = subnet
        self._preprocessing = preprocessing
        self._traced_step = tf.function(self._step, autograph=False, reduce_retracing=True)
        self._traced_exact = tf.function(self._exact, autograph=False, reduce_retracing=True)

    def step(self, weights, momenta, images, labels, learning_rate, sides=None) -> Step:
        """One step of SGD as in `local_update`: clip, decay, momentum. `sides` as of `compute`."""
        rate = tf.constant(learning_rate, tf.float32)
        return self._traced_step(
            weights, momenta, tf.constant(images), tf.constant(labels), rate, sides
        )

    def before_relu6(self, weights, images) -> dict[str, tf.Tensor]:
        """The values before each ReLU6, in float64."""
        return self._traced_exact(weights, tf.constant(images))

    def _step(self, weights, momenta, images, labels, learning_rate, sides):
        training = self.training
        images = self._preprocessing.normalize(images)
        loss, gradients, computed = loss_and_gradients(
            self._subnet, weights, images, labels, training.label_smoothing, sides
        )
        moved, kept = {}, {}
        for name, weight in weights.items():
            limit = training.clip_value
            gradient = tf.clip_by_value(gradients[name], -limit, limit)
            if has_weight_decay(name):
                gradient += training.weight_decay * weight
            kept[name] = training.momentum * momenta[name] + gradient
            moved[name] = weight - learning_rate * kept[name]
        return Step(moved, kept, loss, computed)

    def _exact(self, weights, images):
        weights = {name: tf.cast(value, tf.float64) for name, value in weights.items()}
        images = tf.cast(self._preprocessing.normalize(images), tf.float64)
        return compute(self._subnet, weights, images).before_relu6


def passes_gradient(before_relu6: tf.Tensor) -> tf.Tensor:
    """1 where ReLU6 passes a gradient, strictly between 0 and 6; else 0."""
    return tf.cast((before_relu6 > 0) & (before_relu6 < 6), before_relu6.dtype)


@tf.custom_gradient
def _relu6(values, passes):
    return tf.nn.relu6(values), lambda upstream: (upstream * passes, None)


def _normalize_groups(values, epsilon):
    """Group normalization before its scale and shift."""
    _, height, width, channels = values.shape
    grouped = tf.reshape(values, [-1, height, width, channels // GROUP_SIZE, GROUP_SIZE])
    mean, variance = tf.nn.moments(grouped, [1, 2, 4], keepdims=True)
    return tf.reshape((grouped - mean) / tf.sqrt(variance + epsilon), tf.shape(values))
