"""An exported `.tflite` in the stock runtime: its signatures as functions, its arguments checked.

Like everything that runs on a device it needs tflite_runtime and NumPy, and no TensorFlow.
"""

import os
from collections.abc import Mapping

import numpy as np

from fedsup_tf.space import MEAN_SQUARE
from tflite.device.open_model import open_model
from tflite.format import signatures


class DeviceModel:
    """One model with its variables, as it is on a device.

    Attributes:
      metadata: What the file says about itself.
      weight_names: The variables that are the supernet's, in the metadata's order.
      can_train_head: Whether the file can train the classifier and normalizations alone.
      set_threads: On how many threads it computes from now on.
    """

    def __init__(self, path: str | os.PathLike, threads: int = 1):
        """Opens a model.

        Args:
          path: A file that `export.export_tflite` wrote.
          threads: Of the runtime's matrix products, from 1.

        Raises:
          ValueError: If the file is missing, damaged or not such a file.
        """
        self._path = str(path)
        self.metadata, self._run, self.set_threads = open_model(path, threads)
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
        """One step of SGD; the momentum is that of the steps since the last `restore`.

        Args:
          images: `(examples, height, width, channels)`, uint8, at most the exported batch size.
          labels: `(examples,)`, whole numbers.
          learning_rate: Of this step.
          head_only: Moves the classifier and the normalizations alone.

        Returns:
          Mean loss and number of right answers, both before the step.

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
        """Mean loss and accuracy, from 0 to 1, of any number of examples.

        Args:
          images: `(examples, height, width, channels)`, uint8.
          labels: `(examples,)`, whole numbers.

        Returns:
          The loss and the accuracy, both exact: no example counts twice.

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
        """Logits `(examples, classes)` of images `(examples, height, width, channels)`, uint8."""
        self._check_images(images)
        size = self.metadata.batch_sizes["infer"]
        parts = []
        for start in range(0, len(images), size):
            part = fill(images[start : start + size], size)
            parts.append(self._run[signatures.INFER](images=part)[signatures.LOGITS])
        return np.concatenate(parts)[: len(images)]

    def state(self) -> dict[str, np.ndarray]:
        """Every variable by name; not the momentum, which no signature gives."""
        saved = self._run[signatures.SAVE](**{signatures.DUMMY: np.float32(0)})
        return {name: saved[name] for name in self.metadata.variables}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets every variable and forgets the momentum.

        Raises:
          ValueError: If that is not a state of this model; the model is unchanged then. The
            runtime itself would take it and read what is missing as zeros.
        """
        self.check_state(state)
        self._run[signatures.RESTORE](**state)

    # ------------------------------------------------------------------- checks

    def check_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Raises a ValueError unless `restore` may set this state."""
        expected = self.metadata.variables
        missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected)
        if missing or unknown:
            raise ValueError(
                f"A state of {self._path!r}: expected {len(expected)} tensors, missing are "
                f"{missing[:5]}, unknown are {unknown[:5]}. Give what state() returned."
            )
        for name, shape in expected.items():
            value = state[name]
            form = (getattr(value, "shape", None), getattr(value, "dtype", type(value)))
            if form != (shape, np.float32):
                raise ValueError(
                    f"A state of {self._path!r}: expected tensor {name!r} as float32 of shape "
                    f"{shape}, received {form[1]} of shape {form[0]}. Give what state() returned."
                )
            negative = name.endswith(MEAN_SQUARE) and (value < 0).any()
            if negative or not np.isfinite(value).all():
                raise ValueError(
                    f"A state of {self._path!r}: expected finite values in tensor {name!r}, "
                    f"received {'a negative mean square' if negative else 'NaN or infinity'}. "
                    "Train with a smaller learning rate, from an earlier state."
                )

    def checked_examples(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns the labels as int32 if images and labels fit the model, else raises."""
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
        shape = tuple(self.metadata.space.image_shape)
        form = (getattr(images, "shape", ()), getattr(images, "dtype", type(images).__name__))
        if form[1] != np.uint8 or form[0][1:] != shape or not form[0][0]:
            expected = f"(examples, {', '.join(map(str, shape))})"
            raise ValueError(
                f"Images: expected uint8 of shape {expected}, at least one, received {form[1]} of "
                f"shape {form[0]}. Give pixels as they were in training; the model normalizes them."
            )


def _batch(images: np.ndarray, labels: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """The examples, filled up to `size` under weight 0."""
    return {
        signatures.IMAGES: fill(images, size),
        signatures.LABELS: fill(labels, size),
        signatures.SAMPLE_WEIGHTS: fill(np.ones(len(labels), np.float32), size),
    }


def fill(values: np.ndarray, size: int) -> np.ndarray:
    """The values, zeros behind them up to `size`."""
    filled = np.zeros((size, *values.shape[1:]), values.dtype)
    filled[: len(values)] = values
    return filled


def _scores(outputs: Mapping[str, np.ndarray]) -> tuple[float, float]:
    return float(outputs[signatures.LOSS]), float(outputs[signatures.CORRECT])
