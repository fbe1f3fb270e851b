"""Check-in: which device trains which subnet in the open round.

A check-in first looks, beside all others, and writes only where there is something to write.
"""

import hashlib
import secrets
from typing import Any, NamedTuple

from sqlalchemy import bindparam, func, or_, select
from sqlalchemy.engine import Connection, Row

from tff_programs.gateway import devices
from tff_programs.gateway.refusal import RefusalError
from tff_programs.gateway.tables import models, round_tiers, rounds, tasks
from tflite.format.update_file import most_update_bytes

# Built once, since building a statement costs more than what the database does for it.
_OPEN_ROUND = select(rounds).where(rounds.c.state == "open").order_by(rounds.c.id.desc()).limit(1)
_TIERS = (
    select(round_tiers, models.c.bytes.label("model_bytes"))
    .join(models, models.c.hash == round_tiers.c.model)
    .where(round_tiers.c.round_id == bindparam("round_id"))
    .order_by(round_tiers.c.place)
)
_TASK_OF = select(tasks).where(
    tasks.c.device == bindparam("device"), tasks.c.round_id == bindparam("round_id")
)
# Held until the transaction ends, so that no tier is given more than it asks for.
_STILL_OPEN = (
    select(rounds.c.id)
    .where(rounds.c.id == bindparam("round_id"), rounds.c.state == "open")
    .with_for_update()
)
_GIVE = tasks.insert()
_BUSY = (
    select(func.count())
    .select_from(tasks)
    .where(
        tasks.c.round_id == bindparam("round_id"),
        tasks.c.tier == bindparam("tier"),
        or_(tasks.c.sent.isnot(None), tasks.c.given > bindparam("since")),
    )
)


class Training(NamedTuple):
    """The part of a task that is the same for all devices.

    Attributes:
      epochs: Passes over the device's examples.
      learning_rate: Of SGD.
      task_seconds: Seconds after which another device is asked in place of one that sent nothing.
    """

    epochs: int
    learning_rate: float
    task_seconds: float


class Seen(NamedTuple):
    """A check-in as it was looked at.

    Attributes:
      round: The open round; None while there is none.
      tiers: Those of the round.
      carried: Those whose subnets the device can train, its own first.
      task: The device's task in the round, if it has one.
      is_written: Whether there is something to write: a task to give, or that the device was here.
      gives: Whether there is room for a task of the device.
    """

    round: Row | None
    tiers: list[Row]
    carried: list[Row]
    task: Row | None
    is_written: bool
    gives: bool


def look(
    connection: Connection, device: str, fields: dict[str, Any], training: Training, now: float
) -> Seen:
    """Looks what a check-in comes to.

    Args:
      connection: A transaction.
      device: The device's identity, checked.
      fields: The request's fields, checked against the protocol's types.
      training: The part of its task that is the same for all.
      now: Seconds since 1970.

    Raises:
      RefusalError: If the device is not enrolled, or its tier unknown.
    """
    standing = devices.check_enrolled(connection, device)
    round_row = open_round(connection)
    if round_row is None:
        return Seen(None, [], [], None, False, False)
    tiers = connection.execute(_TIERS, {"round_id": round_row.id}).all()
    carried = _carried(tiers, fields)
    task = _task_of(connection, device, round_row.id)
    gives = task is None and any(_has_room(connection, tier, training, now) for tier in carried)
    is_written = gives or not devices.was_seen_lately(standing, now)
    return Seen(round_row, tiers, carried, task, is_written, gives)


def write(
    connection: Connection,
    device: str,
    fields: dict[str, Any],
    seen: Seen,
    training: Training,
    now: float,
) -> Row | None:
    """Writes down that a device was here, and gives it a task where there is still room.

    Args:
      connection: A transaction that writes.
      device: As `look` got it.
      fields: As `look` got them.
      seen: What it returned.
      training: As `look` got it.
      now: Seconds since 1970.

    Returns:
      The device's task; None if it has none.
    """
    name = seen.carried[0].tier if seen.carried else ""
    devices.saw(connection, device, now, name, fields)
    return _give(connection, device, seen, training, now) if seen.gives else seen.task


def message(seen: Seen, task: Row | None, training: Training, now: float) -> dict[str, Any] | None:
    """Returns a task as the protocol has it; None if there is none to do.

    Args:
      seen: What `look` returned.
      task: The task that `write` returned, or that of `seen`.
      training: As `look` got it.
      now: Seconds since 1970.
    """
    if task is None or task.sent is not None:
        return None
    tier = next(tier for tier in seen.tiers if tier.tier == task.tier)
    digest = hashlib.sha256(f"{seen.round.base_hash}\n{task.device}".encode()).digest()
    return {
        "task": task.id,
        "round": seen.round.number,
        "tier": task.tier,
        "model": tier.model,
        "model_bytes": tier.model_bytes,
        "epochs": training.epochs,
        "learning_rate": training.learning_rate,
        # The largest is that of a signed number of 64 bits.
        "seed": int.from_bytes(digest[:8], "big") >> 1,
        "deadline_seconds": max(0, int(seen.round.deadline - now)),
        "max_update_bytes": most_update_bytes(tier.parameters),
    }


def open_round(connection: Connection) -> Row | None:
    """Returns the round that devices take part in; None while there is none."""
    return connection.execute(_OPEN_ROUND).first()


def _carried(tiers: list[Row], fields: dict[str, Any]) -> list[Row]:
    """Returns the device's tier, and behind it those below, whose subnets it can train too."""
    if not tiers:
        return []
    name = fields.get("tier")
    if name is not None:
        own = next((tier for tier in tiers if tier.tier == name), None)
        if own is None:
            names = ", ".join(tier.tier for tier in tiers)
            raise RefusalError(
                400, "request", f"Expected a tier of {names}, received {name!r}. Send one of them."
            )
        below = [tier for tier in tiers if tier.cost == own.cost and tier.capacity < own.capacity]
        return [own, *sorted(below, key=lambda tier: -tier.capacity)]
    capability = fields["capability"]
    within = [tier for tier in tiers if capability.get(tier.cost, -1) >= tier.capacity]
    return sorted(within, key=lambda tier: -tier.capacity)


def _task_of(connection, device: str, round_id: int) -> Row | None:
    return connection.execute(_TASK_OF, {"device": device, "round_id": round_id}).first()


def _has_room(connection, tier: Row, training: Training, now: float) -> bool:
    """Returns whether fewer devices of the tier are at work or done than are asked."""
    busy = {
        "round_id": tier.round_id,
        "tier": tier.tier,
        "since": now - training.task_seconds,
    }
    return connection.scalar(_BUSY, busy) < tier.asked


def _give(connection, device: str, seen: Seen, training: Training, now: float) -> Row | None:
    still_open = connection.execute(_STILL_OPEN, {"round_id": seen.round.id}).first()
    if still_open is None:
        return None
    devices.check_enrolled(connection, device)
    # The device may have asked twice at once.
    task = _task_of(connection, device, seen.round.id)
    if task is not None:
        return task
    for tier in seen.carried:
        if _has_room(connection, tier, training, now):
            values = {
                "id": secrets.token_hex(16),
                "device": device,
                "round_id": seen.round.id,
                "tier": tier.tier,
                "given": now,
            }
            connection.execute(_GIVE, values)
            return _task_of(connection, device, seen.round.id)
    return None
