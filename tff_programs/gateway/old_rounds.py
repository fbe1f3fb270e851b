"""Removes the files of old rounds, which are otherwise all kept for rollbacks."""

import contextlib
import os
import shutil

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from tff_programs.gateway.tables import models, round_tiers, rounds


def remove_old_rounds(connection: Connection, folder: str, kept_rounds: int) -> None:
    """Removes the supernets, reports and models of all but the newest rounds.

    The rounds' database records stay, and a rollback to one of these rounds is refused.

    Args:
      connection: Connection with an open transaction.
      folder: Path of the gateway's folder.
      kept_rounds: Number of rounds of training whose files stay, in addition to the current round.
        Rounds that closed without a usable update share the number of the next one, and stay too.
    """
    is_valid = rounds.c.state != "undone"
    current = select(func.max(rounds.c.number)).where(is_valid).scalar_subquery()
    newest = connection.execute(
        select(rounds.c.id, rounds.c.folder).where(
            is_valid, rounds.c.number >= current - kept_rounds
        )
    ).all()
    of_rounds = round_tiers.c.round_id.in_([row.id for row in newest])
    of_tiers = select(models.c.path).join(round_tiers, round_tiers.c.model == models.c.hash)
    kept = {row.folder for row in newest}
    kept.update(connection.execute(of_tiers.where(of_rounds)).scalars())
    for part in {os.path.dirname(path) for path in kept}:
        for name in os.listdir(os.path.join(folder, part)):
            if os.path.join(part, name) not in kept:
                _remove(os.path.join(folder, part, name))


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
