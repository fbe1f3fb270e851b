"""Files of rounds that are long over, which are kept for a rollback unless a number is given."""

import contextlib
import os
import shutil

from sqlalchemy import select
from sqlalchemy.engine import Connection

from tff_programs.gateway.tables import models, round_tiers, rounds


def remove_old_rounds(connection: Connection, folder: str, kept_rounds: int) -> None:
    """Removes supernets, reports and models of all but the newest rounds.

    What is written down of them stays, and a rollback to one of them is refused.

    Args:
      connection: A transaction.
      folder: The gateway's.
      kept_rounds: Number of closed rounds, beside the one that is not over, whose files stay.
    """
    newest = connection.execute(
        select(rounds.c.id, rounds.c.folder)
        .where(rounds.c.state != "undone")
        .order_by(rounds.c.id.desc())
        .limit(kept_rounds + 1)
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
