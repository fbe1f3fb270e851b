"""Weights that train on a phone: variables, their momentum, and a step of SGD that moves them."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from fedsup_tf.local_training import LocalTraining
from fedsup_tf.supernet import has_weight_decay

# Share that a frozen mean square keeps of itself in a step of training; the rest is the batch's.
MEAN_SQUARE_DECAY = 0.9


class SgdModule(tf.Module):
    """Weights by name with their momentum and their frozen mean squares.

    A step of training is one of `local_update` on the same batch: the normalizations use the
    batch's mean squares. Inference uses the frozen ones; training lets them follow the weights, at
    no cost, since it computes the batch's anyway.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        mean_squares: Mapping[str, np.ndarray],
        training: LocalTraining,
    ):
        """Makes the variables, with no momentum."""
        super().__init__()
        self._training = training
        # What TensorFlow calls the variables. It takes names of a form of its own only, but a
        # stage's name may be any text.
        names = {name: f"variable_{i}" for i, name in enumerate([*weights, *mean_squares])}
        self.python_names = names
        self._weights = {
            name: tf.Variable(value, name=names[name]) for name, value in weights.items()
        }
        self._mean_squares = {
            name: tf.Variable(value, dtype=tf.float32, name=names[name])
            for name, value in mean_squares.items()
        }
        self._momenta = {
            name: tf.Variable(tf.zeros_like(value), name=f"{names[name]}/momentum")
            for name, value in weights.items()
        }

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The weights and the frozen mean squares by name."""
        return {**self._weights, **self._mean_squares}

    def _forget_momentum(self) -> None:
        for momentum in self._momenta.values():
            momentum.assign(tf.zeros(momentum.shape))

    def _read(self) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Values of the weights and of the frozen mean squares."""
        return (
            {name: value.read_value() for name, value in self._weights.items()},
            {name: value.read_value() for name, value in self._mean_squares.items()},
        )

    def _step(
        self,
        weights: Mapping[str, tf.Tensor],
        gradients: Mapping[str, tf.Tensor],
        kept: Mapping[str, tf.Tensor],
        mean_squares: Mapping[str, tf.Tensor],
        sample_weights: tf.Tensor,
        learning_rate: tf.Tensor,
    ) -> None:
        """One step of SGD: clip, decay and momentum as in `local_update`.

        Args:
          weights: As `_read` gave them.
          gradients: Of the weights that are to move, by name.
          kept: The frozen mean squares, as `_read` gave them.
          mean_squares: The batch's.
          sample_weights: `(batch,)`; if all are 0 the step changes nothing.
          learning_rate: A scalar.
        """
        training = self._training
        present = tf.cast(tf.reduce_sum(sample_weights) > 0, tf.float32)
        keep = 1 - present * (1 - training.momentum)
        for name, gradient in gradients.items():
            weight = weights[name]
            if training.clip_value != float("inf"):
                gradient = _clip(gradient, training.clip_value)
            if training.weight_decay and has_weight_decay(name):
                gradient += (present * training.weight_decay) * weight
            momentum = keep * self._momenta[name].read_value() + gradient
            self._momenta[name].assign(momentum)
            self._weights[name].assign(weight - (present * learning_rate) * momentum)
        follow = present * (1 - MEAN_SQUARE_DECAY)
        for name, variable in self._mean_squares.items():
            variable.assign(kept[name] + follow * (mean_squares[name] - kept[name]))


def _clip(values, limit):
    """To at most `limit` in size; at 1, the common case, the runtime has an operator for it."""
    scaled = values if limit == 1.0 else values / limit
    clipped = tf.maximum(tf.minimum(scaled, 1.0), -1.0)
    return clipped if limit == 1.0 else clipped * limit
