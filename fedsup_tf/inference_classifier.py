"""Classifier of inference-only files: logistic regression with a penalty chosen by the data.

A trainable file needs a small kernel (`logistic_regression.PENALTY`). An inference-only file does
not: if there are many images and the features alone do not separate the classes, a penalty that is
smaller by orders of magnitude is more accurate. Each penalty is fitted twice in the same passes
over the images: to all images, and without a held-out fifth of each client's images. The penalty
whose second fit has the lowest mean cross-entropy on the held-out images is chosen, and its first
fit is the classifier. One candidate is the penalty of trainable files, fitted in the same way as
for those files.

Penalties are compared by cross-entropy rather than accuracy, because every image contributes to it.
On a few hundred images, the predictions of two penalties differ only in a few cases. Choosing by
accuracy gave less accurate classifiers, as did the largest penalty within one standard error of the
best.

Six steps with a bound on Newton's matrix would leave the fit of a small penalty far from its
minimum. The steps here are therefore those of a limited-memory BFGS method that starts from that
bound (`descent`). The kernel's norm is not limited, since scaling all logits changes no prediction.
With 8-bit feature maps, however, a small penalty separates classes by small differences of features
that 8 bits do not resolve, so only penalties of at least `MIN_INT8_PENALTY` are considered.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsup_tf import logistic_regression
from fedsup_tf.descent import Descent

# Names in a calibration of the kernel `(F, classes)`, the bias `(classes,)` and the penalty `(1,)`
# of inference-only files, and of inference-only files that compute with 8 bits.
TENSORS = tuple(f"inference_head/{part}" for part in ("kernel", "bias", "penalty"))
INT8_TENSORS = tuple(f"int8_head/{part}" for part in ("kernel", "bias", "penalty"))
# Penalties of the kernel's squares as in `logistic_regression`, in descending order.
SMALL_PENALTIES = (1e-3, 1e-4, 1e-5, 1e-6)
PENALTIES = (logistic_regression.PENALTY, *SMALL_PENALTIES)
# Accuracy in percent of a net of 16,122 parameters on Fashion-MNIST with this penalty: 79.8 with 8
# bits, 80.6 with floats. With a tenth of it: 74.4 and 82.6; with a hundredth: 63.2 and 82.4.
MIN_INT8_PENALTY = 1e-4
# All fits in the order of their coefficients: the penalty, and whether it leaves out the held-out
# images.
_FITS = tuple((penalty, False) for penalty in SMALL_PENALTIES) + tuple(
    (penalty, True) for penalty in PENALTIES
)
# The fit that takes the steps of `logistic_regression`, as the classifier of trainable files does.
_AS_TRAINS = (logistic_regression.PENALTY, True)
# Requests the classifier of this module in addition to that of trainable files.
CHOSEN = "chosen"
# One in five of a client's images is held out, starting with the third, so that a client with three
# images also holds one out.
_HELD_OUT_OF, _HELD_OUT = 5, 2
# Passes over the images; the last one compares the penalties.
PASSES = logistic_regression.PASSES + 1
# With fewer held-out images, the choice would be random.
_MIN_HELD_OUT = 30
# Eigenvalues of the features' moments below this fraction of the largest are rounding errors.
_MIN_EIGENVALUE = 1.2e-7


class CandidateSums(NamedTuple):
    """Sums over images for fitting and comparing penalties, with F features and a constant 1.

    The `fits` classifiers are those of `SMALL_PENALTIES` fitted to all images, followed by those of
    `PENALTIES` fitted without the held-out images.

    Attributes:
      gradients: Gradients of the cross-entropy with respect to the coefficients,
        `(F + 1, fits, classes)`.
      losses: Cross-entropy of the images that each classifier is fitted to, `(fits,)`.
      held_out_losses: Cross-entropy of the held-out images, `(penalties,)`.
      held_out_right: Number of correctly classified held-out images, `(penalties,)`.
      held_out: Number of held-out images, `()`.
    """

    gradients: tf.Tensor | np.ndarray
    losses: tf.Tensor | np.ndarray
    held_out_losses: tf.Tensor | np.ndarray
    held_out_right: tf.Tensor | np.ndarray
    held_out: tf.Tensor | np.ndarray


class PenaltyChoice(NamedTuple):
    """Penalties chosen for the classifiers of inference-only files, and the basis of the choice.

    Attributes:
      penalty: Penalty for files with floating-point feature maps. If it is
        `logistic_regression.PENALTY`, they use the classifier of trainable files; it also is if too
        few images were held out to choose a penalty.
      int8_penalty: Penalty for files that compute with 8 bits.
      held_out: Number of held-out images.
      is_chosen: Whether there were enough held-out images to choose.
      right: Accuracy on the held-out images by penalty, from 0 to 1.
    """

    penalty: float
    int8_penalty: float
    held_out: int
    is_chosen: bool
    right: dict[float, float]


def is_held_out(positions: tf.Tensor | np.ndarray) -> tf.Tensor:
    """Returns a bool mask of a client's held-out images, given their positions from 0."""
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
    """Computes the sums over a batch; sums of several batches and clients add up.

    Args:
      features: Inputs of a subnet's classifier, `(batch, F)`.
      labels: `(batch,)`, int32.
      held_out: Mask of the held-out images, bool `(batch,)`.
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
    """Fits the classifiers of all penalties, step by step, from sums over all images.

    Besides the coefficients and a few previous steps, it stores two matrices of the size of the
    moments.

    Args:
      kernel: Kernel of the initial classifier, `(F, classes)`.
      bias: Bias of the initial classifier, `(classes,)`.
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
        """Coefficients for the next sums, the bias last, float32 `(F + 1, fits, classes)`."""
        is_last = self._steps == PASSES - 1
        points = {fit: descent.point for fit, descent in self._descents.items()}
        points[_AS_TRAINS] = self._as_trains.fitted if is_last else self._as_trains.coefficients
        return np.stack([points[fit] for fit in _FITS], 1).astype(np.float32)

    def step(self, sums: CandidateSums, moments: np.ndarray | None = None) -> None:
        """Takes a step of each fit; must be called `PASSES` times, the last for the comparison.

        Args:
          sums: The sums at `coefficients`.
          moments: `RegressionSums.moments` of the features over all images; required in the first
            step only.
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
        # The features of a diverged net are not finite; nothing can be fitted to them.
        is_finite = np.isfinite(moments).all()
        curvatures, self._directions = np.linalg.eigh(
            moments if is_finite else np.eye(len(moments))
        )
        minimum = _MIN_EIGENVALUE * curvatures[-1]
        self._curvatures = np.maximum(curvatures, minimum)[:, np.newaxis] / 2

    def _descend(self, descent, penalty, loss, gradient, examples):
        """Takes a step of one fit, given its loss and gradient summed over `examples` images."""
        penalty *= self._mean_square
        shrunk = penalty * descent.point
        shrunk[-1] = 0
        loss = float(loss) / examples + (shrunk * descent.point).sum() / 2
        gradient = np.asarray(gradient, np.float64) / examples + shrunk

        def bound(value):
            # The constant avoids a division by 0 if all features are dead.
            scaled = (self._directions.T @ value) / (self._curvatures + penalty + 1e-9)
            return self._directions @ scaled

        descent.step(loss, gradient, bound)

    def choose(self) -> PenaltyChoice:
        """Chooses penalties by the held-out images of the last sums."""
        held_out = round(float(self._last.held_out))
        right = np.asarray(self._last.held_out_right, np.float64) / max(1, held_out)
        losses = np.asarray(self._last.held_out_losses)
        losses = np.where(np.isfinite(losses), losses, np.inf)
        is_chosen = held_out >= _MIN_HELD_OUT

        def best(minimum):
            # Penalties are in descending order; with too few images, only the largest is allowed.
            allowed = sum(penalty >= minimum for penalty in PENALTIES) if is_chosen else 1
            return PENALTIES[int(np.argmin(losses[:allowed]))]

        return PenaltyChoice(
            best(0),
            best(MIN_INT8_PENALTY),
            held_out,
            is_chosen,
            dict(zip(PENALTIES, right.tolist(), strict=True)),
        )

    def classifiers(self, choice: PenaltyChoice) -> dict[str, np.ndarray]:
        """Returns `TENSORS` and `INT8_TENSORS` by name, float32, as fitted to all images.

        Tensors for which `logistic_regression.PENALTY` was chosen are omitted, since their files
        use the classifier of trainable files.
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
    """Fits the classifiers to features in memory, without sums from clients.

    Args:
      features: Inputs of the classifier, `(examples, F)`.
      labels: `(examples,)`.
      held_out: Mask of the examples held out to choose the penalties, `(examples,)`.
      start: Initial kernel `(F, classes)` and bias `(classes,)`.

    Returns:
      The tensors that `InferenceClassifiers.classifiers` returns.
    """
    fits = InferenceClassifiers(*map(np.asarray, start))
    features, labels = tf.convert_to_tensor(features), tf.convert_to_tensor(labels)
    moments = logistic_regression.moments_of(features)
    for _ in range(PASSES):
        coefficients = tf.constant(fits.coefficients)
        fits.step(candidate_sums(features, labels, held_out, coefficients), moments)
        moments = None
    return fits.classifiers(fits.choose())
