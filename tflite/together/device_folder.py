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
from tflite.together.federation import Identity, is_identity

_IDENTITY, _PENDING, _UPDATE, _MODELS = (
    "identity.json",
    "pending.json",
    "update.safetensors",
    "models",
)
# Far larger than any update; the server enforces the limit of each task.
_MAX_UPDATE_BYTES = 2**32


@dataclasses.dataclass(frozen=True)
class PendingUpdate:
    """An update whose arrival the server has not yet confirmed.

    Attributes:
      task: Fields of the task, as in the answer to the check-in.
      loss_before: Mean loss before training.
      loss_after: Mean loss after training.
      is_sent_late: Whether the update is sent only after its round was closed.
    """

    task: dict[str, Any]
    loss_before: float
    loss_after: float
    is_sent_late: bool = False


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
          ValueError: If the identity is damaged.
        """
        path = self._path(_IDENTITY)
        if not os.path.exists(path):
            return None
        fields = read_json(path, "a device's identity", _parse_identity)
        if fields["url"].rstrip("/") != url.rstrip("/"):
            raise FederationError(
                f"{path!r}: expected a device of {url}, received one of {fields['url']}. Give that "
                "server, or another folder."
            )
        return Identity(fields["device"], bytes.fromhex(fields["key"]))

    def save_identity(self, url: str, identity: Identity) -> None:
        """Writes the identity, without which the server no longer knows the device."""
        fields = {"url": url, "device": identity.device, "key": identity.key.hex()}
        write_json(self._path(_IDENTITY), fields)

    def change_server_url(self, url: str) -> None:
        """Changes the server's URL in the identity, if there is one."""
        path = self._path(_IDENTITY)
        if os.path.exists(path):
            fields = read_json(path, "a device's identity", _parse_identity)
            write_json(path, {**fields, "url": url})

    def model_path(self, hash_: str) -> str:
        """Returns the path of a model."""
        return self._path(_MODELS, f"{hash_}.tflite")

    def stored_model(self) -> str | None:
        """Returns the hash of the stored model; None if there is none."""
        names = [name for name in self._models() if name.endswith(".tflite")]
        return names[0].removesuffix(".tflite") if names else None

    def remove_other_models(self, hash_: str) -> None:
        """Removes all other models, including partial downloads."""
        for name in self._models():
            if not name.startswith(hash_):
                os.remove(self._path(_MODELS, name))

    def save_update(
        self, task: dict[str, Any], update: DeviceUpdate, is_sent_late: bool = False
    ) -> PendingUpdate:
        """Writes an update, so that the device can send it even after a restart."""
        write_update(self._path(_UPDATE), update)
        pending = PendingUpdate(task, update.loss_before, update.loss_after, is_sent_late)
        write_json(self._path(_PENDING), dataclasses.asdict(pending))
        return pending

    def pending(self) -> PendingUpdate | None:
        """Returns the update that waits to be sent; None if there is none.

        A damaged one is removed: the server assigns its task again.
        """
        path = self._path(_PENDING)
        if not os.path.exists(path):
            return None
        try:
            fields = read_json(path, "an update that waits", _parse_pending)
        except ValueError:
            fields = None
        if fields is None or not os.path.exists(self._path(_UPDATE)):
            self.remove_update()
            return None
        return PendingUpdate(**fields)

    def read_update(self) -> bytes:
        """Returns the bytes of the update that waits to be sent."""
        return read_bytes(self._path(_UPDATE), "an update", _MAX_UPDATE_BYTES)

    def remove_update(self) -> None:
        """Removes the update that waits, because it arrived or cannot be used."""
        for name in (_PENDING, _UPDATE):
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._path(name))

    def _models(self) -> list[str]:
        folder = self._path(_MODELS)
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def _path(self, *names: str) -> str:
        return os.path.join(self.path, *names)


def _parse_identity(text: str) -> dict[str, Any]:
    fields = parse_json(text, "A device's identity")
    names = {"url", "device", "key"}
    expect_keys(fields, names, names, "A device's identity")
    if not isinstance(fields["url"], str) or not is_identity(fields["device"], fields["key"]):
        raise ValueError(
            "A device's identity: expected a URL, an identifier of 32 and a key of 64 hexadecimal "
            "digits, received something else. Delete the file to enrol anew."
        )
    return fields


def _parse_pending(text: str) -> dict[str, Any]:
    fields = parse_json(text, "An update that waits")
    names = {field.name for field in dataclasses.fields(PendingUpdate)}
    expect_keys(fields, names, names, "An update that waits")
    if not isinstance(fields["task"], dict):
        raise ValueError(f"An update that waits: expected a task, received {fields['task']!r}.")
    expect_keys(fields["task"], set(fields["task"]), {"task", "round"}, "Its task")
    return fields
