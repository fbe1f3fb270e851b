"""Writes files atomically, and only replaces regular files."""

import contextlib
import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable
from typing import Any

from fedsup_tf.files.reading import kind_of_mode

_CHOOSE = "Choose another path."


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file atomically; it is flushed to disk before it takes its name."""

    def write(temporary):
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    replace_file(path, write)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 text file with `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON value with `write_text`, indented for readability."""
    write_text(path, json.dumps(value, indent=1))


def replace_file(path: str | os.PathLike, write: Callable[[str], None]) -> None:
    """Writes a file atomically.

    The file is written under a temporary name in the same folder and then renamed. Temporary files
    for the same path that killed writers left behind are removed. If the path is a symbolic link,
    its target is replaced.

    Args:
      path: Path of the file; missing folders are created.
      write: Function that writes the content to the path that it is called with.

    Raises:
      ValueError: If the path is a folder, a device or anything else but a regular file.
      OSError: If the file cannot be written; a previous file is then unchanged.
    """
    target = check_output_file(path)
    folder, name = os.path.split(target)
    make_folder(folder)
    _remove_left_over(folder, name)
    # Keeps the file extension last, since some writers choose their format by it.
    temporary = os.path.join(folder, f".{secrets.token_hex(4)}.{name}")
    descriptor = None
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        # The lock ends with this process: an unlocked temporary file was left by a killed writer.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        write(temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(
            f"Could not write {os.fspath(path)!r}: {error.strerror or error}. What was there "
            "before is unchanged; make room or choose another folder."
        ) from error
    finally:
        if descriptor is not None:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)
            os.close(descriptor)


def check_output_file(path: str | os.PathLike) -> str:
    """Checks that a file can be written at a path, without writing anything.

    Args:
      path: Path of the file to be written.

    Returns:
      The path with symbolic links resolved.

    Raises:
      ValueError: If the path is something other than a regular file, or the nearest existing folder
        above it is not a folder or not writable.
    """
    path = os.fspath(path)
    target = os.path.realpath(path)
    if path.endswith(os.sep) or os.path.isdir(target):
        raise ValueError(f"{path!r}: expected a file's path, received a folder's. {_CHOOSE}")
    if os.path.lexists(target):
        mode = os.lstat(target).st_mode
        if not stat.S_ISREG(mode):
            expected = "expected a regular file or none"
            raise ValueError(f"{path!r}: {expected}, received {kind_of_mode(mode)}. {_CHOOSE}")
    check_folder(path, os.path.dirname(target))
    return target


def check_outputs(
    outputs: Iterable[str | os.PathLike], inputs: Iterable[str | os.PathLike]
) -> None:
    """Checks that files can be written (see `check_output_file`) and are none of the inputs.

    Raises:
      ValueError: If a file cannot be written, or writing it would destroy an input.
    """
    read = {os.path.realpath(path): os.fspath(path) for path in inputs}
    for path in outputs:
        target = check_output_file(path)
        if target in read:
            raise ValueError(
                f"{os.fspath(path)!r}: expected another file than the input {read[target]!r}, "
                f"which it would replace. {_CHOOSE}"
            )


def check_output_folder(path: str | os.PathLike) -> None:
    """Checks that a folder is writable, or can be created.

    Raises:
      ValueError: If it is not.
    """
    check_folder(os.fspath(path), os.path.realpath(path))


def make_folder(path: str | os.PathLike) -> bool:
    """Creates a folder and its missing parents; returns whether it was missing.

    Raises:
      ValueError: If something else is in its place, or it cannot be created or written.
      OSError: If the system refuses to create it.
    """
    check_output_folder(path)
    is_missing = not os.path.isdir(path)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"Could not make the folder {os.fspath(path)!r}: {error.strerror or error}. {_CHOOSE}"
        ) from error
    return is_missing


def remove_left_over(folder: str | os.PathLike) -> None:
    """Removes the temporary files that killed writers of `replace_file` left in a folder."""
    _remove_left_over(os.fspath(folder), None)


def check_folder(path: str, folder: str) -> None:
    """Checks that the nearest existing ancestor of `folder`, or itself, is a writable folder."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        kind = kind_of_mode(os.lstat(folder).st_mode)
        raise ValueError(f"{path!r}: expected a folder at {folder!r}, received {kind}. {_CHOOSE}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            f"{path!r}: expected a folder that can be written, received {folder!r}, which this "
            "user may not write or the system keeps from being written. Choose another path, or "
            "change the folder's permissions."
        )


def _remove_left_over(folder: str, name: str | None) -> None:
    """Removes the temporary files left by killed writers, of one file or of all in a folder."""
    pattern = re.compile(r"\.[0-9a-f]{8}\." + (".+" if name is None else re.escape(name)), re.S)
    for entry in os.listdir(folder):
        if not pattern.fullmatch(entry):
            continue
        path = os.path.join(folder, entry)
        # Skips files that are in use, already gone, or not removable by this user.
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.remove(path)
            finally:
                os.close(descriptor)
