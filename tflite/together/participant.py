"""One visit of a device to the gateway: sends a pending update, or trains a new task."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tflite.device.runtime import choose_runtime, runtime_version
from tflite.device.trainer import DeviceTrainer
from tflite.format.metadata import ModelMetadata, read_metadata
from tflite.format.update_file import DeviceUpdate
from tflite.together.device_folder import DeviceFolder, PendingUpdate
from tflite.together.errors import RefusedError
from tflite.together.federation import Federation

# Returns images `(examples, height, width, channels)` and labels `(examples,)` for a model, or None
# if there are none yet.
Examples = Callable[[ModelMetadata], tuple[np.ndarray, np.ndarray] | None]
# Seconds until the next visit after an update that was refused.
_WAIT_SECONDS = 60


class Visit(NamedTuple):
    """Result of a visit.

    Attributes:
      event: `waits` (no task), `needs_examples`, `sent`, `refused`, or an event of a subclass.
      wait_seconds: Seconds until the next visit.
      task: Fields of the task, if there was one.
      loss_before: Mean loss before training, if the device trained.
      loss_after: Mean loss after training, if the device trained.
      message: Reason for a refusal; otherwise empty.
    """

    event: str
    wait_seconds: int
    task: Mapping[str, Any] | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    message: str = ""


class Participant:
    """A participating device, with the files that it keeps between visits."""

    def __init__(
        self,
        federation: Federation,
        folder: DeviceFolder,
        fields: Mapping[str, Any],
        runtime: str | None = None,
    ):
        """Creates the device.

        Args:
          federation: Client of the server; its identity is taken from the folder.
          folder: Folder of the device's files.
          fields: Fields of every check-in: `tier` or `capability`, and `application`.
          runtime: Name of the runtime; by default `choose_runtime` selects one.
        """
        self.federation = federation
        self.folder = folder
        self._runtime = choose_runtime(runtime)
        version = f"{self._runtime} {runtime_version(self._runtime)}"
        self._fields = {**fields, "runtime": version}

    def visit(self, examples: Examples) -> Visit:
        """Enrols if necessary, then sends the pending update or performs a new task.

        Args:
          examples: Returns the device's own examples for a model.

        Raises:
          FederationError: If the device cannot take part.
          UnavailableError: If the server does not answer; a trained update is kept.
          RefusedError: If the server no longer has the model.
          ValueError: If the model cannot be opened or trained.
        """
        self._enrol()
        pending = self.folder.pending()
        if pending is not None:
            return self.send(pending)
        held = self.folder.stored_model()
        answer = self.federation.check_in({**self._fields, **({"model": held} if held else {})})
        wait_seconds, task = answer["wait_seconds"], answer.get("task")
        if task is None:
            return Visit("waits", wait_seconds)
        path = self.folder.model_path(task["model"])
        if held != task["model"]:
            self.folder.remove_other_models(task["model"])
            self.federation.fetch_model(task["model"], task["model_bytes"], path)
        try:
            metadata = read_metadata(path)
        except ValueError:
            # Damaged since it was fetched: the next visit fetches it again.
            os.remove(path)
            raise
        own = examples(metadata)
        if own is None:
            return Visit("needs_examples", wait_seconds, task)
        return self.perform(task, path, own, wait_seconds)

    def perform(
        self,
        task: Mapping[str, Any],
        path: str,
        examples: tuple[np.ndarray, np.ndarray],
        wait_seconds: int,
    ) -> Visit:
        """Performs a task: trains its model and sends the update.

        Args:
          task: Fields of the task.
          path: Path of the model.
          examples: Images and labels of the device.
          wait_seconds: Seconds until the next visit if a subclass sends nothing.
        """
        del wait_seconds
        return self.send(self.folder.save_update(task, self.train(task, path, examples)))

    def train(
        self, task: Mapping[str, Any], path: str, examples: tuple[np.ndarray, np.ndarray]
    ) -> DeviceUpdate:
        """Trains a task's model and returns the update."""
        trainer = DeviceTrainer(path, runtime=self._runtime)
        before, _ = trainer.evaluate(*examples)
        trainer.fit(*examples, **fit_options(task))
        after, _ = trainer.evaluate(*examples)
        return trainer.update(examples=len(examples[1]), loss_before=before, loss_after=after)

    def send(self, pending: PendingUpdate) -> Visit:
        """Sends an update, and removes it once the server accepts or finally refuses it."""
        try:
            data = self.folder.read_update()
            answer = self.federation.send_update(pending.task["task"], data)
        except RefusedError as error:
            self.folder.remove_update()
            return _ended("refused", pending, _WAIT_SECONDS, str(error))
        self.folder.remove_update()
        return _ended("sent", pending, answer["wait_seconds"])

    def _enrol(self) -> None:
        url = self.federation.address.url
        self.federation.identity = self.folder.identity(url)
        if self.federation.identity is None:
            self.federation.check_server()
            self.folder.save_identity(url, self.federation.enrol())


def fit_options(task: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `DeviceTrainer.fit` that a task determines."""
    return {name: task[name] for name in ("epochs", "learning_rate", "seed")}


def _ended(event: str, pending: PendingUpdate, wait_seconds: int, message: str = "") -> Visit:
    return Visit(
        event, wait_seconds, pending.task, pending.loss_before, pending.loss_after, message
    )
