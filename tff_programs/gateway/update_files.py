"""Update files: each is complete and on disk before the database records it.

A killed process may leave files without a record; the device then sends its update again.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import BinaryIO

from fedsup_tf.files.atomic_write import make_folder

UPDATES = "updates"
INCOMING = "incoming"


def make_folders(folder: str) -> None:
    """Creates all folders of updates in advance: a new folder costs more than a file in it."""
    make_folder(os.path.join(folder, INCOMING))
    parts = os.path.join(folder, UPDATES)
    if sum(make_folder(os.path.join(parts, f"{part:02x}")) for part in range(256)):
        _sync(parts)
        _sync(folder)


def update_path(task: str, hash_: str) -> str:
    """Returns an update's path within the gateway's folder; no two tasks share a file."""
    return os.path.join(UPDATES, task[:2], f"{task}-{hash_}.safetensors")


def temporary_file(folder: str) -> BinaryIO:
    """Opens a new file in a gateway's folder; `remove` closes and deletes it."""
    path = os.path.join(folder, INCOMING, f"{os.getpid()}-{secrets.token_hex(8)}.safetensors")
    try:
        return _new_file(path)
    except FileNotFoundError:
        make_folders(folder)
        return _new_file(path)


def _new_file(path: str) -> BinaryIO:
    return open(path, "xb", buffering=0)


def write_all(file: BinaryIO, data: bytes) -> None:
    """Writes all bytes to an unbuffered file; a nearly full disk may accept only a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def remove(file: BinaryIO) -> None:
    """Closes and deletes a temporary file."""
    with contextlib.suppress(OSError):
        os.remove(file.name)
    file.close()


def keep(folder: str, content: BinaryIO | bytes, path: str) -> None:
    """Moves an update to its final path and syncs it to disk.

    Args:
      folder: Path of the gateway's folder.
      content: The update's bytes, or a temporary file that holds them.
      path: Final path within the folder; see `update_path`.
    """
    kept = os.path.join(folder, path)

    def bring() -> None:
        if isinstance(content, bytes):
            _write(folder, content, kept)
        else:
            _place(content, kept)

    try:
        bring()
    except FileNotFoundError:
        make_folders(folder)
        bring()
    _sync(os.path.dirname(kept))


def _write(folder: str, data: bytes, kept: str) -> None:
    try:
        file = _new_file(kept)
    except FileExistsError:
        with _temporary(folder, data) as file:
            _place(file, kept)
        return
    with file:
        try:
            write_all(file, data)
            os.fsync(file.fileno())
        except OSError:
            # Free the space without deleting: another process may have replaced the file.
            file.truncate(0)
            raise


@contextlib.contextmanager
def _temporary(folder: str, data: bytes) -> Iterator[BinaryIO]:
    file = temporary_file(folder)
    try:
        write_all(file, data)
        yield file
    finally:
        remove(file)


def _place(file: BinaryIO, kept: str) -> None:
    try:
        # A link made before fsync reaches the disk together with the bytes.
        os.link(file.name, kept)
        os.fsync(file.fileno())
    except FileExistsError:
        # The existing file may be accepted already: its replacement must be on disk first.
        os.fsync(file.fileno())
        os.replace(file.name, kept)


def _sync(folder: str) -> None:
    """Syncs a folder's new entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
