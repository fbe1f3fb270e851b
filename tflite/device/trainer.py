"""Trains an exported `.tflite` on one person's examples, as an app does.

`DeviceTrainer` does in Python what the Android app does in Java, with the same signatures of the
same file. It needs one of the runtimes of `tflite.device.runtime`, NumPy and safetensors, but no
TensorFlow.
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedsup_tf.files.validation import check_number, check_whole_number
from fedsup_tf.space import MEAN_SQUARE
from tflite.device.checkpoint import Progress, read_progress, write_progress
from tflite.device.epoch import DivergedError, EpochReport, check_finite, run_epoch
from tflite.device.model import DeviceModel
from tflite.device.thread_tuner import ThreadTuner
from tflite.format.update_file import DeviceUpdate

__all__ = ["DeviceTrainer", "EpochReport"]


class DeviceTrainer(DeviceModel):
    """Trains a model on a device.

    Each `fit` starts with zero momentum, as a client does in each round of federated learning, and
    keeps its momentum across its epochs. The momentum is not saved. Training that is resumed from a
    checkpoint therefore equals, to the bit, the same epochs in two calls of `fit`. A single call
    would see the same batches but end at slightly different weights.

    Attributes:
      history: A report for each epoch since the model was opened or restored.

    Example:
      >>> import numpy as np
      >>> from tflite import DeviceTrainer
      >>> trainer = DeviceTrainer("smallest.tflite")
      >>> trainer.metadata.class_names[:3]
      ('0', '1', '2')
      >>> images = np.random.default_rng(0).integers(0, 17, (6, 8, 8, 1)).astype(np.uint8)
      >>> labels = np.arange(6)
      >>> reports = trainer.fit(images, labels, epochs=2, learning_rate=0.05, seed=0)
      >>> reports[-1].loss < reports[0].loss
      True
      >>> trainer.save_checkpoint("progress.safetensors")
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
          path: A file that `export_tflite` wrote.
          threads: Greatest number of threads, from 1. Steps run on one thread or on all of them
            (`ThreadTuner`).
          trusted: Whether the file is opened without trying it in a child process first, for files
            that were made on this machine.
          runtime: Name of the runtime, such as `ai_edge_litert`; by default that of
            `choose_runtime`.

        Raises:
          ValueError: If the file is missing, damaged or was not written by `export_tflite`, or
            the runtime is not installed.
        """
        super().__init__(path, threads, trusted, runtime)
        self._threads = ThreadTuner(self.set_threads, threads)
        self._received = self.state()
        self._best: Mapping[str, np.ndarray] | None = None
        self.history: list[EpochReport] = []

    @property
    def epochs_done(self) -> int:
        """Number of epochs since the model was opened or restored."""
        return len(self.history)

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets every variable, resets the momentum and clears the history.

        Raises:
          ValueError: If that is not a state of this model; nothing has changed then.
        """
        super().restore(state)
        self._best, self.history = None, []

    def train_batch(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        learning_rate: float,
        *,
        head_only: bool = False,
    ) -> tuple[float, float]:
        """Trains one step outside of any epoch, as `DeviceModel.train_batch` does."""
        step = super().train_batch
        return self._threads.run(lambda: step(images, labels, learning_rate, head_only=head_only))

    def fit(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        epochs: int,
        learning_rate: float,
        seed: int,
        held_out: tuple[np.ndarray, np.ndarray] | None = None,
        patience: int | None = None,
        head_only: bool = False,
        on_epoch: Callable[[EpochReport], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[EpochReport]:
        """Trains for more epochs; equal arguments from an equal state give equal weights.

        Args:
          images: `(examples, height, width, channels)`, uint8.
          labels: `(examples,)`, whole numbers.
          epochs: Further passes over the examples; 0 for none.
          learning_rate: Learning rate of every step.
          seed: Determines the order of the examples, together with the number of the epoch.
          held_out: Images and labels that are not trained on. With them the model ends with the
            weights after the epoch of the least loss on them.
          patience: Number of epochs without a lesser held-out loss after which training stops;
            needs `held_out`.
          head_only: Whether to train the classifier and the normalizations alone.
          on_epoch: Called after each epoch, for example to save a checkpoint.
          should_stop: Called before each step; if it returns true, training ends with the state
            after the last whole epoch.

        Returns:
          A report for each epoch of this call.

        Raises:
          ValueError: If the arguments do not fit the model, or the loss is no longer finite. The
            state is then that after the last whole epoch, as after any other interruption.
        """
        labels = self.checked_examples(images, labels)
        if held_out is not None:
            self.checked_examples(*held_out)
        _check_arguments(epochs, learning_rate, seed, patience, held_out)
        done, size = self.epochs_done, self.metadata.batch_sizes["train"]
        state = self.state()
        super().restore(state)  # Forgets the momentum of the last call.

        def step(batch):
            return self.train_batch(
                images[batch], labels[batch], learning_rate, head_only=head_only
            )

        for number in range(done + 1, done + epochs + 1):
            if patience is not None and self._epochs_since_best() >= patience:
                break
            try:
                order = np.random.default_rng((seed, number)).permutation(len(labels))
                batches = [order[start : start + size] for start in range(0, len(order), size)]
                report = run_epoch(number, batches, step, should_stop)
                if report is not None and held_out is not None:
                    loss, accuracy = self.evaluate(*held_out)
                    report = report._replace(held_out_loss=loss, held_out_accuracy=accuracy)
                trained = self.state()
                check_finite(report, trained)
            except DivergedError as error:
                super().restore(state)
                raise ValueError(
                    f"Training: expected finite numbers, received {error} in epoch {number} at "
                    f"learning rate {learning_rate:g}, which is too large. The model is again as "
                    "it was before that epoch; go on with a smaller one."
                ) from error
            except BaseException:
                super().restore(state)
                raise
            if report is None:
                super().restore(state)
                break
            state = trained
            self.history.append(report)
            if held_out is not None and self._epochs_since_best() == 0:
                self._best = state
            if on_epoch is not None:
                on_epoch(report)
        if held_out is not None and self._best is not None:
            super().restore(self._best)
        return self.history[done:]

    def refresh_mean_squares(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        seed: int,
        passes: int = 2,
        should_stop: Callable[[], bool] | None = None,
    ) -> bool:
        """Brings the mean squares with which the model infers up to date with its weights.

        They follow those of the batches by a moving average, and lag behind the weights after a
        short training at a high rate. Steps at a learning rate of 0 move them on alone: weights,
        `update` and `history` stay as they are to the bit, and so does training that goes on from
        here, which normalizes by its batches. Call it once training is over.

        Args:
          images: `(examples, height, width, channels)`, uint8, those of the training.
          labels: `(examples,)`, whole numbers.
          seed: Determines the order of the examples.
          passes: Passes over the examples, from 1.
          should_stop: Called before each step; if it returns true, nothing has changed.

        Returns:
          Whether all passes were made.

        Raises:
          ValueError: If the arguments do not fit the model; nothing has changed then.
        """
        labels = self.checked_examples(images, labels)
        check_whole_number(passes, "passes", 1, what="Mean squares")
        check_whole_number(seed, "seed", 0, what="Mean squares")
        before = self.state()
        # Training numbers its epochs from 1.
        order = np.random.default_rng((seed, 0)).permutation(len(labels))
        # Batches of nearly the same size, since each counts the same.
        batches = np.array_split(order, math.ceil(len(labels) / self.metadata.batch_sizes["train"]))
        try:
            for batch in passes * batches:
                if should_stop is not None and should_stop():
                    super().restore(before)
                    return False
                # The head's step follows all mean squares too, and is the cheaper one.
                self.train_batch(images[batch], labels[batch], 0.0, head_only=self.can_train_head)
            after = self.state()
            moved = {name: after[name] for name in after if name.endswith(MEAN_SQUARE)}
            super().restore({**before, **moved})
        except BaseException:
            super().restore(before)
            raise
        return True

    def save_checkpoint(
        self, path: str | os.PathLike, notes: Mapping[str, Any] | None = None
    ) -> None:
        """Writes the progress of training atomically; call it between epochs.

        Args:
          path: Where to write.
          notes: JSON values, which `load_checkpoint` returns.
        """
        progress = Progress(self.state(), self._best, tuple(self.history), notes or {})
        write_progress(path, self.metadata, progress)

    def load_checkpoint(self, path: str | os.PathLike) -> dict[str, Any]:
        """Restores the progress of training, except for the momentum, and returns the notes.

        Raises:
          ValueError: If the file is damaged or of another model; nothing has changed then.
        """
        progress = read_progress(path, self.metadata)
        try:
            if progress.best is not None:
                self.check_state(progress.best)
            super().restore(progress.state)
        except ValueError as error:
            raise ValueError(f"{str(path)!r}: {error}") from error
        self._best, self.history = progress.best, list(progress.history)
        return dict(progress.notes)

    def update(
        self,
        *,
        examples: int,
        loss_before: float,
        loss_after: float,
        client: str | None = None,
    ) -> DeviceUpdate:
        """Returns the change of the weights since the model was opened, for `write_update`.

        Args:
          examples: Number of examples trained on.
          loss_before: Mean loss on them when the model was opened.
          loss_after: Mean loss on them now.
          client: Name of the sender, if it has one.

        Returns:
          The update; frozen mean squares are not part of it.
        """
        state = self.state()
        return DeviceUpdate(
            delta={name: state[name] - self._received[name] for name in self.weight_names},
            architecture=self.metadata.architecture,
            base_hash=self.metadata.supernet_hash,
            base_round=self.metadata.round,
            examples=examples,
            loss_before=loss_before,
            loss_after=loss_after,
            client=client,
            class_names=self.metadata.class_names,
        )

    def _epochs_since_best(self) -> int:
        """Counts the epochs after the one of the least held-out loss; 0 if there was none yet."""
        losses = {
            number: report.held_out_loss
            for number, report in enumerate(self.history)
            if report.held_out_loss is not None
        }
        return len(self.history) - 1 - min(losses, key=losses.get) if losses else 0


def _check_arguments(
    epochs: int,
    learning_rate: float,
    seed: int,
    patience: int | None,
    held_out: tuple[np.ndarray, np.ndarray] | None,
) -> None:
    check_whole_number(epochs, "epochs", 0, what="Training")
    check_whole_number(seed, "seed", 0, what="Training")
    if patience is not None:
        check_whole_number(patience, "patience", 1, what="Training")
    check_number(learning_rate, "learning_rate", above=0, what="Training", advice="Give 0.05.")
    if patience is not None and held_out is None:
        raise ValueError(
            f"Training: expected held-out examples for patience {patience}, received none. Give "
            "images and labels that are not trained on, or leave patience out."
        )
