"""Uploads: the update of each task is checked, stored and recorded once.

The file is in its place before the database records it, so an accepted update is never lost. A
process that is killed in between leaves a file without a record, and the device sends it again.
"""

import functools
import os
from typing import Any, BinaryIO, NamedTuple

from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.sql.expression import ColumnElement, FromClause, Select

from fedsup_tf.architecture import Architecture
from fedsup_tf.space import MEAN_SQUARE
from tff_programs.gateway import devices, update_files
from tff_programs.gateway.database import insert_new
from tff_programs.gateway.refusal import RefusalError
from tff_programs.gateway.tables import (
    CURRENT_STATES,
    models,
    refusals,
    round_tiers,
    rounds,
    tasks,
    updates,
)
from tff_programs.gateway.tables import devices as devices_table
from tflite.format.metadata import ModelMetadata, read_metadata
from tflite.format.update_file import (
    DeviceUpdate,
    check_class_names,
    max_update_bytes,
    parse_update,
    read_update,
)

# Name of an update in error messages.
_UPDATE = "update"


def _in_progress(table: FromClause, column: ColumnElement) -> Select:
    """Returns a statement that selects a column of the current round."""
    is_current = or_(*(table.c.state == state for state in CURRENT_STATES))
    return select(column).where(is_current).order_by(table.c.id.desc()).limit(1)


# Built once, since constructing a statement costs more than executing it.
_CURRENT = _in_progress(rounds, rounds.c.number)
_CURRENT_ID = _in_progress(rounds, rounds.c.id)
_newest = rounds.alias("newest")
# Everything that decides whether an update is accepted: the device's row, and the task's if the
# task belongs to the device.
_EXPECTED = (
    select(
        devices_table.c.revoked,
        tasks.c.round_id,
        rounds.c.number,
        rounds.c.state,
        round_tiers.c.parameters,
        models.c.path,
        updates.c.hash.label("accepted"),
        _in_progress(_newest, _newest.c.number).scalar_subquery().label("current"),
    )
    .select_from(devices_table)
    .outerjoin(tasks, (tasks.c.id == bindparam("of_task")) & (tasks.c.device == devices_table.c.id))
    .outerjoin(rounds, rounds.c.id == tasks.c.round_id)
    .outerjoin(
        round_tiers,
        (round_tiers.c.round_id == tasks.c.round_id) & (round_tiers.c.tier == tasks.c.tier),
    )
    .outerjoin(models, models.c.hash == round_tiers.c.model)
    .outerjoin(updates, updates.c.task == tasks.c.id)
    .where(devices_table.c.id == bindparam("of_device"))
)
_STATES = {
    "undone": "which was rolled back",
    "closing": "which is being closed",
    "resting": "which is paused",
}
_SENT = update(tasks).where(tasks.c.id == bindparam("of_task")).values(sent=bindparam("now"))


class Expected(NamedTuple):
    """The update that the server accepts for a task.

    Attributes:
      task: Identifier of the task.
      device: Identifier of the device that the task was given to.
      round_id: Identifier of the task's round in the database.
      round: Number of rounds that the task's supernet was trained for.
      model_path: Path of the model that was sent, within the gateway's folder.
      max_bytes: Maximum size of the update file, in bytes.
    """

    task: str
    device: str
    round_id: int
    round: int
    model_path: str
    max_bytes: int


def expect_update(
    connection: Connection, device: str, task: str, hash_: str, max_staleness: int
) -> tuple[Expected, bool]:
    """Returns the update expected for a task, and whether this one was accepted already.

    Args:
      connection: Connection with an open transaction.
      device: Identifier of the requesting device, already authenticated.
      task: Identifier of the task, as in the request.
      hash_: SHA-256 of the update, as in the request.
      max_staleness: Maximum number of rounds that may be closed since the task's.

    Raises:
      RefusalError: If the device may not take part, has no such task, sent another update for it,
        or is too late.
    """
    row = connection.execute(_EXPECTED, {"of_task": task, "of_device": device}).first()
    devices.check_standing(row, device)
    if row.path is None:
        raise RefusalError(
            404,
            "unknown",
            f"Expected a task of this device, received {task}, which it was not given. Check in "
            "again.",
        )
    expected = Expected(
        task, device, row.round_id, row.number, row.path, max_update_bytes(row.parameters)
    )
    if row.accepted is not None:
        if row.accepted != hash_:
            raise RefusalError(
                409,
                "sent_before",
                f"Expected the update {row.accepted[:12]}, which was accepted for this task, "
                f"received {hash_[:12]}. Check in again.",
            )
        return expected, True
    staleness = (row.current or 0) - row.number
    # Without staleness, an update counts in its own round or not at all.
    is_closed = max_staleness == 0 and row.state != "open"
    if row.state == "undone" or is_closed or staleness > max_staleness:
        state = _STATES.get(row.state, f"which was closed, {staleness} rounds late")
        raise RefusalError(
            410,
            "stale",
            f"Expected an update at most {max_staleness} rounds late, received one of round "
            f"{row.number}, {state}. Check in again.",
        )
    return expected, False


def current_number(connection: Connection) -> int:
    """Returns how many rounds the supernet was trained for; 0 before the first is open."""
    return connection.scalar(_CURRENT) or 0


def check_update(folder: str, source: str | bytes, expected: Expected) -> DeviceUpdate:
    """Reads an update that was received for a task.

    Args:
      folder: Path of the gateway's folder.
      source: Path of the update file, or its bytes.
      expected: Update that the task accepts.

    Raises:
      RefusalError: If the update is damaged or does not belong to the task's model.
    """
    metadata, expected_shapes = _model(os.path.join(folder, expected.model_path))

    def shapes(architecture: Architecture):
        if architecture != metadata.architecture:
            raise ValueError(
                f"expected an update of {metadata.architecture}, the task's subnet, received one "
                f"of {architecture}. Copy the architecture from the model's metadata."
            )
        return expected_shapes

    try:
        if isinstance(source, bytes):
            found = parse_update(_UPDATE, source, metadata.space, shapes)
        else:
            found = read_update(source, metadata.space, shapes)
        check_class_names(found, metadata.class_names)
    except ValueError as error:
        name = _UPDATE if isinstance(source, bytes) else source
        reason = str(error).removeprefix(f"{name!r}: ")
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


def keep(folder: str, content: BinaryIO | bytes, hash_: str, expected: Expected) -> dict[str, Any]:
    """Moves a checked update to its final path and syncs it to disk.

    Args:
      folder: Path of the gateway's folder.
      content: The update's bytes, or its temporary file.
      hash_: SHA-256 of the update, in hexadecimal digits.
      expected: Update that the task accepts.

    Returns:
      The update's row for `record_update`.
    """
    path = update_files.update_path(expected.task, hash_)
    update_files.keep(folder, content, path)
    return {
        "task": expected.task,
        "hash": hash_,
        "device": expected.device,
        "round_id": expected.round_id,
        "bytes": os.path.getsize(os.path.join(folder, path)),
        "state": "waiting",
    }


def record_update(
    connection: Connection, values: dict[str, Any], max_staleness: int, now: float
) -> bool:
    """Records an update whose file is kept.

    Args:
      connection: Connection with an open write transaction.
      values: The row that `keep` returned.
      max_staleness: As in `expect_update`.
      now: Current Unix time, in seconds.

    Returns:
      Whether the update is new; False if it was accepted before.

    Raises:
      RefusalError: If the update can no longer be used.
    """
    request = (values["device"], values["task"], values["hash"], max_staleness)
    _, is_there = expect_update(connection, *request)
    if is_there:
        return False
    if not insert_new(connection, updates, {**values, "received": now}):
        # The device sent it to another process at the same time.
        expect_update(connection, *request)
        return False
    connection.execute(_SENT, {"of_task": values["task"], "now": now})
    return True


def count_refusal(connection: Connection, code: str) -> None:
    """Counts a refused update in the current round."""
    round_id = connection.scalar(_CURRENT_ID)
    if round_id is None:
        return
    more = (
        update(refusals)
        .where(refusals.c.round_id == round_id, refusals.c.code == code)
        .values(count=refusals.c.count + 1)
    )
    if not connection.execute(more).rowcount:
        first = {"round_id": round_id, "code": code, "count": 1}
        if not insert_new(connection, refusals, first):
            # Another process inserted the row first.
            connection.execute(more)


@functools.lru_cache(maxsize=64)
def _model(path: str) -> tuple[ModelMetadata, dict[str, tuple[int, ...]]]:
    """Returns a model's metadata and the shapes of the tensors in its updates."""
    metadata = read_metadata(path)
    shapes = {
        name: shape for name, shape in metadata.variables.items() if not name.endswith(MEAN_SQUARE)
    }
    return metadata, shapes
