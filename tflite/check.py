"""One check of a certificate, and the runtime as the checks drive it."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tflite_runtime.interpreter as runtime

from tflite import signatures
from tflite.metadata import ModelMetadata


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


class Phone:
    """A file in the stock runtime, its signatures called as they are."""

    def __init__(self, path: str | os.PathLike, metadata: ModelMetadata, threads: int = 1):
        """Opens a file that `device_file.open_model` accepted."""
        self._sizes = metadata.batch_sizes
        interpreter = runtime.Interpreter(str(path), num_threads=threads)
        # Before the signatures: only then the runtime's delegate of fast kernels is applied.
        interpreter.allocate_tensors()
        names = interpreter.get_signature_list()
        self._run = {name: interpreter.get_signature_runner(name) for name in names}

    def train(self, images, labels, learning_rate, filler=None, weights=None) -> float:
        """A step on the first images that the signature takes; returns the loss.

        Args:
          images: `(examples, height, width, channels)`, uint8.
          labels: `(examples,)`, int32.
          learning_rate: Of the step.
          filler: What a short batch is filled up with, shaped like a whole one; zeros by default.
          weights: Sample weights of a whole batch; by default 1 for examples and 0 for filling.
        """
        batch = self._batch(images, labels, self._sizes["train"], filler, weights)
        outputs = self._run[signatures.TRAIN](**batch, learning_rate=np.float32(learning_rate))
        return float(outputs[signatures.LOSS])

    def evaluate(self, images, labels) -> tuple[float, float]:
        """Loss and number of right answers of the first images that the signature takes."""
        batch = self._batch(images, labels, self._sizes["evaluate"])
        outputs = self._run[signatures.EVALUATE](**batch)
        return float(outputs[signatures.LOSS]), float(outputs[signatures.CORRECT])

    def infer(self, images) -> np.ndarray:
        """Logits, in as many calls as needed."""
        size = self._sizes["infer"]
        parts = [
            self._run[signatures.INFER](images=fill(images[start : start + size], size))
            for start in range(0, len(images), size)
        ]
        return np.concatenate([part[signatures.LOGITS] for part in parts])[: len(images)]

    def state(self) -> dict[str, np.ndarray]:
        """Every variable by name."""
        return dict(self._run[signatures.SAVE](dummy=np.float32(0)))

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets every variable and forgets the momentum."""
        self._run[signatures.RESTORE](**state)

    def _batch(self, images, labels, size, filler=None, weights=None):
        count = min(len(images), size)
        images, labels = fill(images[:count], size), fill(labels[:count], size)
        if filler is not None:
            images[count:] = filler[count:size]
        if weights is None:
            weights = fill(np.ones(count, np.float32), size)
        return {
            signatures.IMAGES: images,
            signatures.LABELS: labels,
            signatures.SAMPLE_WEIGHTS: weights,
        }


def fill(values: np.ndarray, size: int) -> np.ndarray:
    """The values, zeros behind them up to `size`."""
    filled = np.zeros((size, *values.shape[1:]), values.dtype)
    filled[: len(values)] = values
    return filled
