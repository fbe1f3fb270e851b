"""Removes update files that are no longer needed."""

import contextlib
import os
from collections.abc import Iterable

from sqlalchemy import select

from tff_programs.gateway.database import Database
from tff_programs.gateway.tables import updates
from tff_programs.gateway.update_files import INCOMING, UPDATES, update_path

# Far longer than an upload takes.
_LEFT_OVER_SECONDS = 24 * 3600.0
# Maximum number of values in a statement.
_MAX_ASKED = 500


def remove_left_over_updates(
    database: Database, folder: str, now: float, keeps_updates: bool
) -> None:
    """Removes files of updates that were used or left out, and those without a 2xx answer.

    Args:
      database: The gateway's database.
      folder: Path of the gateway's folder.
      now: Current Unix time, in seconds.
      keeps_updates: Whether the files of updates that were used or left out stay.
    """
    for part in _entries(os.path.join(folder, UPDATES)):
        paths = {entry.name: entry.path for entry in _entries(part.path)}
        states = _states(database, (name.partition("-")[0] for name in paths))
        for name, path in paths.items():
            if name not in states:
                _remove_if_old(path, now)
            elif states[name] != "waiting" and not keeps_updates:
                os.remove(path)
    for entry in _entries(os.path.join(folder, INCOMING)):
        _remove_if_old(entry.path, now)


def _states(database: Database, named: Iterable[str]) -> dict[str, str]:
    """Returns the states of the updates that were accepted for tasks, by file name."""
    found, asked = {}, list(named)
    for begin in range(0, len(asked), _MAX_ASKED):
        part = updates.c.task.in_(asked[begin : begin + _MAX_ASKED])
        with database.read() as connection:
            query = select(updates.c.task, updates.c.hash, updates.c.state).where(part)
            for row in connection.execute(query):
                found[os.path.basename(update_path(row.task, row.hash))] = row.state
    return found


def _remove_if_old(path: str, now: float) -> None:
    """Removes a file unless a process may still be working on it."""
    with contextlib.suppress(FileNotFoundError):
        if now - os.stat(path).st_mtime > _LEFT_OVER_SECONDS:
            os.remove(path)


def _entries(folder: str) -> list[os.DirEntry]:
    return list(os.scandir(folder)) if os.path.isdir(folder) else []
