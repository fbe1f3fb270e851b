"""Secrets in the gateway's folder, made once and shared by all processes that serve it."""

import contextlib
import os
import secrets

from fedsup_tf.files.atomic_write import make_folder, write_bytes
from fedsup_tf.files.reading import read_bytes

_SECRET = "secret.key"
_TOKEN = "enrolment.token"
_MOST_BYTES = 4096
_SECRET_BYTES = 32


def server_secret(folder: str) -> bytes:
    """Returns the secret from which devices' keys are derived; makes it where there is none.

    Raises:
      ValueError: If the file is damaged.
    """
    path = os.path.join(folder, _SECRET)
    _make(path, secrets.token_bytes(_SECRET_BYTES))
    secret = read_bytes(path, "the gateway's secret", _MOST_BYTES)
    if len(secret) != _SECRET_BYTES:
        raise ValueError(
            f"{path!r}: expected the gateway's secret of {_SECRET_BYTES} bytes, received "
            f"{len(secret)}. Put back the file as it was; with another one all devices must enrol "
            "again."
        )
    return secret


def has_secret(folder: str) -> bool:
    """Returns whether the folder is that of a gateway."""
    return os.path.exists(os.path.join(folder, _SECRET))


def enrolment_token(folder: str) -> str:
    """Returns the token with which devices enrol; makes it where there is none."""
    path = os.path.join(folder, _TOKEN)
    _make(path, _new_token())
    return read_bytes(path, "the enrolment token", _MOST_BYTES).decode("ascii", "replace").strip()


def replace_token(folder: str) -> str:
    """Makes another token; with the one before no device can enrol any more."""
    token = _new_token()
    write_bytes(os.path.join(folder, _TOKEN), token)
    os.chmod(os.path.join(folder, _TOKEN), 0o600)
    return token.decode()


def _new_token() -> bytes:
    return secrets.token_urlsafe(18).encode()


def _make(path: str, content: bytes) -> None:
    """Writes a file that only its owner may read, unless there is one."""
    if os.path.exists(path):
        return
    make_folder(os.path.dirname(path))
    temporary = f"{path}.{secrets.token_hex(4)}"
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.remove(temporary)
