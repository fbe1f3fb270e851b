"""Weights that train on a phone: variables, their momentum, and a step of SGD that moves them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from fedsup_tf.local_training import LocalTraining
from fedsup_tf.supernet import has_weight_decay

# Share that a frozen mean square keeps of itself in a step of training; the rest is the batch's.
MEAN_SQUARE_DECAY = 0.9

# Weights by name to gradients by name, the batch's mean squares by name, and what else was found.
Gradients = Callable[[dict[str, tf.Tensor]], tuple[dict, dict, Any]]


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
        gradients: Gradients,
        trained: list[str],
        sample_weights: tf.Tensor,
        learning_rate: tf.Tensor,
        found_in_nothing: Any,
    ) -> Any:
        """One step of SGD: clip, decay and momentum as in `local_update`.

        Args:
          gradients: What computes the gradients of the weights named `trained`.
          trained: Names of the weights to move.
          sample_weights: `(batch,)`; if all are 0 the step changes nothing.
          learning_rate: A scalar.
          found_in_nothing: What is found in such a batch.

        Returns:
          What else `gradients` found.
        """
        weights, kept = self._read()

        # A branch of its own, without variables, is what the runtime's delegate can take; and a
        # batch of no examples, all of weight 0, shall change nothing.
        def compute():
            return gradients(weights)

        def nothing():
            zeros = {name: tf.zeros(weights[name].shape) for name in trained}
            return zeros, kept, found_in_nothing

        present = tf.reduce_sum(sample_weights) > 0
        slopes, mean_squares, found = tf.cond(present, compute, nothing)
        self._apply(weights, slopes, learning_rate, tf.cast(present, tf.float32))
        for name, variable in self._mean_squares.items():
            follow = (1 - MEAN_SQUARE_DECAY) * (mean_squares[name] - kept[name])
            variable.assign(kept[name] + follow)
        return found

    def _apply(self, weights, gradients, learning_rate, present):
        training = self._training
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


def _clip(values, limit):
    """To at most `limit` in size; at 1, the common case, the runtime has an operator for it."""
    scaled = values if limit == 1.0 else values / limit
    clipped = tf.maximum(tf.minimum(scaled, 1.0), -1.0)
    return clipped if limit == 1.0 else clipped * limit
