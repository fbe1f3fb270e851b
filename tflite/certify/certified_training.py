"""Training checks of a certificate: compare all weights after each step with TensorFlow's.

Two correct engines differ where the input of a ReLU6 lies within rounding error of 0 or 6
(`relu_ties`). With these few comparisons resolved as in the exported model, the weights agree to
single rounding errors, even after ten steps; with the reference's own comparisons, they drift apart
to 1e-3.
"""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from fedsup_tf.space import MEAN_SQUARE
from tflite.certify.checks import Check, UncheckedModel, compare
from tflite.certify.reference import Reference
from tflite.certify.relu_ties import ResolvedStep, largest_difference, resolve_ties
from tflite.export.training_module import MEAN_SQUARE_DECAY
from tflite.format.metadata import ModelMetadata

LEARNING_RATE = 0.05
# Maximum `largest_difference` of the weights after one step. The rounding error of a weight of size
# 1 is 1.2e-7; measured differences after a step were 1.2e-7 to 8e-7 for subnets of 0.2 and 1.9
# million weights. A different comparison causes 1e-6 to 1e-4, a wrong gradient 1e-3 or more.
STEP_TOLERANCE = 2e-6
# Additional tolerance for each further step of a run, since rounding errors accumulate.
_RUN_TOLERANCE = 1e-6
# Difference above which a step is searched for different comparisons.
_ENOUGH = 9e-7
# Maximum relative error of the change of the weights before the classifier in fine-tuning steps.
# `STEP_TOLERANCE` alone would not show it: with small `feature_rates`, they hardly change.
_FEATURE_RATE_TOLERANCE = 0.01
# Maximum difference of the loss, relative to the loss, or to 1 if the loss is smaller.
_LOSS_TOLERANCE = 2e-5
# Maximum difference of a mean square, relative to the largest value of its tensor.
_MEAN_SQUARE_TOLERANCE = 2e-5


class TrainingChecks:
    """Trains an exported file and its reference side by side."""

    def __init__(
        self,
        open_model: Callable[[], UncheckedModel],
        metadata: ModelMetadata,
        reference: Reference,
        images: np.ndarray,
        labels: np.ndarray,
    ):
        """Prepares the checks.

        Args:
          open_model: Function that opens a new instance of the file in the runtime to check.
          metadata: Metadata of the file.
          reference: Reference of the subnet in TensorFlow.
          images: `(examples, height, width, channels)`, uint8; steps cycle through them.
          labels: `(examples,)`, integers.
        """
        self._open = open_model
        self._reference = reference
        self._images, self._labels = images, labels
        self._size = metadata.batch_sizes["train"]
        self._feature_rates = metadata.feature_rates
        # Weight of the batch's mean squares in the frozen ones.
        self._follow = 1 - MEAN_SQUARE_DECAY if self._feature_rates is None else 0.0
        fresh = self._open().state()
        names = [name for name in metadata.variables if not name.endswith(MEAN_SQUARE)]
        self._frozen = [name for name in metadata.variables if name not in names]
        self._weights = {name: tf.constant(fresh[name]) for name in names}
        self._no_momenta = {name: tf.zeros_like(value) for name, value in self._weights.items()}

    def run(self, steps: int) -> list[Check]:
        """Runs all training checks, with `steps` steps in those that take several steps."""
        return [
            *self._from_equal_weights(steps),
            *self._free_run(steps),
            self._batch_of_one(),
            self._filling(),
            self._no_weights(),
        ]

    def _batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        places = np.arange(number * self._size, (number + 1) * self._size) % len(self._labels)
        return self._images[places], self._labels[places]

    def _from_equal_weights(self, steps: int) -> list[Check]:
        """Compares single steps, each starting from the reference's weights without momentum."""
        model = self._open()
        weights = self._weights
        resolved, losses, squares, changes, features = [], [], [], [], []
        for number in range(steps):
            images, labels = self._batch(number)
            state = model.state()
            model.restore({**state, **{name: value.numpy() for name, value in weights.items()}})
            loss = model.train(images, labels, LEARNING_RATE)
            found = model.state()
            step = (weights, self._no_momenta, images, labels, LEARNING_RATE, None)
            result = resolve_ties(self._reference, found, *step, _ENOUGH)
            resolved.append(result)
            losses.append((loss, float(result.step.loss)))
            squares.append(self._mean_square_difference(state, found, result))
            after = {name: value.numpy() for name, value in weights.items()}
            changes.append(largest_difference(after, result.step.weights))
            features.append(_feature_changes(after, found, result.step.weights))
            weights = result.step.weights
            if result.after > STEP_TOLERANCE:
                break  # The search for ties is slow if they do not explain the difference.
        decided = sum(result.decided for result in resolved)
        with_ties = sum(result.decided > 0 for result in resolved)
        note = (
            f"{len(resolved)} steps from equal weights; {decided} comparisons in {with_ties} of "
            f"them decided as the file does, the farthest "
            f"{max(result.distance for result in resolved):.1e} from its bound; without that "
            f"{max(result.before for result in resolved):.1e}"
        )
        worst = float(np.max([result.after for result in resolved]))
        scale = max(changes) or 1.0
        difference = float(np.max(squares))
        tolerance = _MEAN_SQUARE_TOLERANCE if self._follow else 0.0
        told = "the tolerance is relative" if self._follow else "kept bit for bit"
        return [
            Check(
                "train, single steps",
                worst <= STEP_TOLERANCE,
                worst,
                worst / scale,
                STEP_TOLERANCE,
                note,
            ),
            _loss_check("train, losses", losses),
            Check(
                "train, mean squares",
                difference <= tolerance,
                None,
                difference,
                tolerance,
                f"{len(self._frozen)} tensors; {told}",
            ),
            *self._feature_rate_check(np.sum(features, 0)),
        ]

    def _feature_rate_check(self, changes: np.ndarray) -> list[Check]:
        """Checks the sums of `_feature_changes` of a fine-tuned file that trains these weights."""
        found, expected = changes
        if self._feature_rates is None or not expected:
            return []
        low, high = self._feature_rates
        error = abs(float(found / expected) - 1)
        return [
            Check(
                "train, feature rate",
                error <= _FEATURE_RATE_TOLERANCE,
                None,
                error,
                _FEATURE_RATE_TOLERANCE,
                f"changes of the weights before the classifier, rates {low:.3g} to {high:.3g}",
            )
        ]

    def _mean_square_difference(
        self,
        before: Mapping[str, np.ndarray],
        found: Mapping[str, np.ndarray],
        resolved: ResolvedStep,
    ) -> float:
        worst = 0.0
        for name in self._frozen:
            new = resolved.step.computed.mean_squares[name].numpy()
            expected = before[name] + self._follow * (new - before[name])
            difference = np.abs(found[name] - expected).max() / max(np.abs(expected).max(), 1e-30)
            worst = np.maximum(worst, difference)  # NaN if either is.
        return float(worst)

    def _free_run(self, steps: int) -> list[Check]:
        """Compares consecutive steps with momentum; weights are not synchronized in between."""
        model = self._open()
        weights, momenta = self._weights, self._no_momenta
        drifting, drifting_momenta = weights, momenta
        tolerance = STEP_TOLERANCE + (steps - 1) * _RUN_TOLERANCE
        seen, decided, difference, losses = None, 0, 0.0, []
        for number in range(steps):
            images, labels = self._batch(number)
            loss = model.train(images, labels, LEARNING_RATE)
            found = model.state()
            step = (weights, momenta, images, labels, LEARNING_RATE, seen)
            result = resolve_ties(self._reference, found, *step, difference + _ENOUGH)
            # Until a comparison differs, this run is also the reference's own run.
            is_own = drifting is weights and not result.decided
            weights, momenta = result.step.weights, result.step.momenta
            decided, difference = decided + result.decided, result.after
            losses.append((loss, float(result.step.loss)))
            own = result.step
            if not is_own:
                own = self._reference.step(
                    drifting, drifting_momenta, images, labels, LEARNING_RATE, seen
                )
            drifting, drifting_momenta = own.weights, own.momenta
            seen = labels if seen is None else np.union1d(seen, labels)
            if difference > tolerance:
                break
        drift = largest_difference(found, drifting)
        start = {name: value.numpy() for name, value in self._weights.items()}
        scale = largest_difference(start, weights) or 1.0
        note = (
            f"{len(losses)} steps with momentum; {decided} comparisons decided as the file does; "
            f"without that the run drifts to {drift:.1e}"
        )
        return [
            Check(
                "train, free run",
                difference <= tolerance,
                difference,
                difference / scale,
                tolerance,
                note,
            ),
            _loss_check("train, losses of the run", losses),
        ]

    def _batch_of_one(self) -> Check:
        model = self._open()
        images, labels = self._images[:1], self._labels[:1]
        model.train(images, labels, LEARNING_RATE)
        step = (self._weights, self._no_momenta, images, labels, LEARNING_RATE, None)
        result = resolve_ties(self._reference, model.state(), *step, _ENOUGH)
        start = {name: value.numpy() for name, value in self._weights.items()}
        scale = largest_difference(start, result.step.weights) or 1.0
        return Check(
            "train, batch of one",
            result.after <= STEP_TOLERANCE,
            result.after,
            result.after / scale,
            STEP_TOLERANCE,
            f"filled up to {self._size} under weight 0; {result.decided} comparisons decided as "
            "the file does",
        )

    def _filling(self) -> Check:
        """Checks that the padding of a short batch has no effect."""
        noise = np.random.default_rng(0).integers(0, 256, (self._size, *self._images.shape[1:]))
        short = max(1, self._size // 2)
        states = []
        for filler in (None, noise.astype(np.uint8)):
            model = self._open()
            model.train(self._images[:short], self._labels[:short], LEARNING_RATE, filler)
            states.append(model.state())
        note = f"{min(short, len(self._images))} images padded with zeros and with noise, weight 0"
        return compare("train, padding", states[0], states[1], STEP_TOLERANCE, note)

    def _no_weights(self) -> Check:
        """Checks that a batch with all sample weights 0 changes neither variables nor momentum."""
        states = []
        for with_nothing in (False, True):
            model = self._open()
            model.train(*self._batch(0), LEARNING_RATE)
            if with_nothing:
                nothing = np.zeros(self._size, np.float32)
                model.train(*self._batch(1), LEARNING_RATE, weights=nothing)
            after_first = model.state()
            model.train(*self._batch(2), LEARNING_RATE)
            after_second = {f"{name} later": value for name, value in model.state().items()}
            states.append({**after_first, **after_second})
        note = "between two steps, bit for bit"
        return compare("train, weights all zero", states[0], states[1], 0.0, note)


def _feature_changes(
    before: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    expected: Mapping[str, tf.Tensor],
) -> np.ndarray:
    """Projects a step's changes of the weights before the classifier on the expected changes.

    Returns:
      Inner products of the found and of the expected changes with the expected ones, `(2,)`.
    """
    sums = np.zeros(2)
    for name, value in before.items():
        if not name.startswith("head/"):
            start = value.astype(np.float64)
            change = expected[name].numpy() - start
            sums += np.vdot(found[name] - start, change), np.vdot(change, change)
    return sums


def _loss_check(name: str, losses: list[tuple[float, float]]) -> Check:
    found, expected = np.transpose(losses)
    tolerance = _LOSS_TOLERANCE * max(1.0, float(expected.max()))
    note = f"{expected[0]:.3f} at first, {expected[-1]:.3f} at last"
    return compare(name, {"loss": expected}, {"loss": found}, tolerance, note)
