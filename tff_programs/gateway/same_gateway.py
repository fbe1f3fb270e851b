"""Checks that a process continues the gateway whose database it opened."""

import hashlib

from sqlalchemy import select

from tff_programs.gateway.database import Database, insert_new
from tff_programs.gateway.secret_files import has_secret
from tff_programs.gateway.tables import facts, rounds

_SECRET = "secret"


def check_first_supernet(database: Database, hash_: str, path: str, folder: str) -> None:
    """Checks that a supernet is the one that the first round started from.

    Args:
      database: The gateway's database.
      hash_: `checkpoint.fingerprint` of the supernet's weights.
      path: Path of the supernet's file, for the error message.
      folder: Path of the gateway's folder.

    Raises:
      ValueError: If the gateway started from another supernet.
    """
    with database.read() as connection:
        first = connection.scalar(select(rounds.c.base_hash).order_by(rounds.c.id))
    if first is not None and first != hash_:
        raise ValueError(
            f"The gateway in {folder!r} began with another supernet than {path!r}. Give that "
            "one to continue it, or another --out and --database."
        )


def check_secret_exists(database: Database, folder: str) -> None:
    """Checks that a gateway that has begun still has its secret, before a new one is made.

    Raises:
      ValueError: If the file is missing.
    """
    with database.read() as connection:
        known = connection.scalar(select(facts.c.value).where(facts.c.name == _SECRET))
    if known is not None and not has_secret(folder):
        raise ValueError(
            f"{folder!r}: expected the file secret.key with which the database's devices enrolled, "
            "received none. Give the --out that the gateway began with, put its secret.key back, "
            "or use another --database."
        )


def check_secret(database: Database, secret: bytes, folder: str) -> None:
    """Checks that the keys of the database's devices were derived from a folder's secret.

    The database keeps the secret's hash from the first start on.

    Raises:
      ValueError: If it is another secret, with which no device's signature would verify.
    """
    hash_ = hashlib.sha256(secret).hexdigest()
    with database.write() as connection:
        insert_new(connection, facts, {"name": _SECRET, "value": hash_})
        known = connection.scalar(select(facts.c.value).where(facts.c.name == _SECRET))
    if known != hash_:
        raise ValueError(
            f"{folder!r}: expected the file secret.key with which the database's devices enrolled, "
            "received another one. Give the --out that the gateway began with, put its secret.key "
            "back, or use another --database."
        )
