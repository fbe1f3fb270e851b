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

    Vectors share one momentum, joined in order, and move together: the many operators that would
    move each by itself take longer than what they compute, and make the file larger.

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
        vectors = [name for name, value in weights.items() if np.ndim(value) == 1]
        kernels = [[name] for name in weights if name not in vectors]
        self._moved_together = [*kernels, vectors] if vectors else kernels
        self._momenta = []
        for group in self._moved_together:
            zeros = tf.zeros_like(_joined(weights, group))
            self._momenta.append(tf.Variable(zeros, name=f"{names[group[0]]}/momentum"))

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The weights and the frozen mean squares by name."""
        return {**self._weights, **self._mean_squares}

    def _forget_momentum(self) -> None:
        for momentum in self._momenta:
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
          gradients: Of the weights that are to move, by name; of all vectors or of none.
          kept: The frozen mean squares, as `_read` gave them.
          mean_squares: The batch's.
          sample_weights: `(batch,)`; if all are 0 the step changes nothing.
          learning_rate: A scalar.
        """
        training = self._training
        present = tf.cast(tf.reduce_sum(sample_weights) > 0, tf.float32)
        keep = 1 - present * (1 - training.momentum)
        for names, momentum in zip(self._moved_together, self._momenta, strict=True):
            if names[0] not in gradients:
                continue
            gradient, weight = _joined(gradients, names), _joined(weights, names)
            if training.clip_value != float("inf"):
                gradient = _clip(gradient, training.clip_value)
            if training.weight_decay and has_weight_decay(names[0]):
                gradient += (present * training.weight_decay) * weight
            velocity = gradient + keep * momentum.read_value()
            momentum.assign(velocity)
            _assign(self._weights, names, weight - (present * learning_rate) * velocity)
        names = list(self._mean_squares)
        if names:
            before = _joined(kept, names)
            follow = present * (1 - MEAN_SQUARE_DECAY)
            after = before + follow * (_joined(mean_squares, names) - before)
            _assign(self._mean_squares, names, after)


def _joined(values, names):
    """The one value of that name, or all vectors behind each other."""
    return tf.concat([values[name] for name in names], 0) if len(names) > 1 else values[names[0]]


def _assign(variables, names, joined) -> None:
    """Sets the variables that `_joined` read."""
    lengths = [variables[name].shape[0] for name in names]
    parts = tf.split(joined, lengths) if len(names) > 1 else [joined]
    for name, part in zip(names, parts, strict=True):
        variables[name].assign(part)


def _clip(values, limit):
    """To at most `limit` in size; at 1, the common case, the runtime has an operator for it."""
    scaled = values if limit == 1.0 else values / limit
    clipped = tf.maximum(tf.minimum(scaled, 1.0), -1.0)
    return clipped if limit == 1.0 else clipped * limit
