"""Variables that are trained on a phone, their momentum, and the SGD step that updates them."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from fedsup_tf.frozen import is_frozen
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.supernet import has_weight_decay
from tflite.export.packing import MEAN_SQUARES, pack, packing, unpack

# Decay of the moving average that updates the frozen mean squares from those of the batches.
MEAN_SQUARE_DECAY = 0.9

Tensors = dict[str, tf.Tensor]


class SgdModule(tf.Module):
    """Weights, their momentum and frozen mean squares as TensorFlow variables.

    A training step equals a step of `local_update` on the same batch, apart from hyper-parameters
    that do not apply to an export: the normalizations use the batch's mean squares. Inference uses
    the frozen mean squares, which training updates as moving averages of the batches' mean squares.
    A fine-tuning step (`training_module.TrainingModule`) uses the frozen mean squares and keeps
    them.

    Attributes:
      shapes: Shapes of the weights and of the frozen mean squares, by name.
      weight_names: Names of the weights.
      trained_names: Names of the weights that are not frozen; only they have momentum.
      python_names: Names of tensors and variables in TensorFlow, by their own names. TensorFlow
        restricts names, whereas a stage may have any name.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        mean_squares: Mapping[str, np.ndarray],
        training: LocalTraining,
    ):
        """Creates the variables, with zero momentum.

        Args:
          weights: Initial weights by name.
          mean_squares: Initial frozen mean squares by name.
          training: Hyper-parameters of a step.
        """
        super().__init__()
        self._training = training
        values = {**weights, **mean_squares}
        self.weight_names = list(weights)
        self.trained_names = [name for name in weights if not is_frozen(name, training.frozen)]
        self.shapes = {name: tuple(np.shape(value)) for name, value in values.items()}
        self._packing = packing(self.shapes, training.frozen)
        names = dict.fromkeys([*self.shapes, *self._packing])
        self.python_names = {name: f"variable_{i}" for i, name in enumerate(names)}
        self._variables, self._momenta = {}, {}
        for variable, shapes in self._packing.items():
            value, name = tf.cast(pack(values, shapes), tf.float32), self.python_names[variable]
            self._variables[variable] = tf.Variable(value, name=name)
            if not shapes.keys().isdisjoint(self.trained_names):
                zeros = tf.zeros_like(value)
                self._momenta[variable] = tf.Variable(zeros, name=f"{name}/momentum")

    def read(self) -> Tensors:
        """Reads the variables by name."""
        return {name: variable.read_value() for name, variable in self._variables.items()}

    def unpack(self, packed: Tensors) -> tuple[Tensors, Tensors]:
        """Splits variables that `read` returned into weights and frozen mean squares by name."""
        tensors = {}
        for variable, shapes in self._packing.items():
            tensors |= unpack(packed[variable], shapes)
        weights = {name: tensors.pop(name) for name in self.weight_names}
        return weights, tensors

    def _set(self, tensors: Tensors) -> None:
        """Sets the weights and the frozen mean squares, and resets the momentum."""
        for name, variable in self._variables.items():
            variable.assign(pack(tensors, self._packing[name]))
        for momentum in self._momenta.values():
            momentum.assign(tf.zeros(momentum.shape))

    def step(
        self,
        packed: Tensors,
        gradients: Tensors,
        mean_squares: Tensors | None,
        sample_weights: tf.Tensor,
        learning_rate: tf.Tensor,
    ) -> None:
        """Runs one step of SGD: clipping by value, weight decay and momentum as in `local_update`.

        Args:
          packed: Variables before the step, as `read` returned them.
          gradients: Gradients of the weights to train, by name; for each variable, those of either
            all or none of its tensors.
          mean_squares: Mean squares of the batch, by name; None to keep the frozen mean squares.
          sample_weights: `(batch,)`; if all are 0, the step changes nothing.
          learning_rate: Learning rate, a scalar.
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
        if mean_squares is not None and MEAN_SQUARES in packed:
            before = packed[MEAN_SQUARES]
            after = pack(mean_squares, self._packing[MEAN_SQUARES])
            follow = present * (1 - MEAN_SQUARE_DECAY)
            self._variables[MEAN_SQUARES].assign(before + follow * (after - before))


def _clip(values: tf.Tensor, limit: float) -> tf.Tensor:
    """Clips values to [-limit, limit]; the runtime has a single operator for [-1, 1] only."""
    scaled = values if limit == 1.0 else values / limit
    clipped = tf.maximum(tf.minimum(scaled, 1.0), -1.0)
    return clipped if limit == 1.0 else clipped * limit
