"""Results of certificate checks, and the model that the checks run in the stock runtime."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tflite.device.model import DeviceModel, fill
from tflite.format import signatures


class Check(NamedTuple):
    """Result of one check of an exported file.

    Attributes:
      name: Name of the check.
      holds: Whether the check passed.
      absolute: Largest absolute difference; None if the check does not report one.
      relative: Largest absolute difference divided by the largest expected value.
      tolerance: Maximum difference with which the check passes.
      note: Human-readable details.
      runtime: Name of the runtime that ran the file; empty for checks without a runtime.
    """

    name: str
    holds: bool
    absolute: float | None = None
    relative: float | None = None
    tolerance: float | None = None
    note: str = ""
    runtime: str = ""


def compare(
    name: str,
    expected: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    tolerance: float,
    note: str = "",
) -> Check:
    """Checks that tensors are equal up to `tolerance`.

    Args:
      name: Name of the check.
      expected: Expected tensors by name.
      found: Tensors to check by name; names that `expected` lacks are ignored.
      tolerance: Maximum absolute difference with which the check passes.
      note: Human-readable details.
    """
    missing = sorted(expected.keys() - found.keys())
    if missing:
        return Check(name, False, tolerance=tolerance, note=f"missing: {missing[:5]}")
    absolute = largest = 0.0
    for key, value in expected.items():
        value = np.asarray(value, np.float64)
        if value.shape != found[key].shape:
            shapes = f"shape {found[key].shape} in place of {value.shape}"
            return Check(name, False, tolerance=tolerance, note=f"{key}: {shapes}")
        absolute = np.fmax(absolute, np.abs(found[key] - value).max(initial=0.0))
        largest = np.fmax(largest, np.abs(value).max(initial=0.0))
        if not (np.isfinite(value).all() and np.isfinite(found[key]).all()):
            absolute = np.inf
    relative = float(absolute / (largest or 1.0))
    return Check(name, bool(absolute <= tolerance), float(absolute), relative, tolerance, note)


class UncheckedModel(DeviceModel):
    """A model in the stock runtime that also accepts inputs that `DeviceModel` rejects."""

    def train(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        learning_rate: float,
        filler: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> float:
        """Runs one step on the first images, up to the batch size of the signature.

        Args:
          images: `(examples, height, width, channels)`, uint8.
          labels: `(examples,)`, int32.
          learning_rate: Learning rate of the step.
          filler: Full batch whose images after the first `len(images)` pad a short batch; zeros by
            default.
          weights: Sample weights of a full batch; by default 1 for examples and 0 for padding.

        Returns:
          The loss before the step.
        """
        size = self.metadata.batch_sizes["train"]
        count = min(len(images), size)
        images, labels = fill(images[:count], size), fill(labels[:count], size)
        if filler is not None:
            images[count:] = filler[count:size]
        outputs = self._run[signatures.TRAIN](
            images=images,
            labels=labels,
            sample_weights=fill(np.ones(count, np.float32), size) if weights is None else weights,
            learning_rate=np.float32(learning_rate),
        )
        return float(outputs[signatures.LOSS])

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets the variables without any checks, and resets the momentum."""
        self._run[signatures.RESTORE](**state)
