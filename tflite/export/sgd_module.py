"""Weights that train on a phone: variables, their momentum, and a step of SGD that moves them."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from fedsup_tf.local_training import LocalTraining
from fedsup_tf.supernet import has_weight_decay
from tflite.export.packing import MEAN_SQUARES, pack, packing, unpack

# Share that a frozen mean square keeps of itself in a step of training; the rest is the batch's.
MEAN_SQUARE_DECAY = 0.9

Tensors = dict[str, tf.Tensor]


class SgdModule(tf.Module):
    """Weights by name with their momentum and their frozen mean squares.

    A step of training is one of `local_update` on the same batch: the normalizations use the
    batch's mean squares. Inference uses the frozen ones; training lets them follow the weights, at
    no cost, since it computes the batch's anyway.

    Attributes:
      shapes: Of the weights and of the frozen mean squares, by name.
      weight_names: Those of the weights.
      python_names: What TensorFlow calls tensors and variables. It takes names of a form of its own
        only, but a stage's name may be any text.
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
        values = {**weights, **mean_squares}
        self.weight_names = list(weights)
        self.shapes = {name: tuple(np.shape(value)) for name, value in values.items()}
        self._packing = packing(self.shapes)
        names = dict.fromkeys([*self.shapes, *self._packing])
        self.python_names = {name: f"variable_{i}" for i, name in enumerate(names)}
        self._variables, self._momenta = {}, {}
        for variable, shapes in self._packing.items():
            value, name = tf.cast(pack(values, shapes), tf.float32), self.python_names[variable]
            self._variables[variable] = tf.Variable(value, name=name)
            if variable != MEAN_SQUARES:
                zeros = tf.zeros_like(value)
                self._momenta[variable] = tf.Variable(zeros, name=f"{name}/momentum")

    def _read(self) -> Tensors:
        """Values of the variables."""
        return {name: variable.read_value() for name, variable in self._variables.items()}

    def _unpack(self, packed: Tensors) -> tuple[Tensors, Tensors]:
        """The weights and the frozen mean squares of what `_read` gave."""
        tensors = {}
        for variable, shapes in self._packing.items():
            tensors |= unpack(packed[variable], shapes)
        weights = {name: tensors.pop(name) for name in self.weight_names}
        return weights, tensors

    def _set(self, tensors: Tensors) -> None:
        """Sets weights and frozen mean squares, and forgets the momentum."""
        for name, variable in self._variables.items():
            variable.assign(pack(tensors, self._packing[name]))
        for momentum in self._momenta.values():
            momentum.assign(tf.zeros(momentum.shape))

    def _step(
        self,
        packed: Tensors,
        gradients: Tensors,
        mean_squares: Tensors,
        sample_weights: tf.Tensor,
        learning_rate: tf.Tensor,
    ) -> None:
        """One step of SGD: clip, decay and momentum as in `local_update`.

        Args:
          packed: As `_read` gave it.
          gradients: Of the weights that are to move, by name; of all that share a variable or of
            none of them.
          mean_squares: The batch's.
          sample_weights: `(batch,)`; if all are 0 the step changes nothing.
          learning_rate: A scalar.
        """
        training = self._training
        present = tf.cast(tf.reduce_sum(sample_weights) > 0, tf.float32)
        keep = 1 - present * (1 - training.momentum)
        for variable, momentum in self._momenta.items():
            shapes, weight = self._packing[variable], packed[variable]
            if gradients.keys().isdisjoint(shapes):
                continue
            gradient = pack(gradients, shapes)
            if training.clip_value != float("inf"):
                gradient = _clip(gradient, training.clip_value)
            if training.weight_decay and has_weight_decay(next(iter(shapes))):
                gradient += (present * training.weight_decay) * weight
            velocity = gradient + keep * momentum.read_value()
            momentum.assign(velocity)
            self._variables[variable].assign(weight - (present * learning_rate) * velocity)
        if MEAN_SQUARES in packed:
            before = packed[MEAN_SQUARES]
            after = pack(mean_squares, self._packing[MEAN_SQUARES])
            follow = present * (1 - MEAN_SQUARE_DECAY)
            self._variables[MEAN_SQUARES].assign(before + follow * (after - before))


def _clip(values, limit):
    """To at most `limit` in size; at 1, the common case, the runtime has an operator for it."""
    scaled = values if limit == 1.0 else values / limit
    clipped = tf.maximum(tf.minimum(scaled, 1.0), -1.0)
    return clipped if limit == 1.0 else clipped * limit
