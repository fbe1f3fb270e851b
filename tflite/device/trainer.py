"""Trains an exported `.tflite` on one person's examples, as an app does.

`DeviceTrainer` does in Python what the Android app does in Java, using the same signatures of the
same file. It needs NumPy, safetensors and one of the runtimes of `tflite.device.runtime`, but not
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

    Each call of `fit` starts with zero momentum, as a client does in each round of federated
    learning, and keeps its momentum across epochs. Checkpoints do not contain the momentum.
    Training that is resumed from a checkpoint therefore equals, bit for bit, the same epochs in two
    calls of `fit`; a single call would see the same batches but end at slightly different weights.

    Attributes:
      history: Report of each epoch since the model was opened or restored.

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
          path: File that `export_tflite` wrote.
          threads: Maximum number of threads, at least 1. Steps run on one thread or on all of them,
            whichever is faster (`ThreadTuner`).
          trusted: Whether to open the file without trying it in a child process first, for files
            that were created on this machine.
          runtime: Name of the runtime, such as `ai_edge_litert`; by default the one that
            `choose_runtime` returns.

        Raises:
          ValueError: If the file is missing, damaged or was not written by `export_tflite`, or if
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
        """Sets all variables, resets the momentum and clears the history.

        Raises:
          ValueError: If `state` is not a state of this model; nothing changes then.
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
        """Runs one step of SGD outside any epoch; see `DeviceModel.train_batch`."""
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
        """Trains for further epochs; the same arguments and state always give the same weights.

        Args:
          images: `(examples, height, width, channels)`, uint8.
          labels: `(examples,)`, integers.
          epochs: Number of further passes over the examples; may be 0.
          learning_rate: Learning rate of all steps.
          seed: Seed of the order of the examples, together with the number of the epoch.
          held_out: Images and labels that are not trained on. If given, the model ends with the
            weights after the epoch with the lowest loss on them. Epochs of earlier calls count too
            if there was none without held-out examples since; those should then be the same.
          patience: Number of epochs without a lower held-out loss after which training stops;
            requires `held_out`.
          head_only: Whether to train only the classifier and the normalizations.
          on_epoch: Called after each epoch, for example to save a checkpoint.
          should_stop: Called before each step; if it returns true, training ends with the state
            after the last complete epoch.

        Returns:
          The report of each epoch of this call.

        Raises:
          ValueError: If the arguments do not fit the model, or if the loss or the state is no
            longer finite. As after any other interruption, the model then has the state after the
            last complete epoch.
        """
        labels = self.checked_examples(images, labels)
        if held_out is not None:
            self.checked_examples(*held_out)
        _check_arguments(epochs, learning_rate, seed, patience, held_out)
        done, size = self.epochs_done, self.metadata.batch_sizes["train"]
        state = self.state()
        super().restore(state)  # Resets the momentum of the previous call.

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
            if held_out is None:
                self._best = None
            elif self._epochs_since_best() == 0:
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
        """Updates the frozen mean squares, which inference uses, to the current weights.

        They are moving averages of the batches' mean squares and lag behind the weights after a
        short training at a high learning rate. This method runs steps at learning rate 0, which
        move nothing else: weights, `update` and `history` stay bitwise the same, and so does any
        training that continues from here, since it normalizes with its own batches. Call this
        method once training is over.

        A fine-tuned file (`metadata.feature_rates`) trains with its frozen mean squares, which are
        those of a population. It has nothing to update; the call returns at once.

        Args:
          images: Training images, `(examples, height, width, channels)`, uint8.
          labels: `(examples,)`, integers.
          seed: Seed of the order of the examples.
          passes: Number of passes over the examples, at least 1.
          should_stop: Called before each step; if it returns true, the call stops and leaves the
            model unchanged.

        Returns:
          Whether all passes were completed.

        Raises:
          ValueError: If the arguments do not fit the model, which then stays unchanged.
        """
        labels = self.checked_examples(images, labels)
        check_whole_number(passes, "passes", 1, what="Mean squares")
        check_whole_number(seed, "seed", 0, what="Mean squares")
        if self.metadata.feature_rates is not None:
            return True
        before = self.state()
        # 0 cannot be the number of an epoch, since `fit` numbers epochs from 1.
        order = np.random.default_rng((seed, 0)).permutation(len(labels))
        # Batches of nearly equal size, since all have the same weight in the moving average.
        batches = np.array_split(order, math.ceil(len(labels) / self.metadata.batch_sizes["train"]))
        try:
            for batch in passes * batches:
                if should_stop is not None and should_stop():
                    super().restore(before)
                    return False
                # A step of the head also updates all mean squares, and is cheaper.
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
        """Atomically writes the training progress; call it between epochs.

        Args:
          path: File to write.
          notes: JSON values by name, which `load_checkpoint` returns.
        """
        progress = Progress(self.state(), self._best, tuple(self.history), notes or {})
        write_progress(path, self.metadata, self._received, progress)

    def load_checkpoint(self, path: str | os.PathLike) -> dict[str, Any]:
        """Restores the training progress, except for the momentum, and returns the notes.

        Raises:
          ValueError: If the file is damaged or belongs to another model; nothing changes then.
        """
        progress = read_progress(path, self.metadata, self._received)
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
          examples: Number of training examples.
          loss_before: Mean loss on these examples when the model was opened.
          loss_after: Mean loss on these examples now.
          client: Name of the client, if any.

        Returns:
          The update, which does not contain the frozen mean squares.
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
        """Counts the epochs since the one with the lowest held-out loss; 0 if there is none yet.

        Only epochs after the last one without held-out examples are considered.
        """
        losses = []
        for report in reversed(self.history):
            if report.held_out_loss is None:
                break
            losses.append(report.held_out_loss)
        # Of equal losses, the earliest counts, which is the last in this list.
        return max(np.flatnonzero(losses == np.min(losses)), default=0) if losses else 0


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
