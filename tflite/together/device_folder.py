"""Files that a device keeps: its identity, its model, and the update that is on its way."""

import contextlib
import dataclasses
import os
from typing import Any

from fedsup_tf.files.atomic_write import make_folder, write_json
from fedsup_tf.files.json_schema import expect_keys, parse_json, read_json
from fedsup_tf.files.reading import read_bytes
from tflite.format.update_file import DeviceUpdate, write_update
from tflite.together.errors import FederationError
from tflite.together.federation import Identity

_IDENTITY, _PENDING, _MODELS = "identity.json", "pending.json", "models"
# Far more than any update; the server bounds it by the task.
_MOST_UPDATE_BYTES = 2**32


@dataclasses.dataclass(frozen=True)
class PendingUpdate:
    """An update that was made and of which no answer has said that it arrived.

    Attributes:
      task: The task's fields, as the check-in has them.
      path: The update's file.
      loss_before: Mean loss before training.
      loss_after: Mean loss after it.
      is_sent_late: Whether it waits until its round was closed.
    """

    task: dict[str, Any]
    path: str
    loss_before: float
    loss_after: float
    is_sent_late: bool = False

    def data(self) -> bytes:
        """Returns the file's bytes."""
        return read_bytes(self.path, "an update", _MOST_UPDATE_BYTES)


class DeviceFolder:
    """A folder that only its owner may read; each file in it is whole or not there."""

    def __init__(self, path: str | os.PathLike):
        """Makes the folder unless it is there."""
        self.path = os.fspath(path)
        make_folder(self.path)
        # The key is in it.
        os.chmod(self.path, 0o700)

    def identity(self, url: str) -> Identity | None:
        """Returns the device that enrolled with a server; None if none did.

        Raises:
          FederationError: If it enrolled with another server.
        """
        path = self._path(_IDENTITY)
        if not os.path.exists(path):
            return None
        fields = read_json(path, "a device's identity", _parse_identity)
        if fields["url"] != url:
            raise FederationError(
                f"{path!r}: expected a device of {url}, received one of {fields['url']}. Give that "
                "server, or another folder."
            )
        return Identity(fields["device"], bytes.fromhex(fields["key"]))

    def keep_identity(self, url: str, identity: Identity) -> None:
        """Writes the identity; without it the device is lost to the server."""
        fields = {"url": url, "device": identity.device, "key": identity.key.hex()}
        write_json(self._path(_IDENTITY), fields)

    def follow(self, url: str) -> None:
        """Keeps the identity, if there is one, for a server that has another address now."""
        path = self._path(_IDENTITY)
        if os.path.exists(path):
            fields = read_json(path, "a device's identity", _parse_identity)
            write_json(path, {**fields, "url": url})

    def model_path(self, hash_: str) -> str:
        """Returns where a model is kept."""
        return self._path(_MODELS, f"{hash_}.tflite")

    def held_model(self) -> str | None:
        """Returns the hash of the model that is there; None if there is none."""
        names = [name for name in self._models() if name.endswith(".tflite")]
        return names[0].removesuffix(".tflite") if names else None

    def remove_other_models(self, hash_: str) -> None:
        """Removes all models but one, whole or in parts."""
        for name in self._models():
            if not name.startswith(hash_):
                os.remove(self._path(_MODELS, name))

    def keep_update(
        self, task: dict[str, Any], update: DeviceUpdate, is_sent_late: bool = False
    ) -> PendingUpdate:
        """Writes an update, so that a device that ends now sends it when it is back."""
        path = self._path(f"update-{task['task']}.safetensors")
        write_update(path, update)
        pending = PendingUpdate(task, path, update.loss_before, update.loss_after, is_sent_late)
        fields = dataclasses.asdict(pending)
        del fields["path"]
        write_json(self._path(_PENDING), fields)
        return pending

    def pending(self) -> PendingUpdate | None:
        """Returns the update that waits to be sent; None if none does."""
        path = self._path(_PENDING)
        if not os.path.exists(path):
            return None
        fields = read_json(path, "an update that waits", _parse_pending)
        return PendingUpdate(
            path=self._path(f"update-{fields['task']['task']}.safetensors"), **fields
        )

    def drop_update(self, pending: PendingUpdate) -> None:
        """Removes an update that arrived or cannot be used."""
        for path in (self._path(_PENDING), pending.path):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)

    def _models(self) -> list[str]:
        folder = self._path(_MODELS)
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def _path(self, *names: str) -> str:
        return os.path.join(self.path, *names)


def _parse_identity(text: str) -> dict[str, Any]:
    fields = parse_json(text, "A device's identity")
    names = {"url", "device", "key"}
    expect_keys(fields, names, names, "A device's identity")
    return fields


def _parse_pending(text: str) -> dict[str, Any]:
    fields = parse_json(text, "An update that waits")
    names = {field.name for field in dataclasses.fields(PendingUpdate)} - {"path"}
    expect_keys(fields, names, names, "An update that waits")
    expect_keys(fields["task"], set(fields["task"]), {"task", "round"}, "Its task")
    return fields
