"""Runs an exported `.tflite` in the stock runtime: signatures as methods with checked arguments.

Like all on-device code, it needs NumPy and one of the runtimes of `tflite.device.runtime`, but not
TensorFlow.
"""

import os
from collections.abc import Mapping

import numpy as np

from fedsup_tf.files.validation import check_tensors
from fedsup_tf.space import MEAN_SQUARE
from tflite.device.open_model import open_model
from tflite.format import signatures


class DeviceModel:
    """An exported model and its variables in the stock runtime.

    Attributes:
      metadata: Metadata of the file.
      weight_names: Names of the variables that belong to the supernet, in the metadata's order.
      can_train_head: Whether the file can train only the classifier and the normalizations.
      set_threads: Function that sets the number of threads for matrix products.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        threads: int = 1,
        trusted: bool = False,
        runtime: str | None = None,
    ):
        """Opens a model.

        Args:
          path: File that `export_tflite` wrote.
          threads: Number of threads for the runtime's matrix products, at least 1.
          trusted: Whether to open the file without trying it in a child process first, for files
            that were created on this machine.
          runtime: Name of the runtime, such as `ai_edge_litert`; by default the one that
            `choose_runtime` returns.

        Raises:
          ValueError: If the file is missing, damaged or was not written by `export_tflite`, or if
            the runtime is not installed.
        """
        self._path = str(path)
        self.metadata, self._run, self.set_threads = open_model(path, threads, trusted, runtime)
        names = self.metadata.variables
        self.weight_names = tuple(name for name in names if not name.endswith(MEAN_SQUARE))
        self.can_train_head = signatures.TRAIN_HEAD in self._run

    def train_batch(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        learning_rate: float,
        *,
        head_only: bool = False,
    ) -> tuple[float, float]:
        """Runs one step of SGD; momentum accumulates over the steps since the last `restore`.

        Args:
          images: `(examples, height, width, channels)`, uint8, at most the exported batch size.
          labels: `(examples,)`, integers.
          learning_rate: Learning rate of the step.
          head_only: Whether to train only the classifier and the normalizations.

        Returns:
          The mean loss and the number of correct predictions, both before the step.

        Raises:
          ValueError: If the arguments do not fit the model.
        """
        labels = self.checked_examples(images, labels)
        size = self.metadata.batch_sizes["train"]
        if len(images) > size:
            raise ValueError(
                f"A step of training: expected at most {size} images, received {len(images)}. "
                "Divide them into batches."
            )
        if head_only and not self.can_train_head:
            raise ValueError(
                f"{self._path!r}: expected the signature {signatures.TRAIN_HEAD!r} for training "
                "the head only, received a file without it. Export the model with it, or train "
                "all of it."
            )
        run = self._run[signatures.TRAIN_HEAD if head_only else signatures.TRAIN]
        return _scores(run(**_batch(images, labels, size), learning_rate=np.float32(learning_rate)))

    def evaluate(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Computes the mean loss and the accuracy over any number of examples.

        Args:
          images: `(examples, height, width, channels)`, uint8.
          labels: `(examples,)`, integers.

        Returns:
          The mean loss, and the accuracy from 0 to 1. Each example counts once.

        Raises:
          ValueError: If the arguments do not fit the model.
        """
        labels = self.checked_examples(images, labels)
        size = self.metadata.batch_sizes["evaluate"]
        loss = correct = 0.0
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            batch = _batch(images[part], labels[part], size)
            mean, right = _scores(self._run[signatures.EVALUATE](**batch))
            loss += mean * len(labels[part])
            correct += right
        return loss / len(images), correct / len(images)

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Computes the logits of any number of images.

        Args:
          images: `(examples, height, width, channels)`, uint8.

        Returns:
          Logits, `(examples, classes)`, float32.

        Raises:
          ValueError: If the images do not fit the model.
        """
        self._check_images(images)
        size = self.metadata.batch_sizes["infer"]
        parts = []
        for start in range(0, len(images), size):
            part = fill(images[start : start + size], size)
            parts.append(self._run[signatures.INFER](images=part)[signatures.LOGITS])
        return np.concatenate(parts)[: len(images)]

    def state(self) -> dict[str, np.ndarray]:
        """Returns all variables by name, without the momentum, which no signature returns."""
        saved = self._run[signatures.SAVE](**{signatures.DUMMY: np.float32(0)})
        return {name: saved[name] for name in self.metadata.variables}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets all variables and resets the momentum.

        Raises:
          ValueError: If `state` is not a state of this model, which then stays unchanged. The
            runtime itself would read missing tensors as zeros.
        """
        self.check_state(state)
        self._run[signatures.RESTORE](**state)

    # ------------------------------------------------------------------- checks

    def check_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Raises a ValueError if `restore` cannot set this state."""
        what, advice = f"A state of {self._path!r}", "Give what state() returned."
        shapes = {name: np.shape(value) for name, value in state.items()}
        check_tensors(shapes, self.metadata.variables, what, advice)
        for name, value in state.items():
            kind = getattr(value, "dtype", type(value))
            if kind != np.float32:
                raise ValueError(
                    f"{what}: expected tensor {name!r} as float32, received {kind}. {advice}"
                )
            negative = name.endswith(MEAN_SQUARE) and (value < 0).any()
            if negative or not np.isfinite(value).all():
                raise ValueError(
                    f"{what}: expected finite values in tensor {name!r}, "
                    f"received {'a negative mean square' if negative else 'NaN or infinity'}. "
                    "Train with a smaller learning rate, from an earlier state."
                )

    def checked_examples(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns the labels as int32; raises a ValueError if images or labels do not fit."""
        self._check_images(images)
        labels = np.asarray(labels)
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"Labels: expected whole numbers of shape ({len(images)},), one for each image, "
                f"received {labels.dtype} of shape {labels.shape}. Give the number of each "
                "image's class."
            )
        classes = len(self.metadata.class_names)
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"Labels: expected numbers from 0 to {classes - 1}, received {labels.min()} to "
                f"{labels.max()}. The model knows {classes} classes, see its class_names."
            )
        return labels.astype(np.int32)

    def _check_images(self, images: np.ndarray) -> None:
        shape = self.metadata.image_shape
        form = (getattr(images, "shape", ()), getattr(images, "dtype", type(images).__name__))
        if form[1] != np.uint8 or form[0][1:] != shape or not form[0][0]:
            expected = f"(examples, {', '.join(map(str, shape))})"
            raise ValueError(
                f"Images: expected uint8 of shape {expected}, at least one, received {form[1]} of "
                f"shape {form[0]}. Give pixels as they were in training; the model normalizes them."
            )


def _batch(images: np.ndarray, labels: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Returns the inputs of a signature, padded to `size` with examples of weight 0."""
    return {
        signatures.IMAGES: fill(images, size),
        signatures.LABELS: fill(labels, size),
        signatures.SAMPLE_WEIGHTS: fill(np.ones(len(labels), np.float32), size),
    }


def fill(values: np.ndarray, size: int) -> np.ndarray:
    """Pads `values` with zeros to length `size`."""
    filled = np.zeros((size, *values.shape[1:]), values.dtype)
    filled[: len(values)] = values
    return filled


def _scores(outputs: Mapping[str, np.ndarray]) -> tuple[float, float]:
    return float(outputs[signatures.LOSS]), float(outputs[signatures.CORRECT])
