"""Reference for exported models: the net in TensorFlow's own operations and gradients.

It shares no implementation of an operation or gradient with the exporter, so an error there cannot
be in both. Where the input of a ReLU6 lies within rounding error of 0 or 6, two correct engines may
differ in whether its gradient passes. The gradient masks can therefore be given.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsup_tf.block import select_prefix
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.frozen import is_frozen
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.space import GROUP_SIZE, MEAN_SQUARE
from fedsup_tf.supernet import Supernet, has_weight_decay

Tensors = Mapping[str, tf.Tensor]


class Pass(NamedTuple):
    """Result of a forward pass.

    Attributes:
      logits: `(batch, classes)`.
      mean_squares: Mean squares that the parametric normalizations divide by, by variable name.
      before_relu6: Input of each ReLU6, `(batch, height, width, channels)`, by the name of the
        preceding normalization.
    """

    logits: tf.Tensor
    mean_squares: dict[str, tf.Tensor]
    before_relu6: dict[str, tf.Tensor]


class Step(NamedTuple):
    """Result of one step of SGD.

    Attributes:
      weights: Weights after the step, by name.
      momenta: Momenta after the step, by name.
      loss: Loss before the step.
      computed: Forward pass of the step.
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
    masks: Tensors | None = None,
    frozen: Tensors | None = None,
) -> Pass:
    """Computes a forward pass of a subnet.

    Args:
      subnet: Subnet that `Supernet.extract` returned; its own variables are not read.
      weights: Weights of the subnet by name, float32 or float64.
      images: Normalized images of the same type, `(batch, height, width, channels)`.
      masks: Gradient mask of each ReLU6, by the name of the preceding normalization: 1 where the
        gradient passes and 0 elsewhere. By default, the values decide.
      frozen: Mean squares by variable name, of the type of the weights; by default, those of each
        normalization's input.
    """
    mean_squares, before = {}, {}

    def normalize(norm, name, values):
        vectors = select_prefix(name, weights)
        if "alpha" in vectors:
            values = values - vectors["alpha"]
            key = f"{name}{MEAN_SQUARE}"
            mean_square = (
                tf.reduce_mean(values * values, [0, 1, 2]) if frozen is None else frozen[key]
            )
            mean_squares[key] = mean_square
            values = values / tf.sqrt(mean_square + norm.epsilon)
        else:
            values = _normalize_groups(values, norm.epsilon)
        values = values * vectors["gamma"] + vectors["beta"]
        if not norm.activate:
            return values
        before[name] = values
        return tf.nn.relu6(values) if masks is None else _relu6(values, masks[name])

    stem = subnet.stem
    maps = tf.nn.conv2d(images, weights["stem/kernel"], stem.strides, "SAME")
    maps = normalize(subnet.stem_norm, "stem_norm", maps)
    for block in itertools.chain.from_iterable(subnet.blocks):
        own = select_prefix(block.name, weights)
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
    masks: Tensors | None = None,
    offsets: tf.Tensor | None = None,
    frozen: Tensors | None = None,
) -> tuple[tf.Tensor, dict[str, tf.Tensor], Pass]:
    """Computes the mean cross-entropy and its gradients by automatic differentiation.

    Args:
      subnet: Subnet that `Supernet.extract` returned; its own variables are not read.
      weights: Weights of the subnet by name.
      images: Normalized images, `(batch, height, width, channels)`.
      labels: `(batch,)`, int32.
      label_smoothing: Share of the target that is spread over the classes, in proportion to their
        weights in the softmax.
      masks: Gradient masks, as for `compute`.
      offsets: Offsets that the loss adds to the logits, `(classes,)`: the logarithms of those
        weights. By default 0.
      frozen: Mean squares, as for `compute`.

    Returns:
      The loss, the gradients by name, and the forward pass.
    """
    classes = subnet.space.classes
    if offsets is None:
        offsets = tf.zeros([classes], images.dtype)
    class_weights = tf.exp(offsets)
    spread = class_weights / tf.reduce_sum(class_weights)
    targets = tf.one_hot(labels, classes, dtype=images.dtype)
    targets = targets * (1 - label_smoothing) + label_smoothing * spread
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        computed = compute(subnet, weights, images, masks, frozen)
        losses = tf.nn.softmax_cross_entropy_with_logits(targets, computed.logits + offsets)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
    return loss, gradients, computed


def sgd_step(
    weights: Tensors,
    momenta: Tensors,
    gradients: Tensors,
    learning_rate: tf.Tensor | float,
    training: LocalTraining,
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Returns the weights and momenta by name after one step of SGD.

    As in `local_update`, gradients are clipped by value, then weight decay is added for kernels,
    then momentum is applied. Frozen parts keep their weights and momenta.
    """
    moved, kept = dict(weights), dict(momenta)
    for name, weight in weights.items():
        if is_frozen(name, training.frozen):
            continue
        gradient = tf.clip_by_value(gradients[name], -training.clip_value, training.clip_value)
        if has_weight_decay(name):
            gradient += training.weight_decay * weight
        kept[name] = training.momentum * momenta[name] + gradient
        moved[name] = weight - learning_rate * kept[name]
    return moved, kept


class Reference:
    """Trains a subnet in TensorFlow on uint8 images, as the exported model does."""

    def __init__(
        self,
        subnet: Supernet,
        preprocessing: Preprocessing,
        training: LocalTraining,
        frozen: Mapping[str, np.ndarray] | None = None,
        feature_rates: tuple[float, float] = (1.0, 1.0),
    ):
        """Creates the reference.

        Args:
          subnet: Subnet that `Supernet.extract` returned.
          preprocessing: Normalization of the images.
          training: Hyper-parameters of a step.
          frozen: Mean squares that a step normalizes with, by variable name; by default, those of
            its batch.
          feature_rates: Factors on all gradients except the classifier's, at a loss of 0 and of
            at least ln(classes).
        """
        self.training = training
        self._frozen = frozen
        self._feature_rates = feature_rates
        self._subnet = subnet
        self._preprocessing = preprocessing
        self._traced_step = tf.function(self._step, autograph=False, reduce_retracing=True)
        self._traced_exact = tf.function(self._exact, autograph=False, reduce_retracing=True)

    def step(
        self,
        weights: Tensors,
        momenta: Tensors,
        images: np.ndarray,
        labels: np.ndarray,
        learning_rate: float,
        seen: np.ndarray | None = None,
        masks: Tensors | None = None,
    ) -> Step:
        """Computes one step of SGD as in `local_update`: clipping, weight decay and momentum.

        Args:
          weights: Weights before the step, by name.
          momenta: Momenta before the step, by name.
          images: `(batch, height, width, channels)`, uint8.
          labels: `(batch,)`, int32.
          learning_rate: Learning rate of the step.
          seen: Labels of earlier steps since the momentum was zero; None if there are none.
          masks: Gradient masks, as for `compute`.
        """
        rate = tf.constant(learning_rate, tf.float32)
        is_absent = np.ones(self._subnet.space.classes, np.float32)
        is_absent[labels if seen is None else np.concatenate([labels, seen])] = 0
        offsets = tf.constant(is_absent * np.log(np.float32(self.training.absent_class_weight)))
        return self._traced_step(
            weights, momenta, tf.constant(images), tf.constant(labels), rate, offsets, masks
        )

    def before_relu6(self, weights: Tensors, images: np.ndarray) -> dict[str, tf.Tensor]:
        """Computes the input of each ReLU6 in float64, by the name of its normalization."""
        return self._traced_exact(weights, tf.constant(images))

    def _step(
        self,
        weights: Tensors,
        momenta: Tensors,
        images: tf.Tensor,
        labels: tf.Tensor,
        learning_rate: tf.Tensor,
        offsets: tf.Tensor,
        masks: Tensors | None,
    ) -> Step:
        images = self._preprocessing.normalize(images)
        loss, gradients, computed = loss_and_gradients(
            self._subnet,
            weights,
            images,
            labels,
            self.training.label_smoothing,
            masks,
            offsets,
            self._frozen,
        )
        low, high = self._feature_rates
        share = tf.minimum(loss / np.log(self._subnet.space.classes), 1.0) ** 2
        feature_rate = low ** (1 - share) * high**share
        gradients = {
            name: value if name.startswith("head/") else feature_rate * value
            for name, value in gradients.items()
        }
        moved, kept = sgd_step(weights, momenta, gradients, learning_rate, self.training)
        return Step(moved, kept, loss, computed)

    def _exact(self, weights: Tensors, images: tf.Tensor) -> dict[str, tf.Tensor]:
        weights = {name: tf.cast(value, tf.float64) for name, value in weights.items()}
        images = tf.cast(self._preprocessing.normalize(images), tf.float64)
        frozen = self._frozen
        if frozen is not None:
            frozen = {name: tf.cast(value, tf.float64) for name, value in frozen.items()}
        return compute(self._subnet, weights, images, frozen=frozen).before_relu6


def passes_gradient(before_relu6: tf.Tensor) -> tf.Tensor:
    """Computes the gradient mask of ReLU6: 1 strictly between 0 and 6, and 0 elsewhere."""
    return tf.cast((before_relu6 > 0) & (before_relu6 < 6), before_relu6.dtype)


@tf.custom_gradient
def _relu6(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu6(values), lambda upstream: (upstream * mask, None)


def _normalize_groups(values: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Applies group normalization without scale and shift."""
    _, height, width, channels = values.shape
    grouped = tf.reshape(values, [-1, height, width, channels // GROUP_SIZE, GROUP_SIZE])
    mean, variance = tf.nn.moments(grouped, [1, 2, 4], keepdims=True)
    return tf.reshape((grouped - mean) / tf.sqrt(variance + epsilon), tf.shape(values))
