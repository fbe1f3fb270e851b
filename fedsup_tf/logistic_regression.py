"""Logistic regression of the labels on a subnet's features: fits its classifier anew.

Clients of few classes bias the classifier of a federated net most of all its layers. A regression
on the features of all clients' images does not have that bias, and depends on them only through
sums over images, so that it is the same however images are spread over clients.

Its loss is the mean cross-entropy plus half the penalty times the features' mean square times the
sum of the kernel's squares. Each step needs one pass over the images, for the sum of the gradients.
Newton's matrix would differ from step to step and between classes; half of the features' second
moments bounds it (Böhning, "Multinomial logistic regression algorithm", Annals of the Institute of
Statistical Mathematics 44, 1992), so that these are summed once. Steps are accelerated by
Nesterov's momentum.

A kernel that is much larger than the trained one makes the gradients of all layers before it
larger, up to where training on a phone diverges: after a short training, whose features hardly
differ between classes, by a hundred times. The fitted classifier is therefore scaled down to at
most twice the trained one's norm; each image's most likely class stays the same. Files that only
infer have a classifier of their own, see `inference_classifier`.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

KERNEL, BIAS = "head/kernel", "head/bias"
# After a long training by SGD it keeps the kernel's norm within about twice the trained one's
# without scaling. A smaller one is more accurate, for nets that only infer: a phone that trains on
# from it on a few classes forgets the others much sooner.
PENALTY = 0.01
# Times the trained kernel's spectral norm, at most.
_MOST_GROWTH = 2.0
# Passes over the images. As many more change accuracies by two tenths of a percent.
PASSES = 6


class RegressionSums(NamedTuple):
    """Sums over images of F features, to which a constant 1 is added as the last one.

    Attributes:
      gradient: Gradient of the cross-entropy by the coefficients, `(F + 1, classes)`.
      moments: Outer products of the features, `(F + 1, F + 1)`. They do not depend on the
        coefficients; None after the first pass.
    """

    gradient: tf.Tensor | np.ndarray
    moments: tf.Tensor | np.ndarray | None = None


def regression_sums(
    features: tf.Tensor, labels: tf.Tensor, coefficients: tf.Tensor, with_moments: bool
) -> RegressionSums:
    """Computes the sums over a batch; those of several batches and clients add up.

    Args:
      features: A subnet's inputs of the classifier, `(batch, F)`.
      labels: `(batch,)`, int32.
      coefficients: `LogisticRegression.coefficients`, `(F + 1, classes)`.
      with_moments: Whether the outer products are summed, too.
    """
    moments = moments_of(features) if with_moments else None
    features = with_constant(features)
    chances = tf.nn.softmax(tf.matmul(features, coefficients))
    errors = chances - tf.one_hot(labels, tf.shape(coefficients)[1])
    return RegressionSums(tf.matmul(features, errors, transpose_a=True), moments)


def moments_of(features: tf.Tensor) -> tf.Tensor:
    """Returns the outer products of features `(batch, F)` and a constant 1, `(F + 1, F + 1)`."""
    features = with_constant(features)
    return tf.matmul(features, features, transpose_a=True)


def with_constant(features: tf.Tensor) -> tf.Tensor:
    """Adds a constant 1 to features `(batch, F)`, as the last one."""
    return tf.concat([features, tf.ones_like(features[:, :1])], 1)


class LogisticRegression:
    """A regression that is fitted step by step, from sums over all images.

    Args:
      kernel: The classifier to begin with, `(F, classes)`. The fitted one has at most twice its
        spectral norm, unless that is 0.
      bias: `(classes,)`.
      penalty: Penalty of the kernel's squares.

    Attributes:
      coefficients: Where the next step takes its gradient, the bias as the last row, float32
        `(F + 1, classes)`.
      examples: Number of images, 0 before the first step.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, penalty: float = PENALTY):
        start = np.concatenate([kernel, bias[np.newaxis]]).astype(np.float64)
        # Softmax does not see what all logits have in common.
        self._fitted = start - start.mean(1, keepdims=True)
        self.coefficients = self._fitted.astype(np.float32)
        self._most_norm = _MOST_GROWTH * np.linalg.norm(self._fitted[:-1], 2)
        self._penalty, self._steps = penalty, 0
        self._inverse = self._penalties = None
        self.examples = 0

    def step(self, sums: RegressionSums, examples: int | None = None) -> None:
        """Takes a step from the sums at `coefficients`, which the first time have the moments.

        Args:
          sums: The sums.
          examples: Asked for in the first step: number of images in the gradients, if these are of
            some images only. The moments are of all, and bound Newton's matrix of some as well.

        Raises:
          ValueError: If the sums are of no image.
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
            # Features may all be dead.
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
        is_large = 0 < self._most_norm < norm
        fitted = self._fitted * (self._most_norm / norm if is_large else 1)
        fitted = fitted.astype(np.float32)
        return {KERNEL: fitted[:-1], BIAS: fitted[-1]}

    @property
    def fitted(self) -> np.ndarray:
        """The fitted coefficients, not scaled down, float32 `(F + 1, classes)`."""
        return self._fitted.astype(np.float32)


def fit(
    features: tf.Tensor,
    labels: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    penalty: float = PENALTY,
) -> dict[str, np.ndarray]:
    """Fits a classifier on features that are at hand, instead of on sums of them.

    Args:
      features: `(examples, F)`.
      labels: `(examples,)`.
      kernel: The classifier to begin with, `(F, classes)`.
      bias: `(classes,)`.
      penalty: Penalty of the kernel's squares.

    Returns:
      As `LogisticRegression.classifier`.
    """
    regression = LogisticRegression(np.asarray(kernel), np.asarray(bias), penalty)
    features, labels = tf.convert_to_tensor(features), tf.convert_to_tensor(labels)
    for number in range(PASSES):
        coefficients = tf.constant(regression.coefficients)
        regression.step(regression_sums(features, labels, coefficients, number == 0))
    return regression.classifier()
