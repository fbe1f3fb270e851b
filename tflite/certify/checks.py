"""One check of a certificate, and the runtime as the checks drive it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tflite.device.model import DeviceModel, fill
from tflite.format import signatures


class Check(NamedTuple):
    """One thing that a file is held to.

    Attributes:
      name: What is compared.
      holds: Whether it is as it shall be.
      absolute: Largest absolute difference; None where there is no number to compare.
      relative: The same over the largest expected value.
      tolerance: Largest absolute difference with which it holds.
      note: More about it, for people.
    """

    name: str
    holds: bool
    absolute: float | None = None
    relative: float | None = None
    tolerance: float | None = None
    note: str = ""


def compare(
    name: str,
    expected: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    tolerance: float,
    note: str = "",
    scale: float | None = None,
) -> Check:
    """A check that tensors are equal up to `tolerance`.

    Args:
      name: Of the check.
      expected: Tensors by name.
      found: The same names at least.
      tolerance: Largest absolute difference with which the check holds.
      note: Of the check.
      scale: What the relative difference is relative to; by default the largest expected value.
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
        largest = max(largest, np.abs(value).max(initial=0.0))
        if not np.isfinite(found[key]).all():
            absolute = np.inf
    relative = float(absolute / ((largest if scale is None else scale) or 1.0))
    return Check(name, bool(absolute <= tolerance), float(absolute), relative, tolerance, note)


class UncheckedModel(DeviceModel):
    """A file in the stock runtime, that also takes what no device would give it."""

    def train(self, images, labels, learning_rate, filler=None, weights=None) -> float:
        """A step on the first images that the signature takes; returns the loss.

        Args:
          images: `(examples, height, width, channels)`, uint8.
          labels: `(examples,)`, int32.
          learning_rate: Of the step.
          filler: What a short batch is filled up with, shaped like a whole one; zeros by default.
          weights: Sample weights of a whole batch; by default 1 for examples and 0 for filling.
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
        """Sets every variable, to values that are not finite too, and forgets the momentum."""
        self._run[signatures.RESTORE](**state)
