"""Runs one epoch of training on a device and reports its loss and accuracy."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class DivergedError(Exception):
    """Raised when training produces a non-finite value; the message names the value."""


class EpochReport(NamedTuple):
    """Report of one epoch of training.

    Attributes:
      epoch: Number of the epoch, from 1.
      loss: Mean loss over the examples, each computed before the step that trains on it.
      accuracy: Accuracy on the same examples, from 0 to 1.
      seconds: Duration of the steps in seconds.
      steps: Number of batches.
      held_out_loss: Mean loss of the held-out examples after the epoch, if there are any.
      held_out_accuracy: Accuracy on the held-out examples, from 0 to 1, if there are any.
    """

    epoch: int
    loss: float
    accuracy: float
    seconds: float
    steps: int
    held_out_loss: float | None = None
    held_out_accuracy: float | None = None


def run_epoch(
    number: int,
    batches: Sequence[np.ndarray],
    step: Callable[[np.ndarray], tuple[float, float]],
    should_stop: Callable[[], bool] | None,
) -> EpochReport | None:
    """Trains on each batch once.

    Args:
      number: Number of the epoch, from 1.
      batches: Indices of the examples of each batch.
      step: Function that trains on one batch and returns its mean loss and its number of correct
        predictions.
      should_stop: Called before each step; the epoch ends early if it returns true.

    Returns:
      The report, or None if `should_stop` ended the epoch early.

    Raises:
      DivergedError: As soon as a loss is not finite.
    """
    began = time.perf_counter()
    loss = correct = 0.0
    for batch in batches:
        if should_stop is not None and should_stop():
            return None
        mean, right = step(batch)
        if not math.isfinite(mean):
            raise DivergedError(f"a loss of {mean}")
        loss += mean * len(batch)
        correct += right
    seconds = time.perf_counter() - began
    examples = sum(map(len, batches))
    return EpochReport(number, loss / examples, correct / examples, seconds, len(batches))


def check_finite(report: EpochReport | None, state: Mapping[str, np.ndarray]) -> None:
    """Checks the state after an epoch, since each loss is computed before its step.

    Raises:
      DivergedError: If the held-out loss or a variable is not finite.
    """
    if report is not None and not math.isfinite(report.held_out_loss or 0.0):
        raise DivergedError(f"a held-out loss of {report.held_out_loss}")
    for name, value in state.items():
        if not np.isfinite(value).all():
            raise DivergedError(f"NaN or infinity in {name!r}")
