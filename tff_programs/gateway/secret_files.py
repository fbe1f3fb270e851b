"""Secrets in the gateway's folder, created once and shared by all processes that serve it."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator

from fedsup_tf.files.atomic_write import make_folder
from fedsup_tf.files.reading import read_bytes

_SECRET = "secret.key"
_TOKEN = "enrolment.token"
_MAX_BYTES = 4096
_SECRET_BYTES = 32


def server_secret(folder: str) -> bytes:
    """Returns the secret from which devices' keys are derived; creates it if there is none.

    Raises:
      ValueError: If the file is damaged.
    """
    path = os.path.join(folder, _SECRET)
    make_folder(folder)
    _close_to_others(folder)
    _make(path, secrets.token_bytes(_SECRET_BYTES))
    secret = read_bytes(path, "the gateway's secret", _MAX_BYTES)
    if len(secret) != _SECRET_BYTES:
        raise ValueError(
            f"{path!r}: expected the gateway's secret of {_SECRET_BYTES} bytes, received "
            f"{len(secret)}. Put back the file as it was; with another one all devices must enrol "
            "again."
        )
    return secret


def has_secret(folder: str) -> bool:
    """Returns whether the folder holds a gateway's secret."""
    return os.path.exists(os.path.join(folder, _SECRET))


def enrolment_token(folder: str) -> str:
    """Returns the token with which devices enrol; creates it if there is none.

    Raises:
      ValueError: If the file is empty.
    """
    path = os.path.join(folder, _TOKEN)
    _make(path, _new_token())
    text = read_bytes(path, "the enrolment token", _MAX_BYTES).decode("ascii", "replace").strip()
    if not text:
        raise ValueError(
            f"{path!r}: expected the enrolment token, received an empty file. Delete it, or make a "
            "new token with `fedsup devices --new_token`."
        )
    return text


def replace_token(folder: str) -> str:
    """Replaces the enrolment token, which becomes invalid; returns the new one."""
    token, path = _new_token(), os.path.join(folder, _TOKEN)
    with _written(path, token) as temporary:
        os.replace(temporary, path)
    return token.decode()


def _new_token() -> bytes:
    return secrets.token_urlsafe(18).encode()


def _make(path: str, content: bytes) -> None:
    """Writes a file that only its owner may read, unless the file exists."""
    if os.path.exists(path):
        return
    make_folder(os.path.dirname(path))
    with _written(path, content) as temporary, contextlib.suppress(FileExistsError):
        os.link(temporary, path)


@contextlib.contextmanager
def _written(path: str, content: bytes) -> Iterator[str]:
    """Writes a file that only its owner may read, under a temporary name next to `path`."""
    temporary = f"{path}.{secrets.token_hex(4)}"
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def _close_to_others(folder: str) -> None:
    """Restricts a folder to its owner, and to its group if the group may write in it."""
    mode = stat.S_IMODE(os.stat(folder).st_mode)
    closed = mode & ~(0o007 if mode & 0o020 else 0o077)
    if closed != mode:
        # On a shared file system, the mount may determine the permissions.
        with contextlib.suppress(OSError):
            os.chmod(folder, closed)
