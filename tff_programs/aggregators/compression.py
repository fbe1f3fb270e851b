"""Quantization of updates to 8 bits per entry."""

import math
from typing import NamedTuple

import tensorflow as tf

from tff_programs.aggregators.overlap_mean import Upload
from tff_programs.types import SubnetUpdate

_LEVELS = 127


class EightBitMessage(NamedTuple):
    """Client update as it is sent, with 8 bits per entry.

    Attributes:
      levels: The update in multiples of `steps`, int8, one tensor per tensor of the supernet, with
        the subnet's shapes.
      steps: Size of one level of each tensor, float32 `(tensors,)`; NaN for a tensor that is not
        finite.
      rest: Other fields of the update; its `delta` is empty.
      error: l2 norm of the rounding error divided by that of the update, float32.
    """

    levels: tuple
    steps: tf.Tensor
    rest: SubnetUpdate
    error: tf.Tensor


class EightBitUpload(Upload):
    """Uniform 8-bit quantization of each tensor of an update, with unbiased rounding.

    Each entry becomes one of 255 levels between minus and plus the tensor's largest absolute value;
    0 stays 0. An entry between two levels is rounded up with the probability that makes its
    expected value the entry itself (QSGD, Alistarh et al., arXiv 1610.02132), so the errors of many
    clients cancel out. The draws are seeded by the client's number and loss: a repeated round
    rounds identically.

    Only the subnet's entries are sent: a quarter of the bytes of `Upload`, plus 4 bytes per tensor.
    The measurement `compression_error` is the mean over the clients of the relative l2 error. The
    server learns each client's rounded update.
    """

    measurements = ("compression_error",)

    def encode(self, update):
        """Rounds each tensor of the update to 8 bits per entry."""
        seed = tf.stack([update.client, tf.bitcast(update.loss, tf.int32)])
        levels, steps, squares, errors = [], [], [], []
        for number, part in enumerate(update.delta):
            # The maximum of an empty tensor is minus infinity.
            step = tf.maximum(tf.reduce_max(tf.abs(part)), 0.0) / _LEVELS
            step = tf.where(tf.reduce_all(tf.math.is_finite(part)), step, math.nan)
            draws = tf.random.stateless_uniform(
                tf.shape(part), tf.random.experimental.stateless_fold_in(seed, number)
            )
            scaled = tf.math.divide_no_nan(part, step)
            rounded = tf.clip_by_value(tf.floor(scaled + draws), -_LEVELS, _LEVELS)
            levels.append(tf.ensure_shape(tf.cast(rounded, tf.int8), part.shape))
            steps.append(step)
            squares.append(tf.reduce_sum(tf.square(part)))
            errors.append(tf.reduce_sum(tf.square(rounded * step - part)))
        error = tf.sqrt(tf.math.divide_no_nan(tf.add_n(errors), tf.add_n(squares)))
        return EightBitMessage(tuple(levels), tf.stack(steps), update._replace(delta=()), error)

    def decode(self, message):
        """Returns the rounded update and its relative rounding error."""
        delta = tuple(
            tf.cast(levels, tf.float32) * message.steps[number]
            for number, levels in enumerate(message.levels)
        )
        return message.rest._replace(delta=delta), (message.error,)
