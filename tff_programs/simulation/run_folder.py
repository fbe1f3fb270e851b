"""Folder of a run: exclusive access, settings, and cleanup after killed programs."""

import contextlib
import fcntl
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from fedsup_tf.files.atomic_write import (
    check_output_file,
    check_output_folder,
    make_folder,
    remove_left_over,
    write_json,
)
from fedsup_tf.files.json_schema import parse_json
from fedsup_tf.files.reading import read_text

_LOCK = ".lock"
# Files and folders that a run writes.
_FILES = (_LOCK, "metrics.csv", "supernet.safetensors", "curves.png")
_FOLDERS = ("state", "tensorboard")
# Temporary names that TFF writes to before renaming.
_LEFT_OVER = re.compile(r"(program_state_\d+|.+\.csv)_temp\d+")


@contextlib.contextmanager
def hold_run(folder: str) -> Iterator[None]:
    """Makes a run's folder and keeps other programs out of it during the `with` block.

    The lock is released when this process ends for any reason. Incomplete files of killed programs
    are removed. If the folder is new and nothing was written to it, it is removed afterwards.

    Args:
      folder: The run's folder.

    Raises:
      ValueError: If another program holds the folder, the folder cannot be made, or the path of a
        file or folder that a run writes is taken by something else.
    """
    is_new = make_folder(folder)
    for name in _FILES:
        check_output_file(os.path.join(folder, name))
    for name in _FOLDERS:
        check_output_folder(os.path.join(folder, name))
    path = os.path.join(folder, _LOCK)
    descriptor = _lock(path, folder)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
        _clean(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.remove(path)
        os.close(descriptor)
        if is_new:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def keep_settings(path: str, settings: Mapping[str, Any], is_begun: bool) -> None:
    """Writes a new run's settings, or checks that a continued run has the same ones.

    Args:
      path: Path of the JSON file.
      settings: Settings by flag, any JSON values. With a `data_hash` of own data, their path
        `dataset` may change.
      is_begun: Whether rounds of the run are saved.

    Raises:
      ValueError: If the settings differ, cannot be read, or are missing although rounds are saved.
    """
    remedy = "Put back the file as it was, or give another --out."
    if not os.path.lexists(path):
        if is_begun:
            raise ValueError(
                f"{path!r}: expected the settings of the run whose rounds are saved beside it, "
                f"found no file. {remedy}"
            )
        write_json(path, dict(sorted(settings.items())))
        return
    try:
        before = parse_json(read_text(path, "the run's settings, a JSON object"), repr(path))
    except ValueError as error:
        raise ValueError(f"The run's settings are lost: {error} {remedy}") from error
    if before.get("random_streams") != settings.get("random_streams"):
        raise ValueError(
            f"The run in {os.path.dirname(path)!r} was started by a version that drew other random "
            "numbers from a seed. Continue it with that version, or give another --out."
        )
    names = {
        name for name in before.keys() | settings.keys() if before.get(name) != settings.get(name)
    }
    if "data_hash" in settings and "data_hash" not in names:
        names.discard("dataset")
    if names:
        changes = "; ".join(
            f"--{name} was {before.get(name)}, is {settings.get(name)}" for name in sorted(names)
        )
        raise ValueError(
            f"The run in {os.path.dirname(path)!r} was started with other settings: {changes}. "
            "Repeat its flags to continue it, or give another --out."
        )


def _lock(path: str, folder: str) -> int:
    """Opens and locks a file; returns its descriptor, which releases the lock when closed."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise OSError(
                f"{path!r}: expected a file that this program can write, received another one "
                f"({error.strerror}). Remove it, or give another --out."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            raise ValueError(
                f"The run in {folder!r} is being trained by process {owner or 'of another program'}"
                ". Wait until it ends, end it, or give another --out."
            ) from error
        # The program that held it may have removed the file before it was locked here.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


def _clean(folder: str) -> None:
    """Removes files that killed programs left in a run's folder and its subfolders."""
    folders = [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    for each in (folder, *folders):
        remove_left_over(each)
        for entry in os.scandir(each):
            if not _LEFT_OVER.fullmatch(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.remove(entry.path)
