"""Logistic regression of the labels on a subnet's features, which refits the subnet's classifier.

Clients with few classes bias the classifier of a federated net more than any other layer. A
regression on the features of all clients' images does not have this bias. It depends on the images
only through sums over them, so the result does not depend on how they are spread over clients.

The loss is the mean cross-entropy plus half the penalty times the features' mean square times the
sum of the kernel's squares. Each step needs one pass over the images to sum the gradients. Newton's
matrix would differ between steps and classes; half of the features' second moments bounds it
(Böhning, "Multinomial logistic regression algorithm", Annals of the Institute of Statistical
Mathematics 44, 1992) and has to be summed only once. Steps are accelerated by Nesterov's momentum.

A kernel that is much larger than the trained one increases the gradients of all layers before it,
to the point that training on a phone diverges. After a short training, whose features hardly differ
between classes, the increase is a hundredfold. The fitted classifier is therefore scaled down to at
most twice the norm of the trained one, which does not change the most likely class of any image.
Inference-only files have a separate classifier (see `inference_classifier`).
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

KERNEL, BIAS = "head/kernel", "head/bias"
# After a long training by SGD, it keeps the kernel's norm within about twice the trained one's
# without scaling. A smaller penalty is more accurate, but suits only inference: a phone that
# continues training on a few classes forgets the others much sooner.
PENALTY = 0.01
# Maximum spectral norm of the fitted kernel, as a multiple of the trained kernel's.
_MAX_GROWTH = 2.0
# Passes over the images. Doubling them changes accuracies by two tenths of a percent.
PASSES = 6


class RegressionSums(NamedTuple):
    """Sums over images with F features, to which a constant 1 is appended.

    Attributes:
      gradient: Gradient of the cross-entropy with respect to the coefficients, `(F + 1, classes)`.
      moments: Outer products of the features, `(F + 1, F + 1)`. They do not depend on the
        coefficients; None after the first pass.
    """

    gradient: tf.Tensor | np.ndarray
    moments: tf.Tensor | np.ndarray | None = None


def regression_sums(
    features: tf.Tensor, labels: tf.Tensor, coefficients: tf.Tensor, with_moments: bool
) -> RegressionSums:
    """Computes the sums over a batch; sums of several batches and clients add up.

    Args:
      features: Inputs of a subnet's classifier, `(batch, F)`.
      labels: `(batch,)`, int32.
      coefficients: `LogisticRegression.coefficients`, `(F + 1, classes)`.
      with_moments: Whether to sum the outer products of the features as well.
    """
    moments = moments_of(features) if with_moments else None
    features = with_constant(features)
    chances = tf.nn.softmax(tf.matmul(features, coefficients))
    errors = chances - tf.one_hot(labels, tf.shape(coefficients)[1])
    return RegressionSums(tf.matmul(features, errors, transpose_a=True), moments)


def moments_of(features: tf.Tensor) -> tf.Tensor:
    """Returns the summed outer products of features `(batch, F)` with a 1, `(F + 1, F + 1)`."""
    features = with_constant(features)
    return tf.matmul(features, features, transpose_a=True)


def with_constant(features: tf.Tensor) -> tf.Tensor:
    """Appends a constant 1 to features `(batch, F)`."""
    return tf.concat([features, tf.ones_like(features[:, :1])], 1)


class LogisticRegression:
    """A logistic regression that is fitted step by step, from sums over all images.

    Args:
      kernel: Kernel of the initial classifier, `(F, classes)`. The fitted kernel has at most twice
        its spectral norm, unless that is 0.
      bias: Bias of the initial classifier, `(classes,)`.
      penalty: Penalty of the kernel's squares.

    Attributes:
      coefficients: Coefficients at which the next step takes its gradient, with the bias as the
        last row, float32 `(F + 1, classes)`.
      examples: Number of images in the gradients; 0 before the first step.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, penalty: float = PENALTY):
        start = np.concatenate([kernel, bias[np.newaxis]]).astype(np.float64)
        # Softmax is invariant to a constant that is added to all logits.
        self._fitted = start - start.mean(1, keepdims=True)
        self.coefficients = self._fitted.astype(np.float32)
        self._max_norm = _MAX_GROWTH * np.linalg.norm(self._fitted[:-1], 2)
        self._penalty, self._steps = penalty, 0
        self._inverse = self._penalties = None
        self.examples = 0

    def step(self, sums: RegressionSums, examples: int | None = None) -> None:
        """Takes a step, given the sums at `coefficients`.

        Args:
          sums: Sums over the images; in the first step, they must include the moments.
          examples: Number of images in the gradients, all by default; read in the first step only.
            If the gradients cover a part of the images, the moments still cover all of them, which
            also bounds Newton's matrix of the part.

        Raises:
          ValueError: If the sums cover no images.
        """
        if self._steps == 0:
            moments = np.asarray(sums.moments, np.float64)
            self.examples = round(moments[-1, -1]) if examples is None else examples
            if not self.examples:
                raise ValueError(
                    "A classifier is fitted to clients' images, received none. Give at least one "
                    "client an image."
                )
            moments = moments / self.examples
            mean_square = np.trace(moments[:-1, :-1]) / (len(moments) - 1)
            self._penalties = np.full((len(moments), 1), self._penalty * mean_square)
            self._penalties[-1] = 0
            # The constant keeps the matrix invertible if all features are dead.
            bound = moments / 2 + np.diag(self._penalties[:, 0] + 1e-9)
            self._inverse = np.linalg.inv(bound)
        gradient = np.asarray(sums.gradient, np.float64) / self.examples
        gradient += self._penalties * self.coefficients
        before, self._fitted = self._fitted, self.coefficients - self._inverse @ gradient
        momentum = self._steps / (self._steps + 3)
        ahead = self._fitted + momentum * (self._fitted - before)
        self.coefficients = ahead.astype(np.float32)
        self._steps += 1

    def classifier(self) -> dict[str, np.ndarray]:
        """Returns the kernel `(F, classes)` and the bias `(classes,)` by tensor name, float32."""
        norm = np.linalg.norm(self._fitted[:-1], 2)
        is_large = 0 < self._max_norm < norm
        fitted = self._fitted * (self._max_norm / norm if is_large else 1)
        fitted = fitted.astype(np.float32)
        return {KERNEL: fitted[:-1], BIAS: fitted[-1]}

    @property
    def fitted(self) -> np.ndarray:
        """The fitted coefficients before scaling down, float32 `(F + 1, classes)`."""
        return self._fitted.astype(np.float32)


def fit(
    features: tf.Tensor,
    labels: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    penalty: float = PENALTY,
) -> dict[str, np.ndarray]:
    """Fits a classifier to features in memory, without sums from clients.

    Args:
      features: Inputs of the classifier, `(examples, F)`.
      labels: `(examples,)`.
      kernel: Kernel of the initial classifier, `(F, classes)`.
      bias: Bias of the initial classifier, `(classes,)`.
      penalty: Penalty of the kernel's squares.

    Returns:
      The tensors that `LogisticRegression.classifier` returns.
    """
    regression = LogisticRegression(np.asarray(kernel), np.asarray(bias), penalty)
    features, labels = tf.convert_to_tensor(features), tf.convert_to_tensor(labels)
    for number in range(PASSES):
        coefficients = tf.constant(regression.coefficients)
        regression.step(regression_sums(features, labels, coefficients, number == 0))
    return regression.classifier()
