"""Classifier of files that only infer: a logistic regression with a penalty that the data chooses.

A file that trains needs a small kernel (`logistic_regression.PENALTY`). One that only infers does
not, and is more accurate with a penalty that is less by orders of magnitude where images are many
and features do not tell the classes apart by themselves. Each penalty is fitted twice in the same
passes over the images: to all images, and without a fifth of each client's. The penalty whose
second fit has the least mean cross-entropy on the images that it did not see gives the classifier.
One of them is the penalty of files that train, fitted as these are.

Cross-entropy decides instead of the number of right answers, because every image counts in it: on
some hundred images two penalties differ in a few answers only, and choosing by these was less
accurate, as was the largest penalty within a standard error of the best.

Six steps of Newton's bound would leave a small penalty's fit far from its minimum. The steps here
are therefore those of a limited-memory BFGS method that begins with that bound (`descent`). The
kernel's norm is not limited, since a factor of all logits changes no answer. What limits a file of
8-bit feature maps is that a small penalty tells classes apart by small differences of features,
which 8 bits do not resolve: its penalty is the best one from `LEAST_INT8_PENALTY`.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsup_tf import logistic_regression
from fedsup_tf.descent import Descent

# In a calibration, of files that only infer and of those of them that compute with 8 bits: kernel
# `(F, classes)`, bias `(classes,)` and the penalty, `(1,)`.
TENSORS = tuple(f"inference_head/{part}" for part in ("kernel", "bias", "penalty"))
INT8_TENSORS = tuple(f"int8_head/{part}" for part in ("kernel", "bias", "penalty"))
# Of the kernel's squares as in `logistic_regression`, from the largest.
SMALL_PENALTIES = (1e-3, 1e-4, 1e-5, 1e-6)
PENALTIES = (logistic_regression.PENALTY, *SMALL_PENALTIES)
# A net of 16,122 parameters on Fashion-MNIST: 79.8 percent right with 8 bits and 80.6 with floats;
# with a tenth of it 74.4 and 82.6, with a hundredth 63.2 and 82.4.
LEAST_INT8_PENALTY = 1e-4
# All fits, in the order of their coefficients: the penalty, and whether images are held out of it.
_FITS = tuple((penalty, False) for penalty in SMALL_PENALTIES) + tuple(
    (penalty, True) for penalty in PENALTIES
)
# The one of them that takes the steps of files that train.
_AS_TRAINS = (logistic_regression.PENALTY, True)
# Asks for the classifier of this module beside that of files that train.
CHOSEN = "chosen"
# Of as many images of a client one is held out, the third: of three images one, too.
_HELD_OUT_OF, _HELD_OUT = 5, 2
# Passes over the images: the last one compares.
PASSES = logistic_regression.PASSES + 1
# With fewer the choice would be chance.
_LEAST_HELD_OUT = 30
# Eigenvalues of the features' moments that are less, relative to the greatest, are rounding.
_LEAST_EIGENVALUE = 1.2e-7


class CandidateSums(NamedTuple):
    """Sums over images that fit and compare penalties, for F features and a constant 1.

    Of `fits` classifiers: those of `SMALL_PENALTIES` to all images, then those of `PENALTIES`
    without the images that are held out.

    Attributes:
      gradients: Of the cross-entropy by the coefficients, `(F + 1, fits, classes)`.
      losses: Cross-entropy of the same images, `(fits,)`.
      held_out_losses: Cross-entropy on the images that are held out, `(penalties,)`.
      held_out_right: How many of these are answered rightly, `(penalties,)`.
      held_out: Number of images that are held out, `()`.
    """

    gradients: tf.Tensor | np.ndarray
    losses: tf.Tensor | np.ndarray
    held_out_losses: tf.Tensor | np.ndarray
    held_out_right: tf.Tensor | np.ndarray
    held_out: tf.Tensor | np.ndarray


class PenaltyChoice(NamedTuple):
    """Penalties of the classifiers of files that only infer, and why.

    Attributes:
      penalty: The penalty of those that compute with floating-point feature maps. With
        `logistic_regression.PENALTY` it is the classifier of files that train; so it is if too few
        images could be held out to choose one.
      int8_penalty: The penalty of those that compute with 8 bits.
      held_out: Number of images that were held out.
      is_chosen: Whether these were enough.
      right: Share of right answers on them by penalty.
    """

    penalty: float
    int8_penalty: float
    held_out: int
    is_chosen: bool
    right: dict[float, float]


def is_held_out(positions: tf.Tensor | np.ndarray) -> tf.Tensor:
    """Returns which of a client's images are held out, by their positions from 0, bool."""
    return tf.equal(positions % _HELD_OUT_OF, _HELD_OUT)


def candidate_shapes(features: int, classes: int) -> dict[str, list[int]]:
    """Returns the shapes of `CandidateSums` by name."""
    return dict(
        gradients=[features + 1, len(_FITS), classes],
        losses=[len(_FITS)],
        held_out_losses=[len(PENALTIES)],
        held_out_right=[len(PENALTIES)],
        held_out=[],
    )


def candidate_sums(
    features: tf.Tensor, labels: tf.Tensor, held_out: tf.Tensor, coefficients: tf.Tensor
) -> CandidateSums:
    """Computes the sums over a batch; those of several batches and clients add up.

    Args:
      features: A subnet's inputs of the classifier, `(batch, F)`.
      labels: `(batch,)`, int32.
      held_out: Which images are held out, `(batch,)`, bool.
      coefficients: `InferenceClassifiers.coefficients`, `(F + 1, fits, classes)`.
    """
    features = logistic_regression.with_constant(features)
    logits = tf.tensordot(features, coefficients, 1)  # (batch, fits, classes)
    targets = tf.one_hot(labels, tf.shape(logits)[2])[:, tf.newaxis]
    held_out = tf.cast(held_out, tf.float32)[:, tf.newaxis]
    counted = 1 - held_out * tf.constant([leaves_out for _, leaves_out in _FITS], tf.float32)
    errors = (tf.nn.softmax(logits) - targets) * counted[..., tf.newaxis]
    losses = -tf.reduce_sum(tf.nn.log_softmax(logits) * targets, 2)
    compared = len(PENALTIES)
    guesses = tf.argmax(logits[:, -compared:], 2, tf.int32)
    is_right = tf.cast(tf.equal(guesses, labels[:, tf.newaxis]), tf.float32)
    return CandidateSums(
        gradients=tf.tensordot(features, errors, [[0], [0]]),
        losses=tf.reduce_sum(losses * counted, 0),
        held_out_losses=tf.reduce_sum(losses[:, -compared:] * held_out, 0),
        held_out_right=tf.reduce_sum(is_right * held_out, 0),
        held_out=tf.reduce_sum(held_out),
    )


class InferenceClassifiers:
    """Fits of all penalties, step by step, from sums over all images.

    Beside the coefficients and a few of their steps before, it keeps two matrices of the size of
    the moments.

    Args:
      kernel: The classifier to begin with, `(F, classes)`.
      bias: `(classes,)`.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray):
        start = np.concatenate([kernel, bias[np.newaxis]]).astype(np.float64)
        start -= start.mean(1, keepdims=True)
        self._descents = {fit: Descent(start) for fit in _FITS if fit != _AS_TRAINS}
        self._as_trains = logistic_regression.LogisticRegression(kernel, bias)
        self._steps, self._examples, self._mean_square = 0, 0, 0.0
        self._directions = self._curvatures = self._last = None

    @property
    def coefficients(self) -> np.ndarray:
        """Where the next sums are taken, the bias last, float32 `(F + 1, fits, classes)`."""
        is_last = self._steps == PASSES - 1
        points = {fit: descent.point for fit, descent in self._descents.items()}
        points[_AS_TRAINS] = self._as_trains.fitted if is_last else self._as_trains.coefficients
        return np.stack([points[fit] for fit in _FITS], 1).astype(np.float32)

    def step(self, sums: CandidateSums, moments: np.ndarray | None = None) -> None:
        """Takes a step of each fit; `PASSES` of them, the last of which compares, too.

        Args:
          sums: The sums at `coefficients`.
          moments: In the first step, the features' `RegressionSums.moments` over all images.
        """
        if moments is not None:
            self._use_moments(np.asarray(moments, np.float64))
        rest = max(1, self._examples - round(float(sums.held_out)))
        for fit, loss, gradient in zip(
            _FITS, sums.losses, np.moveaxis(sums.gradients, 1, 0), strict=True
        ):
            penalty, leaves_out = fit
            examples = rest if leaves_out else self._examples
            if fit != _AS_TRAINS:
                self._descend(self._descents[fit], penalty, loss, gradient, examples)
            elif self._steps < PASSES - 1:
                as_trains = logistic_regression.RegressionSums(gradient, moments)
                self._as_trains.step(as_trains, examples)
        self._steps, self._last = self._steps + 1, sums

    def _use_moments(self, moments):
        self._examples = max(1, round(moments[-1, -1]))
        moments = moments / self._examples
        self._mean_square = np.trace(moments[:-1, :-1]) / (len(moments) - 1)
        # A net that diverged has no finite features; nothing is fitted to them.
        is_finite = np.isfinite(moments).all()
        curvatures, self._directions = np.linalg.eigh(
            moments if is_finite else np.eye(len(moments))
        )
        least = _LEAST_EIGENVALUE * curvatures[-1]
        self._curvatures = np.maximum(curvatures, least)[:, np.newaxis] / 2

    def _descend(self, descent, penalty, loss, gradient, examples):
        """Takes a step from the loss and its gradient, summed over so many images."""
        penalty *= self._mean_square
        shrunk = penalty * descent.point
        shrunk[-1] = 0
        loss = float(loss) / examples + (shrunk * descent.point).sum() / 2
        gradient = np.asarray(gradient, np.float64) / examples + shrunk

        def bound(value):
            # Features may all be dead.
            scaled = (self._directions.T @ value) / (self._curvatures + penalty + 1e-9)
            return self._directions @ scaled

        descent.step(loss, gradient, bound)

    def choose(self) -> PenaltyChoice:
        """Compares the penalties by the images that were held out of the last sums."""
        held_out = round(float(self._last.held_out))
        right = np.asarray(self._last.held_out_right, np.float64) / max(1, held_out)
        losses = np.asarray(self._last.held_out_losses)
        losses = np.where(np.isfinite(losses), losses, np.inf)
        is_chosen = held_out >= _LEAST_HELD_OUT

        def best(least):
            # From the largest; with too few images there is one alone.
            allowed = sum(penalty >= least for penalty in PENALTIES) if is_chosen else 1
            return PENALTIES[int(np.argmin(losses[:allowed]))]

        return PenaltyChoice(
            best(0),
            best(LEAST_INT8_PENALTY),
            held_out,
            is_chosen,
            dict(zip(PENALTIES, right.tolist(), strict=True)),
        )

    def classifiers(self, choice: PenaltyChoice) -> dict[str, np.ndarray]:
        """Returns `TENSORS` and `INT8_TENSORS` by name, float32, as fitted to all images.

        Without those whose penalty is `logistic_regression.PENALTY`, with which the classifier is
        that of files that train.
        """
        tensors = {}
        for names, penalty in ((TENSORS, choice.penalty), (INT8_TENSORS, choice.int8_penalty)):
            if penalty in SMALL_PENALTIES:
                fitted = self._descents[penalty, False].best.astype(np.float32)
                values = (fitted[:-1], fitted[-1], np.array([penalty], np.float32))
                tensors.update(zip(names, values, strict=True))
        return tensors


def fit(
    features: tf.Tensor, labels: np.ndarray, held_out: np.ndarray, start: tuple[tf.Tensor, ...]
) -> dict[str, np.ndarray]:
    """Fits a classifier on features that are at hand, instead of on sums of them.

    Args:
      features: `(examples, F)`.
      labels: `(examples,)`.
      held_out: Which examples are held out to choose the penalty, `(examples,)`.
      start: Kernel `(F, classes)` and bias `(classes,)` to begin with.

    Returns:
      As `InferenceClassifiers.classifiers`.
    """
    fits = InferenceClassifiers(*map(np.asarray, start))
    features, labels = tf.convert_to_tensor(features), tf.convert_to_tensor(labels)
    moments = logistic_regression.moments_of(features)
    for _ in range(PASSES):
        coefficients = tf.constant(fits.coefficients)
        fits.step(candidate_sums(features, labels, held_out, coefficients), moments)
        moments = None
    return fits.classifiers(fits.choose())
