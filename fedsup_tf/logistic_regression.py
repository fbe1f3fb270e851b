"""Logistic regression of the labels on a subnet's features, which refits the subnet's classifier.

Clients with few classes bias the classifier of a federated net more than any other layer. A
regression on the features of all clients' images does not have this bias. It depends on the images
only through sums over them, so the result does not depend on how they are spread over clients.

The loss is the mean cross-entropy plus half the penalty times the features' mean square times the
sum of the kernel's squares. If there are many images and the features alone do not separate the
classes, a penalty of 0.000001 is much more accurate than one of 0.01; if there are few, it is less
accurate. Each penalty is therefore fitted twice in the same passes over the images: to all images,
and without a held-out fifth of each client's images. The penalty whose second fit has the lowest
mean cross-entropy on the held-out images is chosen, and its first fit is the classifier.

Penalties are compared by cross-entropy rather than accuracy, because every image contributes to it.
On a few hundred images, the predictions of two penalties differ only in a few cases. Choosing by
accuracy gave less accurate classifiers, as did the largest penalty within one standard error of the
best.

Each pass over the images sums gradients. Newton's matrix would differ between steps and classes;
half of the features' second moments bounds it (Böhning, "Multinomial logistic regression
algorithm", Annals of the Institute of Statistical Mathematics 44, 1992) and has to be summed only
once. The steps are those of a limited-memory BFGS method that starts from that bound (`descent`).

With 8-bit feature maps, a small penalty separates classes by small differences of features that 8
bits do not resolve, so only penalties of at least `MIN_INT8_PENALTY` are considered for them.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsup_tf.descent import Descent

KERNEL, BIAS = "head/kernel", "head/bias"
# Names in a calibration of the kernel `(F, classes)`, the bias `(classes,)` and the penalty `(1,)`
# of the classifier, and of the classifier of files that compute with 8 bits.
TENSORS = (KERNEL, BIAS, "head/penalty")
INT8_TENSORS = tuple(f"int8_head/{part}" for part in ("kernel", "bias", "penalty"))
# Penalties to choose from, in descending order.
PENALTIES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
# Requests the penalty that is best on the held-out images.
CHOSEN = "chosen"
# Accuracy in percent of a net of 16,122 parameters on Fashion-MNIST with this penalty: 79.8 with 8
# bits, 80.6 with floats. With a tenth of it: 74.4 and 82.6; with a hundredth: 63.2 and 82.4.
MIN_INT8_PENALTY = 1e-4
# Passes over the images. Twice as many change accuracies by half a percent at most, either way.
PASSES = 7
# One in five of a client's images is held out, starting with the third, so that a client with three
# images also holds one out.
_HELD_OUT_OF, _HELD_OUT = 5, 2
# With fewer held-out images, the choice would be random.
_MIN_HELD_OUT = 30
# Eigenvalues of the features' moments below this fraction of the largest are rounding errors.
_MIN_EIGENVALUE = 1.2e-7


class RegressionSums(NamedTuple):
    """Sums over images for fitting and comparing penalties, with F features and a constant 1.

    The `fits` classifiers are those of all penalties fitted to all images; if a penalty has to be
    chosen, they are followed by those of all penalties fitted without the held-out images, which
    are `compared`.

    Attributes:
      gradients: Gradients of the cross-entropy with respect to the coefficients,
        `(F + 1, fits, classes)`.
      losses: Cross-entropy of the images that each classifier is fitted to, `(fits,)`.
      held_out_losses: Cross-entropy of the held-out images, `(compared,)`.
      held_out_right: Number of correctly classified held-out images, `(compared,)`.
      held_out: Number of held-out images, `()`.
    """

    gradients: tf.Tensor | np.ndarray
    losses: tf.Tensor | np.ndarray
    held_out_losses: tf.Tensor | np.ndarray
    held_out_right: tf.Tensor | np.ndarray
    held_out: tf.Tensor | np.ndarray


class PenaltyChoice(NamedTuple):
    """Penalties chosen for the classifiers, and the basis of the choice.

    Attributes:
      penalty: Penalty of the classifier; the largest if too few images were held out to choose one.
      int8_penalty: Penalty of the classifier of files that compute with 8 bits.
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


def sum_shapes(features: int, classes: int, penalty: float | str) -> dict[str, list[int]]:
    """Returns the shapes of `RegressionSums` by name, for a penalty or `CHOSEN`."""
    compared = len(PENALTIES) if penalty == CHOSEN else 0
    fits = 2 * compared or 1
    return dict(
        gradients=[features + 1, fits, classes],
        losses=[fits],
        held_out_losses=[compared],
        held_out_right=[compared],
        held_out=[],
    )


def regression_sums(
    features: tf.Tensor, labels: tf.Tensor, held_out: tf.Tensor, coefficients: tf.Tensor
) -> RegressionSums:
    """Computes the sums over a batch; sums of several batches and clients add up.

    Args:
      features: Inputs of a subnet's classifier, `(batch, F)`.
      labels: `(batch,)`, int32.
      held_out: Mask of the held-out images, bool `(batch,)`.
      coefficients: `Regression.coefficients`, `(F + 1, fits, classes)`.
    """
    fits = coefficients.shape[1]
    to_all = fits // 2 or 1
    features = _with_constant(features)
    logits = tf.tensordot(features, coefficients, 1)  # (batch, fits, classes)
    targets = tf.one_hot(labels, tf.shape(logits)[2])[:, tf.newaxis]
    held_out = tf.cast(held_out, tf.float32)[:, tf.newaxis]
    counted = 1 - held_out * tf.constant([number >= to_all for number in range(fits)], tf.float32)
    errors = (tf.nn.softmax(logits) - targets) * counted[..., tf.newaxis]
    losses = -tf.reduce_sum(tf.nn.log_softmax(logits) * targets, 2)
    guesses = tf.argmax(logits[:, to_all:], 2, tf.int32)
    is_right = tf.cast(tf.equal(guesses, labels[:, tf.newaxis]), tf.float32)
    return RegressionSums(
        gradients=tf.tensordot(features, errors, [[0], [0]]),
        losses=tf.reduce_sum(losses * counted, 0),
        held_out_losses=tf.reduce_sum(losses[:, to_all:] * held_out, 0),
        held_out_right=tf.reduce_sum(is_right * held_out, 0),
        held_out=tf.reduce_sum(held_out),
    )


def moments_of(features: tf.Tensor) -> tf.Tensor:
    """Returns the summed outer products of features `(batch, F)` with a 1, `(F + 1, F + 1)`."""
    features = _with_constant(features)
    return tf.matmul(features, features, transpose_a=True)


def _with_constant(features: tf.Tensor) -> tf.Tensor:
    """Appends a constant 1 to features `(batch, F)`."""
    return tf.concat([features, tf.ones_like(features[:, :1])], 1)


class Regression:
    """Fits the classifiers of all penalties, step by step, from sums over all images.

    Besides the coefficients and a few previous steps, it stores a matrix of the size of the
    moments.

    Args:
      kernel: Kernel of the initial classifier, `(F, classes)`.
      bias: Bias of the initial classifier, `(classes,)`.
      penalty: Penalty of the kernel's squares; `CHOSEN` chooses one of `PENALTIES`.

    Attributes:
      coefficients: Coefficients for the next sums, the bias last, float32
        `(F + 1, fits, classes)`.
      examples: Number of images; 0 before the first step.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, penalty: float | str = CHOSEN):
        start = np.concatenate([kernel, bias[np.newaxis]]).astype(np.float64)
        # Softmax is invariant to a constant that is added to all logits.
        self._start = start - start.mean(1, keepdims=True)
        self._penalty = penalty
        # All fits in the order of their coefficients: the penalty, and whether it leaves out the
        # held-out images.
        self._fits = [(penalty, False)]
        if penalty == CHOSEN:
            self._fits = [(value, part) for part in (False, True) for value in PENALTIES]
        self.coefficients = np.stack([self._start] * len(self._fits), 1).astype(np.float32)
        self.examples, self._mean_square = 0, 0.0
        # The descents work in the directions of the moments' eigenvectors, in which the bound on
        # the Hessian is diagonal.
        self._directions = self._curvatures = self._descents = self._last = None

    def step(self, sums: RegressionSums, moments: np.ndarray | None = None) -> None:
        """Takes a step of each fit; must be called `PASSES` times.

        Args:
          sums: The sums at `coefficients`.
          moments: `moments_of` the features over all images; required in the first step only.

        Raises:
          ValueError: If the sums cover no images.
        """
        if moments is not None:
            self._use_moments(np.asarray(moments, np.float64))
        rest = max(1, self.examples - round(float(sums.held_out)))
        examples = np.array([rest if part else self.examples for _, part in self._fits])
        penalties = self._mean_square * np.array([penalty for penalty, _ in self._fits])
        shrunk = penalties[:, np.newaxis] * self.coefficients
        shrunk[-1] = 0
        losses = np.asarray(sums.losses, np.float64) / examples
        losses += (shrunk * self.coefficients).sum((0, 2)) / 2
        gradients = np.asarray(sums.gradients, np.float64) / examples[:, np.newaxis] + shrunk
        gradients = np.tensordot(self._directions, gradients, [[0], [0]])
        for number, (descent, penalty) in enumerate(zip(self._descents, penalties, strict=True)):
            # The constant avoids a division by 0 if all features are dead.
            curvatures = self._curvatures + penalty + 1e-9
            descent.step(losses[number], gradients[:, number], curvatures)
        points = np.stack([descent.point for descent in self._descents], 1)
        self.coefficients = np.tensordot(self._directions, points, 1).astype(np.float32)
        self._last = sums

    def _use_moments(self, moments):
        self.examples = round(moments[-1, -1])
        if not self.examples:
            raise ValueError(
                "A classifier is fitted to clients' images, received none. Give at least one "
                "client an image."
            )
        moments = moments / self.examples
        self._mean_square = np.trace(moments[:-1, :-1]) / (len(moments) - 1)
        # The features of a diverged net are not finite; nothing can be fitted to them.
        is_finite = np.isfinite(moments).all()
        curvatures, self._directions = np.linalg.eigh(
            moments if is_finite else np.eye(len(moments))
        )
        minimum = _MIN_EIGENVALUE * curvatures[-1]
        self._curvatures = np.maximum(curvatures, minimum)[:, np.newaxis] / 2
        start = self._directions.T @ self._start
        self._descents = [Descent(start) for _ in self._fits]

    def choose(self) -> PenaltyChoice:
        """Chooses penalties by the held-out images of the last sums."""
        held_out = round(float(self._last.held_out))
        if self._penalty != CHOSEN:
            return PenaltyChoice(self._penalty, self._penalty, held_out, False, {})
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
        """Returns `TENSORS` by name, float32, as fitted to all images.

        If files that compute with 8 bits get another penalty, they are followed by `INT8_TENSORS`.
        """
        tensors = {}
        of_names = {TENSORS: choice.penalty}
        if choice.int8_penalty != choice.penalty:
            of_names[INT8_TENSORS] = choice.int8_penalty
        for names, penalty in of_names.items():
            best = self._descents[self._fits.index((penalty, False))].best
            fitted = (self._directions @ best).astype(np.float32)
            values = (fitted[:-1], fitted[-1], np.array([penalty], np.float32))
            tensors.update(zip(names, values, strict=True))
        return tensors


def fit(
    features: tf.Tensor,
    labels: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    penalty: float | str = CHOSEN,
    held_out: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Fits the classifiers to features in memory, without sums from clients.

    Args:
      features: Inputs of the classifier, `(examples, F)`.
      labels: `(examples,)`.
      kernel: Kernel of the initial classifier, `(F, classes)`.
      bias: Bias of the initial classifier, `(classes,)`.
      penalty: Penalty of the kernel's squares; `CHOSEN` chooses one of `PENALTIES`.
      held_out: Mask of the examples held out to choose the penalty, `(examples,)`; by default every
        fifth example.

    Returns:
      The tensors that `Regression.classifiers` returns.
    """
    if held_out is None:
        held_out = is_held_out(np.arange(len(labels)))
    regression = Regression(np.asarray(kernel), np.asarray(bias), penalty)
    features, labels = tf.convert_to_tensor(features), tf.convert_to_tensor(labels)
    moments = moments_of(features)
    for _ in range(PASSES):
        coefficients = tf.constant(regression.coefficients)
        regression.step(regression_sums(features, labels, held_out, coefficients), moments)
        moments = None
    return regression.classifiers(regression.choose())
