"""TensorFlow functions behind the signatures of an exported subnet, before conversion."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsup_tf import calibration
from fedsup_tf.block import select_prefix
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.frozen import check_frozen
from fedsup_tf.label_targets import smoothed_targets
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.ops import ops
from fedsup_tf.supernet import Supernet
from tflite.export.packing import HEAD_KERNEL
from tflite.export.sgd_module import MEAN_SQUARE_DECAY, SgdModule
from tflite.format import signatures

__all__ = ["MEAN_SQUARE_DECAY", "LossAndGradient", "TrainingModule", "score"]

# Outputs of a signature by name.
Outputs = dict[str, tf.Tensor]

# Name suffixes of the tensors that `train_head` trains: classifier and normalizations.
_HEAD = (HEAD_KERNEL, "head/bias", "/alpha", "/beta", "/gamma")


class LossAndGradient(NamedTuple):
    """Loss, correct predictions and gradient of a batch of logits.

    Attributes:
      loss: Weighted mean of the cross-entropy, a scalar.
      correct: Weighted number of correct predictions, a scalar.
      logits_gradient: Gradient of the loss with respect to the logits, `(batch, classes)`.
    """

    loss: tf.Tensor
    correct: tf.Tensor
    logits_gradient: tf.Tensor


class TrainingModule(SgdModule):
    """A subnet with momentum, frozen mean squares and a method for each signature.

    Inference folds the frozen mean squares into the kernels. A training step is of one of two
    kinds: that of a federated round, which normalizes with the mean squares of its batch, or a
    fine-tuning step, for a classifier that was refitted to the function that inference computes.
    Such a kernel may be far larger than the trained one. A fine-tuning step therefore normalizes
    with the frozen mean squares and scales down the gradient that the classifier passes to the
    layers before it, by more the lower the loss.
    """

    def __init__(
        self,
        subnet: Supernet,
        mean_squares: Mapping[str, np.ndarray],
        preprocessing: Preprocessing,
        training: LocalTraining,
        feature_rates: tuple[float, float] | None = None,
    ):
        """Creates the module.

        Args:
          subnet: Subnet that `Supernet.extract` returned.
          mean_squares: Frozen mean squares of the subnet by name.
          preprocessing: Normalization of the images.
          training: Hyper-parameters of a step.
          feature_rates: Factors on the gradients of the layers before the classifier in a
            fine-tuning step, at a loss of 0 and of at least ln(classes); None for the step of a
            federated round.

        Raises:
          ValueError: If the mean squares do not belong to the subnet, or it lacks a frozen part.
        """
        check_frozen(subnet.space, training.frozen)
        weights = subnet.values_by_name()
        expected = calibration.mean_square_shapes(subnet.weight_shapes)
        calibration.check_mean_squares(mean_squares, expected)
        super().__init__(weights, {name: mean_squares[name] for name in expected}, training)
        self.image_shape = subnet.space.image_shape
        self._compute = subnet.forward_with_statistics
        self._features = subnet.features_with_statistics
        self._classify = subnet.head.forward
        self._feature_rates = feature_rates
        self._guessing_loss = math.log(subnet.space.classes)
        self._preprocessing = preprocessing
        self._seen = None
        if training.absent_class_weight != 1:
            self._seen = tf.Variable(tf.zeros([subnet.space.classes]), name="seen_classes")

    # --------------------------------------------------------------- signatures

    def train(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        sample_weights: tf.Tensor,
        learning_rate: tf.Tensor,
    ) -> Outputs:
        """Runs one step of SGD."""
        return self._train(images, labels, sample_weights, learning_rate, self.trained_names)

    def train_head(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        sample_weights: tf.Tensor,
        learning_rate: tf.Tensor,
    ) -> Outputs:
        """Runs one step of SGD on the classifier and the normalizations only."""
        names = [name for name in self.trained_names if name.endswith(_HEAD)]
        return self._train(images, labels, sample_weights, learning_rate, names)

    def infer(self, images: tf.Tensor) -> Outputs:
        """Computes the logits of images."""
        return {signatures.LOGITS: self._infer(images)}

    def evaluate(self, images: tf.Tensor, labels: tf.Tensor, sample_weights: tf.Tensor) -> Outputs:
        """Computes the mean loss and the number of correct predictions."""
        loss, correct, _ = score(self._infer(images), labels, sample_weights)
        return {signatures.LOSS: loss, signatures.CORRECT: correct}

    def save(self, dummy: tf.Tensor) -> Outputs:
        """Returns all weights and frozen mean squares."""
        del dummy
        weights, frozen = self.unpack(self.read())
        return {self.python_names[name]: value for name, value in {**weights, **frozen}.items()}

    def restore(self, **values: tf.Tensor) -> Outputs:
        """Sets all weights and frozen mean squares; resets the momentum and the seen classes."""
        self._set({name: values[self.python_names[name]] for name in self.shapes})
        if self._seen is not None:
            self._seen.assign(tf.zeros(self._seen.shape))
        return {signatures.OK: tf.constant(1)}

    # ------------------------------------------------------------------ compute

    def _infer(self, images: tf.Tensor) -> tf.Tensor:
        weights, frozen = self.unpack(self.read())
        images = self._preprocessing.normalize(images)
        # Used without gradients too: the usual operators are slow if kernels are variables.
        with ops.builtin_operators():
            return self._compute(calibration.fold(weights, frozen), images)[0]

    def _train(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        sample_weights: tf.Tensor,
        learning_rate: tf.Tensor,
        trained: Sequence[str],
    ) -> Outputs:
        packed = self.read()
        weights, frozen = self.unpack(packed)
        moved = {name: weights[name] for name in trained}
        mean_squares = None
        with ops.builtin_operators():
            images = self._preprocessing.normalize(images)
            score_logits = functools.partial(self._score, labels, sample_weights)
            if self._feature_rates is None:
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(moved)
                    logits, mean_squares = self._compute(
                        weights, images, sample_weights=sample_weights
                    )
                scored = score_logits(logits)
                gradients = tape.gradient(logits, moved, output_gradients=scored.logits_gradient)
            else:
                scored, gradients = self._fine_tuning_gradients(
                    weights, frozen, moved, images, score_logits
                )
        self.step(packed, gradients, mean_squares, sample_weights, learning_rate)
        return {signatures.LOSS: scored.loss, signatures.CORRECT: scored.correct}

    def _fine_tuning_gradients(
        self,
        weights: Mapping[str, tf.Tensor],
        frozen: Mapping[str, tf.Tensor],
        moved: Mapping[str, tf.Tensor],
        images: tf.Tensor,
        score_logits: Callable[[tf.Tensor], LossAndGradient],
    ) -> tuple[LossAndGradient, dict[str, tf.Tensor]]:
        """Computes a fine-tuning step's loss, and the gradients of the weights `moved`."""
        classifier = select_prefix("head", weights)
        head = {name: value for name, value in moved.items() if name.startswith("head/")}
        body = {name: value for name, value in moved.items() if name not in head}
        with tf.GradientTape(watch_accessed_variables=False) as body_tape:
            body_tape.watch(body)
            # Not folded, since the gradient of folding has no builtin counterpart.
            features, _ = self._features({**weights, **frozen}, images)
        with tf.GradientTape(watch_accessed_variables=False) as head_tape:
            head_tape.watch((head, features))
            logits = self._classify(classifier, features)
        scored = score_logits(logits)
        of_head, of_features = head_tape.gradient(
            logits, (head, features), output_gradients=scored.logits_gradient
        )
        of_features *= self._feature_rate(scored.loss)
        of_body = body_tape.gradient(features, body, output_gradients=of_features)
        return scored, {**of_head, **of_body}

    def _feature_rate(self, loss: tf.Tensor) -> tf.Tensor:
        """Returns the factor on the gradients of the layers before the classifier."""
        low, high = self._feature_rates
        share = tf.minimum(loss / self._guessing_loss, 1.0)
        return low * tf.exp(math.log(high / low) * share * share)

    def _score(
        self, labels: tf.Tensor, sample_weights: tf.Tensor, logits: tf.Tensor
    ) -> LossAndGradient:
        offsets = self._logit_offsets(labels, sample_weights)
        return score(logits, labels, sample_weights, self._training.label_smoothing, offsets)

    def _logit_offsets(self, labels: tf.Tensor, sample_weights: tf.Tensor) -> tf.Tensor | None:
        """Returns offsets of the logits, `(classes,)`, for the classes without an example so far.

        Nobody tells the model which classes a device has; after its first batches, it has seen them
        all. None if absent classes have the same weight as all others.
        """
        if self._seen is None:
            return None
        is_example = tf.cast(sample_weights > 0, tf.float32)
        shown = tf.one_hot(labels, self._seen.shape[0]) * is_example[:, tf.newaxis]
        seen = tf.maximum(self._seen.read_value(), tf.reduce_max(shown, 0))
        self._seen.assign(seen)
        return (1 - seen) * math.log(self._training.absent_class_weight)


def score(
    logits: tf.Tensor,
    labels: tf.Tensor,
    sample_weights: tf.Tensor,
    label_smoothing: float = 0.0,
    offsets: tf.Tensor | None = None,
) -> LossAndGradient:
    """Computes loss, correct predictions and gradient with TensorFlow Lite builtins only.

    Args:
      logits: `(batch, classes)`.
      labels: `(batch,)`, int32.
      sample_weights: `(batch,)`, nonnegative.
      label_smoothing: Share of the target that is spread over the classes.
      offsets: Offsets that the loss adds to the logits, `(classes,)`, see `smoothed_targets`;
        predictions are made without them.
    """
    targets = smoothed_targets(labels, logits.shape[1], label_smoothing, offsets)
    shares = sample_weights / tf.maximum(tf.reduce_sum(sample_weights), 1e-30)
    guesses = tf.argmax(logits, 1, tf.int32)
    if offsets is not None:
        logits += offsets
    losses = -tf.reduce_sum(targets * tf.nn.log_softmax(logits), 1)
    right = tf.cast(tf.equal(guesses, labels), tf.float32)
    logits_gradient = (tf.nn.softmax(logits) - targets) * shares[:, tf.newaxis]
    return LossAndGradient(
        tf.reduce_sum(losses * shares), tf.reduce_sum(right * sample_weights), logits_gradient
    )
