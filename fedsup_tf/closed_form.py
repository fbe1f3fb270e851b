"""A classifier in closed form: ridge regression of the labels on a subnet's features.

Clients of few classes bias the classifier of a federated net most of all its layers. The ridge
regression of one-hot labels on the features depends on the clients' data only through sums over
images, so that it is the same however images are spread over clients (Fani et al., "Accelerating
Heterogeneous Federated Learning with Closed-form Classifiers", arXiv 2406.01116). Its penalty and
the scale of its logits are chosen by two-fold cross-validation: images of even number are one fold,
those of odd number the other.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

KERNEL, BIAS = "head/kernel", "head/bias"
# Factors of the regression's outputs, which lie mostly between 0 and 1.
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
# Penalties over the mean square of the features.
_PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4)


class FeatureSums(NamedTuple):
    """Sums over the images of each fold, of F features and a constant 1 as the last one.

    Attributes:
      products: Outer products of the features, `(2, F + 1, F + 1)`.
      by_class: Features of the images of each class, `(2, F + 1, classes)`.
    """

    products: tf.Tensor | np.ndarray
    by_class: tf.Tensor | np.ndarray


def feature_sums(
    features: tf.Tensor, labels: tf.Tensor, classes: int, first: int | tf.Tensor = 0
) -> FeatureSums:
    """Computes the sums over a batch; those of several batches and clients add up.

    Args:
      features: A subnet's inputs of the classifier, `(batch, F)`.
      labels: `(batch,)`, int32.
      classes: Number of classes.
      first: Number of the batch's first image among the client's.
    """
    in_folds = _in_folds(features, first)
    targets = tf.one_hot(labels, classes)
    return FeatureSums(
        tf.matmul(in_folds, in_folds, transpose_a=True),
        tf.einsum("fbi,bc->fic", in_folds, targets),
    )


def scaled_losses(
    features: tf.Tensor, labels: tf.Tensor, of_folds: tf.Tensor, first: int | tf.Tensor = 0
) -> tf.Tensor:
    """Sums a batch's cross-entropy with the regression of the other fold, for each of `SCALES`.

    Args:
      features: As for `feature_sums`.
      labels: As for `feature_sums`.
      of_folds: The coefficients that `fit_folds` returns, `(2, F + 1, classes)`.
      first: As for `feature_sums`.

    Returns:
      `(len(SCALES),)`.
    """
    # An image has its features in its own fold, and zeros in the other.
    outputs = tf.reduce_sum(tf.matmul(_in_folds(features, first), of_folds[::-1]), 0)
    targets = tf.one_hot(labels, of_folds.shape[2])
    losses = [
        tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(targets, scale * outputs))
        for scale in SCALES
    ]
    return tf.stack(losses)


def fit(features: tf.Tensor, labels: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Fits a classifier on features that are at hand, instead of on sums of them.

    Args:
      features: `(examples, F)`.
      labels: `(examples,)`.
      classes: Number of classes.

    Returns:
      As `fit_classifier`.
    """
    sums = feature_sums(features, labels, classes)
    penalty, of_folds = fit_folds(sums)
    losses = scaled_losses(features, labels, tf.constant(of_folds))
    return fit_classifier(sums, penalty, np.asarray(losses))


def fit_folds(sums: FeatureSums) -> tuple[float, np.ndarray]:
    """Fits a regression on each fold, with the penalty that predicts the other fold best.

    Args:
      sums: Sums over all clients' images.

    Returns:
      The penalty, and each fold's coefficients, float32 `(2, F + 1, classes)`.

    Raises:
      ValueError: If a fold has no image.
    """
    sums = _as_float64(sums)
    counts = sums.products[:, -1, -1]
    if not counts.min() > 0:
        raise ValueError(
            f"A classifier in closed form needs images in both folds, received {counts[0]:.0f} and "
            f"{counts[1]:.0f}. Give every client at least 2 images."
        )
    best = None
    for penalty in _PENALTIES:
        folds = [FeatureSums(*part) for part in zip(*sums, strict=True)]
        fitted = [_solve(fold, penalty) for fold in folds]
        # The squared error on the other fold, but for what no coefficient changes.
        error = sum(
            np.sum(coefficients * (fold.products @ coefficients - 2 * fold.by_class))
            for coefficients, fold in zip(fitted, reversed(folds), strict=True)
        )
        if best is None or error < best[0]:
            best = error, penalty, fitted
    return best[1], np.stack(best[2]).astype(np.float32)


def fit_classifier(sums: FeatureSums, penalty: float, losses: np.ndarray) -> dict[str, np.ndarray]:
    """Fits the classifier on both folds.

    Args:
      sums: Sums over all clients' images.
      penalty: Of `fit_folds`.
      losses: Sums of `scaled_losses`; the scale of the least is taken.

    Returns:
      The kernel `(F, classes)` and the bias `(classes,)` by tensor name, float32.
    """
    sums = _as_float64(sums)
    together = FeatureSums(*(part.sum(0) for part in sums))
    coefficients = SCALES[int(np.argmin(losses))] * _solve(together, penalty)
    # Predictions sum to 1 over the classes; softmax does not see what all logits have in common.
    coefficients -= coefficients.mean(1, keepdims=True)
    return {
        KERNEL: coefficients[:-1].astype(np.float32),
        BIAS: coefficients[-1].astype(np.float32),
    }


def _in_folds(features: tf.Tensor, first: int | tf.Tensor) -> tf.Tensor:
    """Returns the features with a 1 behind them, zeros in the other fold, `(2, batch, F + 1)`."""
    features = tf.concat([features, tf.ones_like(features[:, :1])], 1)
    is_odd = tf.cast((first + tf.range(tf.shape(features)[0])) % 2, tf.float32)
    return tf.stack([1 - is_odd, is_odd])[:, :, tf.newaxis] * features


def _as_float64(sums: FeatureSums) -> FeatureSums:
    return FeatureSums(*(np.asarray(part, np.float64) for part in sums))


def _solve(fold: FeatureSums, penalty: float) -> np.ndarray:
    """Returns the coefficients of a ridge regression whose constant is not penalized."""
    size = len(fold.products) - 1
    mean_square = np.trace(fold.products[:-1, :-1]) / size
    # Features may all be dead.
    ridge = np.full(size + 1, penalty * mean_square + 1e-9)
    ridge[-1] = 0
    return np.linalg.solve(fold.products + np.diag(ridge), fold.by_class)
