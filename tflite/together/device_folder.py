"""Files that a device keeps: its identity, its model, and its pending update."""

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
# Far larger than any update; the server enforces the limit of each task.
_MAX_UPDATE_BYTES = 2**32


@dataclasses.dataclass(frozen=True)
class PendingUpdate:
    """An update whose arrival the server has not yet confirmed.

    Attributes:
      task: Fields of the task, as in the answer to the check-in.
      path: Path of the update file.
      loss_before: Mean loss before training.
      loss_after: Mean loss after training.
      is_sent_late: Whether the update is sent only after its round was closed.
    """

    task: dict[str, Any]
    path: str
    loss_before: float
    loss_after: float
    is_sent_late: bool = False

    def data(self) -> bytes:
        """Returns the file's bytes."""
        return read_bytes(self.path, "an update", _MAX_UPDATE_BYTES)


class DeviceFolder:
    """A folder that only its owner may read; each file in it is complete or absent."""

    def __init__(self, path: str | os.PathLike):
        """Creates the folder unless it exists."""
        self.path = os.fspath(path)
        make_folder(self.path)
        # The folder holds the device's key.
        os.chmod(self.path, 0o700)

    def identity(self, url: str) -> Identity | None:
        """Returns the identity that is enrolled with a server; None if there is none.

        Raises:
          FederationError: If the identity is enrolled with another server.
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
        """Writes the identity, without which the server no longer knows the device."""
        fields = {"url": url, "device": identity.device, "key": identity.key.hex()}
        write_json(self._path(_IDENTITY), fields)

    def follow(self, url: str) -> None:
        """Changes the server's address in the identity, if there is one, to a new URL."""
        path = self._path(_IDENTITY)
        if os.path.exists(path):
            fields = read_json(path, "a device's identity", _parse_identity)
            write_json(path, {**fields, "url": url})

    def model_path(self, hash_: str) -> str:
        """Returns the path of a model."""
        return self._path(_MODELS, f"{hash_}.tflite")

    def held_model(self) -> str | None:
        """Returns the hash of the stored model; None if there is none."""
        names = [name for name in self._models() if name.endswith(".tflite")]
        return names[0].removesuffix(".tflite") if names else None

    def remove_other_models(self, hash_: str) -> None:
        """Removes all other models, including partial downloads."""
        for name in self._models():
            if not name.startswith(hash_):
                os.remove(self._path(_MODELS, name))

    def keep_update(
        self, task: dict[str, Any], update: DeviceUpdate, is_sent_late: bool = False
    ) -> PendingUpdate:
        """Writes an update, so that the device can send it even after a restart."""
        path = self._path(f"update-{task['task']}.safetensors")
        write_update(path, update)
        pending = PendingUpdate(task, path, update.loss_before, update.loss_after, is_sent_late)
        fields = dataclasses.asdict(pending)
        del fields["path"]
        write_json(self._path(_PENDING), fields)
        return pending

    def pending(self) -> PendingUpdate | None:
        """Returns the update that waits to be sent; None if there is none."""
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
