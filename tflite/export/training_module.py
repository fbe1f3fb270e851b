"""What an exported subnet computes on a phone, as TensorFlow functions before conversion."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsup_tf import calibration
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.ops import ops
from fedsup_tf.supernet import Supernet
from tflite.export.packing import HEAD_KERNEL
from tflite.export.sgd_module import MEAN_SQUARE_DECAY, SgdModule
from tflite.format import signatures

__all__ = ["MEAN_SQUARE_DECAY", "Scores", "TrainingModule", "score"]

# Trained by `train_head`: the classifier and the normalizations' vectors.
_HEAD = (HEAD_KERNEL, "head/bias", "/alpha", "/beta", "/gamma")


class Scores(NamedTuple):
    """How good logits are.

    Attributes:
      loss: Weighted mean of the cross-entropy.
      correct: Weighted number of right answers.
      slope: The loss' gradient with respect to the logits.
    """

    loss: tf.Tensor
    correct: tf.Tensor
    slope: tf.Tensor


class TrainingModule(SgdModule):
    """A subnet with its momentum, its frozen mean squares and a function for each signature.

    Inference folds the frozen mean squares into the kernels.
    """

    def __init__(
        self,
        subnet: Supernet,
        mean_squares: Mapping[str, np.ndarray],
        preprocessing: Preprocessing,
        training: LocalTraining,
    ):
        """Makes the model; the arguments are those of `export.export_tflite`."""
        weights = subnet.values_by_name()
        expected = calibration.mean_square_shapes(subnet.weight_shapes)
        calibration.check_mean_squares(mean_squares, expected)
        super().__init__(weights, {name: mean_squares[name] for name in expected}, training)
        self.image_shape = subnet.space.image_shape
        self._compute = subnet.forward_with_statistics
        self._preprocessing = preprocessing

    # --------------------------------------------------------------- signatures

    def train(self, images, labels, sample_weights, learning_rate):
        """One step of SGD; see `signatures`."""
        return self._train(images, labels, sample_weights, learning_rate, self.weight_names)

    def train_head(self, images, labels, sample_weights, learning_rate):
        """One step of SGD on the classifier and the normalizations alone."""
        names = [name for name in self.weight_names if name.endswith(_HEAD)]
        return self._train(images, labels, sample_weights, learning_rate, names)

    def infer(self, images):
        """Logits of images."""
        return {signatures.LOGITS: self._infer(images)}

    def evaluate(self, images, labels, sample_weights):
        """Mean loss and number of right answers."""
        loss, correct, _ = score(self._infer(images), labels, sample_weights)
        return {signatures.LOSS: loss, signatures.CORRECT: correct}

    def save(self, dummy):
        """Every weight and frozen mean square."""
        del dummy
        weights, frozen = self._unpack(self._read())
        return {self.python_names[name]: value for name, value in {**weights, **frozen}.items()}

    def restore(self, **values):
        """Sets every weight and frozen mean square, and forgets the momentum."""
        self._set({name: values[self.python_names[name]] for name in self.shapes})
        return {signatures.OK: tf.constant(1)}

    # ------------------------------------------------------------------ compute

    def _infer(self, images):
        weights, frozen = self._unpack(self._read())
        images = self._preprocessing.normalize(images)
        # Not for the gradients: with kernels that are variables the usual operators are slow.
        with ops.builtin_operators():
            return self._compute(calibration.fold(weights, frozen), images)[0]

    def _train(self, images, labels, sample_weights, learning_rate, trained):
        packed = self._read()
        weights, _ = self._unpack(packed)
        moved = {name: weights[name] for name in trained}
        with ops.builtin_operators():
            images = self._preprocessing.normalize(images)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(moved)
                logits, mean_squares = self._compute(weights, images, sample_weights=sample_weights)
            smoothing = self._training.label_smoothing
            loss, correct, slope = score(logits, labels, sample_weights, smoothing)
            gradients = tape.gradient(logits, moved, output_gradients=slope)
        self._step(packed, gradients, mean_squares, sample_weights, learning_rate)
        return {signatures.LOSS: loss, signatures.CORRECT: correct}


def score(
    logits: tf.Tensor,
    labels: tf.Tensor,
    sample_weights: tf.Tensor,
    label_smoothing: float = 0.0,
) -> Scores:
    """Scores logits `(batch, classes)` against labels, in operations that the runtime has."""
    classes = logits.shape[1]
    targets = tf.one_hot(labels, classes) * (1 - label_smoothing)
    targets += label_smoothing / classes
    shares = sample_weights / tf.maximum(tf.reduce_sum(sample_weights), 1e-30)
    losses = -tf.reduce_sum(targets * tf.nn.log_softmax(logits), 1)
    guesses = tf.argmax(logits, 1, tf.int32)
    right = tf.cast(tf.equal(guesses, labels), tf.float32)
    slope = (tf.nn.softmax(logits) - targets) * shares[:, tf.newaxis]
    return Scores(tf.reduce_sum(losses * shares), tf.reduce_sum(right * sample_weights), slope)
