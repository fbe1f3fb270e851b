"""Database records of rounds: the current round, changes of its state, and new rounds."""

import hashlib
import math
import os
from collections.abc import Sequence

from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection, Row

from tff_programs.gateway.round_work import Base, Prepared
from tff_programs.gateway.tables import CURRENT_STATES, models, round_tiers, rounds, tasks, updates


def current_round(connection: Connection) -> Row | None:
    """Returns the open, resting or closing round; None before the first."""
    return connection.execute(
        select(rounds)
        .where(rounds.c.state.in_(CURRENT_STATES))
        .order_by(rounds.c.id.desc())
        .limit(1)
    ).first()


def open_round(
    connection: Connection,
    folder: str,
    base: Base,
    prepared: Prepared,
    goal: int,
    over_asking: float,
    now: float,
    deadline: float,
) -> None:
    """Records a new open round; devices see it when the transaction ends.

    Args:
      connection: Connection with an open write transaction.
      folder: Path of the gateway's folder.
      base: The supernet that the round trains.
      prepared: Models and accuracies of the round.
      goal: Number of updates that closes the round, divided among its tiers.
      over_asking: Additional devices asked beyond the goal, as a share of it.
      now: Current Unix time, in seconds.
      deadline: Unix time, in seconds, at which the round is closed with the updates it has.
    """
    result = connection.execute(
        rounds.insert().values(
            number=base.number,
            base_hash=base.hash,
            folder=base.folder,
            state="open",
            opened=now,
            deadline=deadline,
            accuracies=prepared.accuracies_json(),
        )
    )
    (round_id,) = result.inserted_primary_key
    goals = share_out(goal, [model.tier.share for model in prepared.models])
    for place, (model, goal) in enumerate(zip(prepared.models, goals, strict=True)):
        path = os.path.join(folder, model.path)
        with open(path, "rb") as file:
            hash_ = hashlib.file_digest(file, "sha256").hexdigest()
        if connection.scalar(select(models.c.hash).where(models.c.hash == hash_)) is None:
            size = os.path.getsize(path)
            values = {"hash": hash_, "path": model.path, "bytes": size}
            connection.execute(models.insert().values(**values))
        connection.execute(
            round_tiers.insert().values(
                round_id=round_id,
                tier=model.tier.name,
                place=place,
                cost=model.tier.cost,
                capacity=model.capacity,
                goal=goal,
                asked=max(1, math.ceil(goal * (1 + over_asking))),
                model=hash_,
                architecture=model.architecture(),
                parameters=model.parameters,
            )
        )


def share_out(total: int, shares: Sequence[float]) -> list[int]:
    """Divides a whole number in proportion to shares; the parts add up to it."""
    exact = [total * share / math.fsum(shares) for share in shares]
    parts = [math.floor(part) for part in exact]
    by_rest = sorted(range(len(parts)), key=lambda place: parts[place] - exact[place])
    for place in by_rest[: total - sum(parts)]:
        parts[place] += 1
    return parts


def change_state(connection: Connection, current: Row, state: str, **values) -> bool:
    """Changes a round's state if it is still `current.state`; returns whether it was."""
    changed = connection.execute(
        update(rounds)
        .where(rounds.c.id == current.id, rounds.c.state == current.state)
        .values(state=state, **values)
    )
    return changed.rowcount > 0


def count_waiting(connection: Connection) -> int:
    """Counts the waiting updates that are not assigned to a round."""
    return connection.scalar(
        select(func.count())
        .select_from(updates)
        .where(updates.c.state == "waiting", updates.c.merged_in.is_(None))
    )


def lately_closed(connection: Connection, count: int) -> list[int]:
    """Returns the identifiers of the last `count` closed rounds, newest first."""
    return (
        connection.execute(
            select(rounds.c.id)
            .where(rounds.c.state == "closed")
            .order_by(rounds.c.id.desc())
            .limit(count)
        )
        .scalars()
        .all()
    )


def ask_one_more(connection: Connection, current: Row, task: str) -> None:
    """Asks one more device to replace that of a task, if the task is of the current round."""
    tier = select(tasks.c.tier).where(tasks.c.id == task, tasks.c.round_id == current.id)
    connection.execute(
        update(round_tiers)
        .where(round_tiers.c.round_id == current.id, round_tiers.c.tier == tier.scalar_subquery())
        .values(asked=round_tiers.c.asked + 1)
    )
