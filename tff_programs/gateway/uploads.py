"""Uploads: an update of a task is checked, kept and written down, once."""

import functools
import os
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import IntegrityError

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.atomic_write import make_folder
from fedsup_tf.space import MEAN_SQUARE
from tff_programs.gateway import devices
from tff_programs.gateway.check_in import most_update_bytes
from tff_programs.gateway.database import Database
from tff_programs.gateway.refusal import RefusalError
from tff_programs.gateway.tables import models, refusals, round_tiers, rounds, tasks, updates
from tflite.format.metadata import ModelMetadata, read_metadata
from tflite.format.update_file import DeviceUpdate, read_update

UPDATES = "updates"
INCOMING = "incoming"


class Expected(NamedTuple):
    """The update that the server takes for a task.

    Attributes:
      task: The task's identity.
      device: Whose it is.
      round_id: Its round.
      round: Rounds that its supernet was trained for.
      model_path: The model that was sent, in the gateway's folder.
      most_bytes: Size of the largest update.
    """

    task: str
    device: str
    round_id: int
    round: int
    model_path: str
    most_bytes: int


def find_accepted(connection: Connection, task: str) -> Row | None:
    """Returns the update that was accepted for a task; None if there is none."""
    return connection.execute(select(updates).where(updates.c.task == task)).first()


def expect_update(
    connection: Connection, device: str, task: str, hash_: str, max_staleness: int
) -> tuple[Expected, bool]:
    """Returns what the server takes for a task, and whether it has this update already.

    Args:
      connection: A transaction.
      device: Who asks, checked.
      task: The task that the request names.
      hash_: The hash that it names.
      max_staleness: Number of rounds that may be closed since the task's.

    Raises:
      RefusalError: If the device has no such task, sent another update for it, or comes too late.
    """
    devices.check_enrolled(connection, device)
    row = connection.execute(
        select(
            tasks.c.device,
            tasks.c.round_id,
            rounds.c.number,
            rounds.c.state,
            round_tiers.c.parameters,
            models.c.path,
        )
        .join(rounds, rounds.c.id == tasks.c.round_id)
        .join(
            round_tiers,
            (round_tiers.c.round_id == tasks.c.round_id) & (round_tiers.c.tier == tasks.c.tier),
        )
        .join(models, models.c.hash == round_tiers.c.model)
        .where(tasks.c.id == task)
    ).first()
    if row is None or row.device != device:
        raise RefusalError(
            404,
            "unknown",
            f"Expected a task of this device, received {task}, which it was not given. Check in "
            "again.",
        )
    expected = Expected(
        task, device, row.round_id, row.number, row.path, most_update_bytes(row.parameters)
    )
    accepted = find_accepted(connection, task)
    if accepted is not None:
        if accepted.hash != hash_:
            raise RefusalError(
                409,
                "sent_before",
                f"Expected the update {accepted.hash[:12]}, which was accepted for this task, "
                f"received {hash_[:12]}. Check in again.",
            )
        return expected, True
    staleness = current_number(connection) - row.number
    if row.state == "undone" or staleness > max_staleness:
        came = "its round was taken back" if row.state == "undone" else f"{staleness} were"
        raise RefusalError(
            410,
            "stale",
            f"Expected an update of a round after which at most {max_staleness} were closed, "
            f"received one of round {row.number}: {came}. Check in again.",
        )
    return expected, False


def current_number(connection: Connection) -> int:
    """Returns for how many rounds the supernet has been trained; 0 before the first is open."""
    return (
        connection.scalar(
            select(rounds.c.number)
            .where(rounds.c.state.in_(("open", "closing")))
            .order_by(rounds.c.id.desc())
        )
        or 0
    )


def check_update(folder: str, path: str, expected: Expected) -> DeviceUpdate:
    """Reads an update that came for a task.

    Raises:
      RefusalError: If it is damaged, or none of the task's model.
    """
    metadata = _metadata(os.path.join(folder, expected.model_path))

    def shapes(architecture: Architecture):
        if architecture != metadata.architecture:
            raise ValueError(
                f"expected an update of {metadata.architecture}, the task's subnet, received one "
                f"of {architecture}. Copy the architecture from the model's metadata."
            )
        return {
            name: shape
            for name, shape in metadata.variables.items()
            if not name.endswith(MEAN_SQUARE)
        }

    try:
        found = read_update(path, metadata.space, shapes)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path!r}: ")
        raise RefusalError(422, "update", f"The update cannot be used: {reason}") from error
    if (found.base_hash, found.base_round) != (metadata.supernet_hash, metadata.round):
        raise RefusalError(
            422,
            "update",
            f"Expected an update that started from the supernet {metadata.supernet_hash[:12]} of "
            f"round {metadata.round}, received one that started from {found.base_hash[:12]} of "
            f"round {found.base_round}. Copy both from the model's metadata.",
        )
    return found


def accept(
    database: Database,
    folder: str,
    path: str,
    hash_: str,
    expected: Expected,
    max_staleness: int,
    now: float,
) -> bool:
    """Checks a whole update, keeps its file and writes it down.

    The file has its place before it is written down: what was accepted is never lost. A process
    that is killed between both leaves a file that nobody counts, and the device sends it again.

    Args:
      database: The gateway's.
      folder: The gateway's.
      path: The temporary file, on the disk.
      hash_: SHA-256 of its bytes.
      expected: What the task takes.
      max_staleness: As in `expect_update`.
      now: Seconds since 1970.

    Returns:
      Whether it is new; else it was accepted before.

    Raises:
      RefusalError: If it cannot be used.
    """
    found = check_update(folder, path, expected)
    size = os.path.getsize(path)
    kept = os.path.join(folder, update_path(expected.task, hash_))
    make_folder(os.path.dirname(kept))
    os.replace(path, kept)
    _sync_folder(os.path.dirname(kept))
    values = {
        "task": expected.task,
        "hash": hash_,
        "device": expected.device,
        "round_id": expected.round_id,
        "received": now,
        "bytes": size,
        "identity": found.identity,
        "state": "waiting",
    }
    try:
        with database.write() as connection:
            _, is_there = expect_update(
                connection, expected.device, expected.task, hash_, max_staleness
            )
            if not is_there:
                connection.execute(updates.insert().values(**values))
                connection.execute(
                    update(tasks).where(tasks.c.id == expected.task).values(sent=now)
                )
            return not is_there
    except IntegrityError:
        # The device sent it twice at once.
        with database.read() as connection:
            expect_update(connection, expected.device, expected.task, hash_, max_staleness)
        return False


def update_path(task: str, hash_: str) -> str:
    """Returns where an update is kept, in the gateway's folder; no two tasks share a file."""
    return os.path.join(UPDATES, task[:2], f"{task}-{hash_}.safetensors")


def count_refusal(database: Database, code: str) -> None:
    """Counts an update that was refused, in the round that is open."""
    with database.write() as connection:
        round_id = connection.scalar(
            select(rounds.c.id)
            .where(rounds.c.state.in_(("open", "closing")))
            .order_by(rounds.c.id.desc())
        )
        if round_id is None:
            return
        where = (refusals.c.round_id == round_id) & (refusals.c.code == code)
        changed = connection.execute(
            update(refusals).where(where).values(count=refusals.c.count + 1)
        )
        if changed.rowcount:
            return
    try:
        with database.write() as connection:
            connection.execute(refusals.insert().values(round_id=round_id, code=code, count=1))
    except IntegrityError:
        with database.write() as connection:
            connection.execute(update(refusals).where(where).values(count=refusals.c.count + 1))


@functools.lru_cache(maxsize=64)
def _metadata(path: str) -> ModelMetadata:
    return read_metadata(path)


def _sync_folder(path: str) -> None:
    """Brings a folder's new names onto the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
