"""An SGD step that updates TensorFlow variables in place."""

from collections.abc import Mapping

import tensorflow as tf

from fedsup_tf.supernet import has_weight_decay


def apply_sgd(
    variables: Mapping[str, tf.Variable],
    momenta: Mapping[str, tf.Variable],
    weights: Mapping[str, tf.Tensor],
    gradients: Mapping[str, tf.Tensor],
    learning_rate: tf.Tensor | float,
    *,
    momentum: float,
    weight_decay: float,
    clip_value: float,
) -> None:
    r"""Clips gradients by value, adds weight decay to those of kernels and updates the variables.

    $$v \leftarrow \mu v + clip(g) + \lambda w, \quad w \leftarrow w - \eta v$$

    Args:
      variables: Weights to update, by name; their shapes may be unknown.
      momenta: Momentum accumulator of each weight, by name; updated in place.
      weights: Values of the variables before the step, by name.
      gradients: Gradient of each weight, by name.
      learning_rate: Learning rate, a scalar.
      momentum: Decay factor of the accumulators.
      weight_decay: L2 decay of the tensors for which `has_weight_decay` holds.
      clip_value: Maximum absolute value of each gradient entry; infinity disables clipping.
    """
    for name, gradient in gradients.items():
        if clip_value != float("inf"):
            gradient = tf.raw_ops.ClipByValue(
                t=gradient, clip_value_min=-clip_value, clip_value_max=clip_value
            )
        if weight_decay and has_weight_decay(name):
            gradient += weight_decay * weights[name]
        # On variables of unknown shape, much faster than optimizers and functional updates.
        tf.raw_ops.ResourceApplyMomentum(
            var=variables[name].handle,
            accum=momenta[name].handle,
            lr=tf.cast(learning_rate, tf.float32),
            grad=gradient,
            momentum=momentum,
        )
