"""State of a run after each round, on disk; it is checked when it is read."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.common_libs import serializable
from tensorflow_federated.python.program import structure_utils

from fedsup_tf.files.atomic_write import write_text


@contextlib.contextmanager
def saving(path: str, expected: str) -> Iterator[None]:
    """Turns an error of TensorFlow or of the system while a round is saved into one sentence.

    Args:
      path: What is written.
      expected: What it is, such as `"the state of round 3"`.

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


class RunStateManager(tff.program.FileProgramStateManager):
    """Saves a run's newest two states, each with a hash of its files.

    A state that is damaged is set aside when the run is continued, and the one before is loaded.
    """

    def __init__(self, folder: str, on_message: Callable[[str], None]):
        """Creates the manager.

        Args:
          folder: Where the states are.
          on_message: Called with a line of text where a state is damaged.
        """
        with saving(folder, "states"):
            super().__init__(folder, keep_total=2, keep_first=False)
        self._folder = folder
        self._on_message = on_message

    async def load_latest(self, structure: Any) -> tuple[Any, int]:
        """Loads the newest state that is whole; `(None, 0)` if none was saved.

        Raises:
          ValueError: If states were saved and all are damaged.
        """
        versions = await self.get_versions() or []
        faults = {}
        for version in reversed(versions):
            # A damaged file makes TensorFlow raise nearly any error.
            try:
                self._check_hash(version)
                state = await self.load(version, structure)
                _check_form(state, structure)
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
        """Saves a state, and then removes all but the newest two.

        Raises:
          OSError: If it cannot be saved.
        """
        with saving(self._folder, f"the state of round {version}"):
            try:
                await super().save(program_state, version)
            except (OSError, tf.errors.OpError):
                self._remove_half_written(version)
                raise
            path = self._get_path_for_version(version)
            write_text(f"{path}.sha256", _hash_of_files(path))

    async def _remove(self, version: int) -> None:
        await super()._remove(version)
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{self._get_path_for_version(version)}.sha256")

    def _remove_half_written(self, version):
        name = f"{os.path.basename(self._get_path_for_version(version))}_temp"
        for entry in os.scandir(self._folder):
            if entry.name.startswith(name):
                shutil.rmtree(entry.path, ignore_errors=True)

    def _check_hash(self, version):
        path = self._get_path_for_version(version)
        try:
            with open(f"{path}.sha256", encoding="ascii") as file:
                expected = file.read()
        except FileNotFoundError:
            return  # A program was killed between the state and its hash.
        if _hash_of_files(path) != expected:
            raise ValueError("its files are not those that were saved")

    def _set_aside(self, version):
        path = self._get_path_for_version(version)
        shutil.rmtree(f"{path}.damaged", ignore_errors=True)
        os.rename(path, f"{path}.damaged")
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{path}.sha256")


def _check_form(state, structure) -> None:
    """Checks that a loaded state has the values that the program would start with."""
    values, initials = structure_utils.flatten(state), structure_utils.flatten(structure)
    if len(values) != len(initials):
        raise ValueError(f"expected {len(initials)} values, received {len(values)}")
    for value, initial in zip(values, initials, strict=True):
        if isinstance(initial, serializable.Serializable):
            continue
        value, initial = np.asarray(value), np.asarray(initial)
        if value.shape != initial.shape or value.dtype != initial.dtype:
            raise ValueError(
                f"expected {initial.dtype} {initial.shape}, received {value.dtype} {value.shape}"
            )


def _hash_of_files(folder: str) -> str:
    """Returns the SHA-256 of a folder's files, their names included."""
    digest = hashlib.sha256()
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file_path = os.path.join(path, name)
            with open(file_path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{os.path.relpath(file_path, folder)}\n{content}\n".encode())
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return "No space left on device"
    text = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    lines = text.strip().splitlines()
    return lines[0][:300].rstrip(". ") if lines else type(error).__name__
