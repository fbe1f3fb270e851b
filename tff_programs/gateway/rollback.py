"""Rollback: undoes the newest rounds and opens an earlier one again."""

import os

from sqlalchemy import select, update
from sqlalchemy.engine import Connection, Row

from tff_programs.gateway.lease import lock_rounds
from tff_programs.gateway.tables import CURRENT_STATES, models, round_tiers, rounds, updates

_STANDING = ("closed", *CURRENT_STATES)


def roll_back(connection: Connection, folder: str, number: int, now: float) -> list[int]:
    """Goes back to the supernet that was trained for a number of rounds.

    Updates of the undone rounds do not count, whether they were merged, are waiting or are still
    being uploaded. The supernets and reports of these rounds stay on disk.

    Args:
      connection: Connection with an open write transaction.
      folder: Path of the gateway's folder.
      number: Number of rounds that the supernet was trained for.
      now: Current Unix time, in seconds.

    Returns:
      The numbers of the undone rounds.

    Raises:
      ValueError: If there is no such round, it is the current one, or its files are gone.
    """
    lock_rounds(connection)
    standing = connection.execute(
        select(rounds).where(rounds.c.state.in_(_STANDING)).order_by(rounds.c.id)
    ).all()
    numbers = [row.number for row in standing]
    # A round that closes without a usable update has the number of the next one.
    earlier = sorted(set(numbers) - {*numbers[-1:]})
    if number not in earlier:
        known = ", ".join(map(str, earlier)) or "none"
        raise ValueError(
            f"Expected the number of a round that was closed ({known}), received {number}. Choose "
            "one of them."
        )
    target = standing[numbers.index(number)]
    _check_files(connection, folder, target)
    undone = [row for row in standing if row.id >= target.id]
    identities = [row.id for row in undone]
    connection.execute(update(rounds).where(rounds.c.id.in_(identities)).values(state="undone"))
    reason = f"Rounds from {number} on were rolled back. Check in again."
    connection.execute(
        update(updates)
        .where((updates.c.merged_in.in_(identities)) | (updates.c.state == "waiting"))
        .values(state="left_out", reason=reason, scale=0.0)
    )
    result = connection.execute(
        rounds.insert().values(
            number=number,
            base_hash=target.base_hash,
            folder=target.folder,
            state="open",
            opened=now,
            # Deadlines may have been extended since.
            deadline=now + min(row.deadline - row.opened for row in standing),
            accuracies=target.accuracies,
        )
    )
    (round_id,) = result.inserted_primary_key
    tiers = connection.execute(select(round_tiers).where(round_tiers.c.round_id == target.id))
    for tier in tiers.mappings().all():
        connection.execute(round_tiers.insert().values(**{**tier, "round_id": round_id}))
    return [row.number for row in undone]


def _check_files(connection: Connection, folder: str, target: Row) -> None:
    """Raises a ValueError unless the supernet and the models of a round are on disk."""
    of_tiers = (
        select(models.c.path)
        .join(round_tiers, round_tiers.c.model == models.c.hash)
        .where(round_tiers.c.round_id == target.id)
    )
    for name in (target.folder, *connection.execute(of_tiers).scalars()):
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            raise ValueError(
                f"{path!r}: expected what round {target.number} needs, received nothing. Put it "
                "back, or go back to another round."
            )
