"""Check-in: decides which device trains which subnet in the open round.

A check-in first reads, concurrently with others, and writes only if there is something to write.
"""

import hashlib
import secrets
from typing import Any, NamedTuple

from sqlalchemy import bindparam, func, or_, select
from sqlalchemy.engine import Connection, Row

from tff_programs.gateway import devices
from tff_programs.gateway.refusal import RefusalError
from tff_programs.gateway.tables import models, round_tiers, rounds, tasks
from tflite.format.update_file import max_update_bytes

# Built once, since constructing a statement costs more than executing it.
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
# Locks the round until the transaction ends, so that no tier gets more tasks than it asks for.
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


# Maxima of the protocol.
MAX_EPOCHS = 1000
MAX_LEARNING_RATE = 1000.0


class Training(NamedTuple):
    """Training settings that are the same for all devices.

    Attributes:
      epochs: Number of passes over the device's examples.
      learning_rate: Learning rate of SGD.
      task_seconds: Seconds after which another device is asked in place of one that sent nothing.
    """

    epochs: int
    learning_rate: float
    task_seconds: float


class CheckInState(NamedTuple):
    """Database state that decides a check-in.

    Attributes:
      round: The open round; None if there is none.
      tiers: Tiers of the round.
      carried: Tiers whose subnets the device can train, its own first.
      task: The device's task in the round, if it has one.
      is_written: Whether there is something to write: a new task, or that the device was seen.
      gives: Whether there is room for a new task for the device.
    """

    round: Row | None
    tiers: list[Row]
    carried: list[Row]
    task: Row | None
    is_written: bool
    gives: bool


def read_state(
    connection: Connection, device: str, fields: dict[str, Any], training: Training, now: float
) -> CheckInState:
    """Reads the state that decides a check-in.

    Args:
      connection: Connection with an open transaction.
      device: Identifier of the device, already authenticated.
      fields: Fields of the request, already validated.
      training: Training settings that are the same for all devices.
      now: Current Unix time, in seconds.

    Raises:
      RefusalError: If the device is not enrolled or was revoked, or its tier is unknown.
    """
    standing = devices.check_enrolled(connection, device)
    round_row = find_open_round(connection)
    if round_row is None:
        return CheckInState(None, [], [], None, False, False)
    tiers = connection.execute(_TIERS, {"round_id": round_row.id}).all()
    carried = _carried(tiers, fields)
    task = _task_of(connection, device, round_row.id)
    gives = task is None and any(_has_room(connection, tier, training, now) for tier in carried)
    is_written = gives or not devices.was_seen_recently(standing, now)
    return CheckInState(round_row, tiers, carried, task, is_written, gives)


def record_check_in(
    connection: Connection,
    device: str,
    fields: dict[str, Any],
    state: CheckInState,
    training: Training,
    now: float,
) -> Row | None:
    """Records a check-in, and gives the device a task if there is still room.

    Args:
      connection: Connection with an open write transaction.
      device: As in `read_state`.
      fields: As in `read_state`.
      state: State that `read_state` returned.
      training: As in `read_state`.
      now: Current Unix time, in seconds.

    Returns:
      The device's task; None if it has none.
    """
    name = state.carried[0].tier if state.carried else ""
    devices.record_visit(connection, device, now, name, fields)
    return _give(connection, device, state, training, now) if state.gives else state.task


def message(
    state: CheckInState, task: Row | None, training: Training, now: float
) -> dict[str, Any] | None:
    """Returns a task as the protocol's message; None if there is no task to do.

    Args:
      state: State that `read_state` returned.
      task: Task that `record_check_in` returned, or `state.task`.
      training: As in `read_state`.
      now: Current Unix time, in seconds.
    """
    if task is None or task.sent is not None:
        return None
    tier = next(tier for tier in state.tiers if tier.tier == task.tier)
    digest = hashlib.sha256(f"{state.round.base_hash}\n{task.device}".encode()).digest()
    return {
        "task": task.id,
        "round": state.round.number,
        "tier": task.tier,
        "model": tier.model,
        "model_bytes": tier.model_bytes,
        "epochs": training.epochs,
        "learning_rate": training.learning_rate,
        # A seed fits in a signed 64-bit integer.
        "seed": int.from_bytes(digest[:8], "big") >> 1,
        "deadline_seconds": max(0, int(state.round.deadline - now)),
        "max_update_bytes": max_update_bytes(tier.parameters),
    }


def find_open_round(connection: Connection) -> Row | None:
    """Returns the round that devices can take part in; None if there is none."""
    return connection.execute(_OPEN_ROUND).first()


def _carried(tiers: list[Row], fields: dict[str, Any]) -> list[Row]:
    """Returns the device's tier, followed by smaller ones whose subnets it can train too."""
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
    """Returns whether fewer devices of the tier are working or done than are asked for."""
    busy = {
        "round_id": tier.round_id,
        "tier": tier.tier,
        "since": now - training.task_seconds,
    }
    return connection.scalar(_BUSY, busy) < tier.asked


def _give(
    connection, device: str, state: CheckInState, training: Training, now: float
) -> Row | None:
    still_open = connection.execute(_STILL_OPEN, {"round_id": state.round.id}).first()
    if still_open is None:
        return None
    devices.check_enrolled(connection, device)
    # The device may have checked in twice at the same time.
    task = _task_of(connection, device, state.round.id)
    if task is not None:
        return task
    for tier in state.carried:
        if _has_room(connection, tier, training, now):
            values = {
                "id": secrets.token_hex(16),
                "device": device,
                "round_id": state.round.id,
                "tier": tier.tier,
                "given": now,
            }
            connection.execute(_GIVE, values)
            return _task_of(connection, device, state.round.id)
    return None
