"""On-disk state of a run after each round, which is verified when it is read."""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.common_libs import serializable
from tensorflow_federated.python.program import structure_utils

from fedsup_tf.files.atomic_write import make_folder, write_bytes
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.files.reading import InvalidFileError, reading

_NAME = re.compile(r"round_(\d+)\.safetensors")
_HASH = "sha256"


@contextlib.contextmanager
def saving(path: str, expected: str) -> Iterator[None]:
    """Turns a TensorFlow or system error during saving into a one-sentence error.

    Args:
      path: Path that is written.
      expected: Description of the content, such as `"the state of round 3"`.

    Raises:
      OSError: If it cannot be saved.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise OSError(
            f"Could not save {expected} in {path!r}: {_reason(error)}. What was saved before is "
            "kept: make room, or mend the folder, and repeat the command."
        ) from error


class RunStateManager(tff.program.ProgramStateManager):
    """Saves a run's newest two states, each as a safetensors file with a hash of its values.

    TFF's `FileProgramStateManager` writes a SavedModel, for which TensorFlow traces functions of
    every value; with a small supernet that takes as long as a round. The folders that it wrote for
    earlier versions of this project can still be loaded. When a run is continued, a damaged state
    is set aside and the previous one is loaded.
    """

    def __init__(self, folder: str, on_message: Callable[[str], None]):
        """Creates the manager.

        Args:
          folder: Folder of the states.
          on_message: Called with a line of text if a state is damaged.
        """
        with saving(folder, "states"):
            make_folder(folder)
            self._earlier = tff.program.FileProgramStateManager(folder)
        self._folder = folder
        self._on_message = on_message

    async def get_versions(self) -> list[int] | None:
        """Returns the rounds whose states are saved, in order; None if there are none."""
        matches = map(_NAME.fullmatch, os.listdir(self._folder))
        own = {int(match[1]) for match in matches if match}
        return sorted(own.union(await self._earlier.get_versions() or ())) or None

    async def load(self, version: int, structure: Any) -> Any:
        """Loads the state of a round.

        Raises:
          ProgramStateNotFoundError: If the state does not exist.
          ValueError: If it is damaged, or its values do not match those of `structure`.
        """
        path = self._path(version)
        if os.path.lexists(path):
            state = _unflatten(_read_values(path), structure)
        else:
            _check_earlier(self._earlier_path(version))
            state = await self._earlier.load(version, structure)
        _check_form(state, structure)
        return state

    async def load_latest(self, structure: Any) -> tuple[Any, int]:
        """Loads the newest undamaged state and its round; `(None, 0)` if none was saved.

        Raises:
          ValueError: If states were saved but all are damaged.
        """
        versions = await self.get_versions() or []
        faults = {}
        for version in reversed(versions):
            # A damaged SavedModel makes TensorFlow raise nearly any error.
            try:
                state = await self.load(version, structure)
            except Exception as error:
                faults[version] = _reason(error)
                continue
            for damaged, reason in faults.items():
                self._set_aside(damaged)
                self._on_message(
                    f"The state of round {damaged} in {self._folder!r} is damaged ({reason}). It "
                    f"is set aside; the run continues after round {version}."
                )
            return state, version
        if faults:
            reasons = "; ".join(f"round {version}: {reason}" for version, reason in faults.items())
            raise ValueError(
                f"{self._folder!r}: expected a run's state, received damaged ones alone "
                f"({reasons}). Put back a copy of the folder, or give another --out."
            )
        return None, 0

    async def save(self, program_state: Any, version: int) -> None:
        """Saves a state, then removes all but the newest two.

        Raises:
          ProgramStateExistsError: If the state of that round is already saved.
          OSError: If it cannot be saved.
        """
        versions = await self.get_versions() or []
        if version in versions:
            raise tff.program.ProgramStateExistsError(version=version, path=self._folder)
        state = await tff.program.materialize_value(program_state)
        with saving(self._folder, f"the state of round {version}"):
            _write_values(self._path(version), structure_utils.flatten_with_name(state))
            for old in versions[:-1]:
                self._remove(old)

    async def remove_all(self) -> None:
        """Removes all states."""
        for version in await self.get_versions() or []:
            self._remove(version)

    def _path(self, version):
        return os.path.join(self._folder, f"round_{version}.safetensors")

    def _earlier_path(self, version):
        return os.path.join(self._folder, f"program_state_{version}")

    def _paths(self, version):
        """Returns the existing paths of a round's state, including those of earlier versions."""
        earlier = self._earlier_path(version)
        paths = (self._path(version), earlier, f"{earlier}.sha256")
        return [path for path in paths if os.path.lexists(path)]

    def _remove(self, version):
        for path in self._paths(version):
            if os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.remove(path)

    def _set_aside(self, version):
        for path in self._paths(version):
            shutil.rmtree(f"{path}.damaged", ignore_errors=True)
            os.rename(path, f"{path}.damaged")


def _write_values(path: str, named: Sequence[tuple[str, Any]]) -> None:
    """Writes the values of a state by name."""
    arrays = {}
    for name, value in named:
        if isinstance(value, serializable.Serializable):
            value = np.frombuffer(value.to_bytes(), np.uint8)
        arrays[name] = np.ascontiguousarray(value).reshape(np.shape(value))
    write_bytes(path, safetensors.numpy.save(arrays, {_HASH: fingerprint(arrays)}))


def _read_values(path: str) -> dict[str, np.ndarray]:
    """Reads the values that `_write_values` wrote.

    Raises:
      ValueError: If the values are not those that were written.
    """
    with reading(path, "a run's state"), safetensors.safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        if (file.metadata() or {}).get(_HASH) != fingerprint(arrays):
            raise ValueError("its values are not those that were saved")
    return arrays


def _check_earlier(folder: str) -> None:
    """Checks a state of an earlier version against the hash next to it.

    Raises:
      ValueError: If its files are not those that were saved.
    """
    try:
        with open(f"{folder}.sha256", encoding="ascii") as file:
            expected = file.read()
    except FileNotFoundError:
        return  # A program was killed between writing the state and its hash.
    if _hash_of_files(folder) != expected:
        raise ValueError("its files are not those that were saved")


def _hash_of_files(folder: str) -> str:
    """Returns the SHA-256 of a folder's files, including their names."""
    digest = hashlib.sha256()
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file_path = os.path.join(path, name)
            with open(file_path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{os.path.relpath(file_path, folder)}\n{content}\n".encode())
    return digest.hexdigest()


def _unflatten(arrays: Mapping[str, np.ndarray], structure: Any) -> Any:
    """Restores a structure from its values by name."""
    named = structure_utils.flatten_with_name(structure)
    if len(arrays) != len(named):
        raise ValueError(f"expected {len(named)} values, received {len(arrays)}")
    values = [
        type(initial).from_bytes(arrays[name].tobytes())
        if isinstance(initial, serializable.Serializable)
        else arrays[name][()]
        for name, initial in named
    ]
    return structure_utils.unflatten_as(structure, values)


def _check_form(state, structure) -> None:
    """Checks that a loaded state has the shapes and types of the program's initial state."""
    values, initials = structure_utils.flatten(state), structure_utils.flatten(structure)
    for value, initial in zip(values, initials, strict=True):
        if isinstance(initial, serializable.Serializable):
            continue
        value, initial = np.asarray(value), np.asarray(initial)
        if value.shape != initial.shape or value.dtype != initial.dtype:
            raise ValueError(
                f"expected {initial.dtype} {initial.shape}, received {value.dtype} {value.shape}"
            )


def _reason(error: BaseException) -> str:
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return "No space left on device"
    # Errors of the file readers and writers describe the file; their cause is the reason.
    if isinstance(error, InvalidFileError | OSError):
        error = error.__cause__ or error
    text = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    lines = text.strip().splitlines()
    return lines[0][:300].rstrip(". ") if lines else type(error).__name__
