"""Temporary folder of a program, cleaned up by the next program if this one is killed."""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator

_PREFIX = "fedsup-temporary-"
_NAME = re.compile(re.escape(_PREFIX) + r"\w{8}")


@contextlib.contextmanager
def own_temporary_folder() -> Iterator[str]:
    """Keeps the temporary files of this process and its children in one folder.

    The folder is removed after the `with` block. Before the block, folders left behind by killed
    programs of this user are removed.

    Yields:
      The folder; during the block, `tempfile` and the environment variable `TMPDIR` refer to it.

    Raises:
      OSError: If the system has no place for temporary files.
    """
    parent = tempfile.gettempdir()
    _remove_left_over(parent)
    folder, descriptor = _make(parent)
    names = (tempfile.tempdir, os.environ.get("TMPDIR"))
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    try:
        yield folder
    finally:
        tempfile.tempdir = names[0]
        if names[1] is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = names[1]
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _make(parent: str) -> tuple[str, int]:
    """Creates and locks a folder; the lock ends with this process."""
    while True:
        folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        # Until it is locked, another program may remove it as a leftover.
        with contextlib.suppress(FileNotFoundError):
            descriptor = _open(folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.isdir(folder):
                return folder, descriptor
            os.close(descriptor)


def _open(folder: str) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _remove_left_over(parent: str) -> None:
    for entry in os.listdir(parent):
        if not _NAME.fullmatch(entry):
            continue
        path = os.path.join(parent, entry)
        # Keeps folders of other users and folders in use.
        with contextlib.suppress(OSError):
            if not _is_own_folder(path):
                continue
            descriptor = _open(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _is_own_folder(path: str) -> bool:
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
