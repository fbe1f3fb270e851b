"""One epoch of training on a device, and what it showed."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class DivergedError(Exception):
    """Says what is no finite number any more."""


class EpochReport(NamedTuple):
    """What one epoch of training showed.

    Attributes:
      epoch: Its number, from 1.
      loss: Mean over its examples, each before the step that it was in.
      accuracy: Share of right answers among them, from 0 to 1.
      seconds: It took, steps alone.
      steps: Batches it had.
      held_out_loss: Mean on the held-out examples after it, if there are any.
      held_out_accuracy: Share of right answers among those.
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
      number: Of the epoch, from 1.
      batches: Indices of the examples of each batch.
      step: Trains on one batch; returns its mean loss and its number of right answers.
      should_stop: Asked before each step.

    Returns:
      What it showed, or None if it was told to stop.

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
    """Raises a DivergedError for the last step too, whose loss is of before it."""
    if report is not None and not math.isfinite(report.held_out_loss or 0.0):
        raise DivergedError(f"a held-out loss of {report.held_out_loss}")
    for name, value in state.items():
        if not np.isfinite(value).all():
            raise DivergedError(f"NaN or infinity in {name!r}")
