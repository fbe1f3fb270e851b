"""Check-in: which device trains which subnet in the open round."""

import hashlib
import secrets
from typing import Any, NamedTuple

from sqlalchemy import func, or_, select
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import IntegrityError

from tff_programs.gateway import devices
from tff_programs.gateway.database import Database
from tff_programs.gateway.refusal import RefusalError
from tff_programs.gateway.tables import models, round_tiers, rounds, tasks

# Room for the names, shapes and metadata of an update, as its reader has.
_HEADER_BYTES = 2**20
_VALUE_BYTES = 4


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


def check_in(
    database: Database, device: str, fields: dict[str, Any], training: Training, now: float
) -> dict[str, Any] | None:
    """Gives a device its task of the open round.

    Args:
      database: The gateway's.
      device: Its identity, checked.
      fields: The request's fields, checked against the protocol's types.
      training: What tasks say of the training.
      now: Seconds since 1970.

    Returns:
      The task as the protocol has it; None if there is none for the device now.

    Raises:
      RefusalError: If the device is not enrolled, or its tier unknown.
    """
    with database.read() as connection:
        devices.check_enrolled(connection, device)
        round_row = open_round(connection)
        tiers = [] if round_row is None else _tiers(connection, round_row.id)
        carried = _carried(tiers, fields)
        seen_lately = devices.was_seen_lately(connection, device, now)
        task = None if round_row is None else _task_of(connection, device, round_row.id)
        is_wanted = task is None and any(
            _has_room(connection, round_row.id, tier, training, now) for tier in carried
        )
    if is_wanted:
        try:
            with database.write() as connection:
                task = _give(connection, device, round_row.id, carried, training, now)
        except IntegrityError:
            # The device asked twice at once.
            with database.read() as connection:
                task = _task_of(connection, device, round_row.id)
    if not seen_lately and tiers:
        name = carried[0].tier if carried else ""
        with database.write() as connection:
            devices.saw(connection, device, now, name, fields)
    if task is None or task.sent is not None:
        return None
    tier = next(tier for tier in tiers if tier.tier == task.tier)
    return _message(task, tier, round_row, training, now)


def open_round(connection: Connection) -> Row | None:
    """Returns the round that devices take part in; None while there is none."""
    return connection.execute(
        select(rounds).where(rounds.c.state == "open").order_by(rounds.c.id.desc())
    ).first()


def most_update_bytes(parameters: int) -> int:
    """Returns the size of the largest update of a subnet with so many parameters."""
    return _VALUE_BYTES * parameters + _HEADER_BYTES


def _tiers(connection, round_id: int) -> list[Row]:
    return connection.execute(
        select(round_tiers, models.c.bytes.label("model_bytes"))
        .join(models, models.c.hash == round_tiers.c.model)
        .where(round_tiers.c.round_id == round_id)
        .order_by(round_tiers.c.place)
    ).all()


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
    return connection.execute(
        select(tasks).where(tasks.c.device == device, tasks.c.round_id == round_id)
    ).first()


def _has_room(connection, round_id: int, tier: Row, training: Training, now: float) -> bool:
    """Returns whether fewer devices of the tier are at work or done than are asked."""
    busy = connection.scalar(
        select(func.count())
        .select_from(tasks)
        .where(
            tasks.c.round_id == round_id,
            tasks.c.tier == tier.tier,
            or_(tasks.c.sent.isnot(None), tasks.c.given > now - training.task_seconds),
        )
    )
    return busy < tier.asked


def _give(connection, device, round_id, carried, training, now) -> Row | None:
    # One at a time, so that no tier is given more than it asks for.
    still_open = connection.execute(
        select(rounds.c.id)
        .where(rounds.c.id == round_id, rounds.c.state == "open")
        .with_for_update()
    ).first()
    if still_open is None:
        return None
    devices.check_enrolled(connection, device)
    for tier in carried:
        if _has_room(connection, round_id, tier, training, now):
            values = {
                "id": secrets.token_hex(16),
                "device": device,
                "round_id": round_id,
                "tier": tier.tier,
                "given": now,
            }
            connection.execute(tasks.insert().values(**values))
            return _task_of(connection, device, round_id)
    return None


def _message(task: Row, tier: Row, round_row: Row, training: Training, now: float):
    digest = hashlib.sha256(f"{round_row.base_hash}\n{task.device}".encode()).digest()
    return {
        "task": task.id,
        "round": round_row.number,
        "tier": task.tier,
        "model": tier.model,
        "model_bytes": tier.model_bytes,
        "epochs": training.epochs,
        "learning_rate": training.learning_rate,
        # The largest is that of a signed number of 64 bits.
        "seed": int.from_bytes(digest[:8], "big") >> 1,
        "deadline_seconds": max(0, int(round_row.deadline - now)),
        "max_update_bytes": most_update_bytes(tier.parameters),
    }
