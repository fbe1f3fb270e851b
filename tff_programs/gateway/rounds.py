"""Rounds: opened with models at hand, closed when enough updates are there, counted once each.

A round is closed in three steps, each of which a kill leaves done or not done:

1. In one transaction all updates that wait are chosen for the round. From here on it is decided
   what the round makes, whoever goes on with it.
2. The updates are merged, and the next round's models are exported, into a folder that is named by
   the supernet that came out. Done again it gives the same.
3. In one transaction the updates are written down as used or left out, and the next round is open.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection, Row

from tff_programs.gateway.database import Database
from tff_programs.gateway.lease import Lease
from tff_programs.gateway.old_rounds import remove_old_rounds
from tff_programs.gateway.round_work import Base, Merged, Outcome, Prepared, RoundWork
from tff_programs.gateway.tables import CURRENT_STATES, models, round_tiers, rounds, tasks, updates
from tff_programs.gateway.update_files import INCOMING, UPDATES, update_path

# Far longer than an upload takes.
_LEFT_OVER_SECONDS = 24 * 3600.0
# Values of one statement.
_MOST_ASKED = 500
_TAKEN_BACK = Outcome(False, 0.0, "Its round was taken back or closed. Check in again.")


@dataclasses.dataclass(frozen=True)
class RoundSettings:
    """Says when rounds are closed.

    Attributes:
      goal: Updates that close a round.
      least_updates: Updates without which none is closed.
      deadline_seconds: Seconds after which it is closed with what is there.
      over_asking: Devices asked beyond the goal, as a share of it.
      max_staleness: Most rounds that may be closed while an update is on its way; with 0 an update
        counts in its own round or not at all.
      keeps_updates: Whether updates' files are kept after their round.
      kept_rounds: Closed rounds whose files are kept, at least `max_staleness`; None for all.
    """

    goal: int
    least_updates: int = 1
    deadline_seconds: float = 24 * 3600.0
    over_asking: float = 0.3
    max_staleness: int = 3
    keeps_updates: bool = False
    kept_rounds: int | None = None


class Rounds:
    """Opens and closes rounds; one process at a time, which holds the lease, calls it."""

    def __init__(
        self,
        database: Database,
        folder: str,
        settings: RoundSettings,
        work: RoundWork,
        lease: Lease,
        clock: Callable[[], float],
        on_progress: Callable[[str], None],
    ):
        """Creates the keeper of rounds.

        Args:
          database: The gateway's.
          folder: The gateway's.
          settings: When rounds are closed.
          work: Merges and exports.
          lease: Checked whenever something is written.
          clock: Returns the seconds since 1970.
          on_progress: Called with a line of text about each thing that was done.
        """
        self._database = database
        self._folder = folder
        self._settings = settings
        self._work = work
        self._lease = lease
        self._clock = clock
        self._on_progress = on_progress
        self._known_reason: tuple[int | None, str | None] = (None, None)

    def step(self) -> bool:
        """Does what is due; returns whether anything was."""
        with self._database.read() as connection:
            current = current_round(connection)
        if current is None:
            self._open_first()
        elif self._rests(current):
            return False
        elif current.state == "closing":
            self._close(current)
        elif not self._choose_updates(current):
            return False
        return True

    def _rests(self, current: Row) -> bool:
        """Lets a round rest that must not be merged, and opens it again once it may be."""
        reason = self._reason_to_rest(current.id)
        state = "open" if reason is None else "resting"
        if current.state not in (state, "closing"):
            deadline = self._clock() + self._settings.deadline_seconds
            with self._database.write() as connection:
                self._lease.check(connection)
                _change_state(connection, current, state, deadline=deadline)
        return reason is not None

    def _reason_to_rest(self, round_id: int) -> str | None:
        """Asks the work once for each round, and tells what it says."""
        known_id, reason = self._known_reason
        if known_id != round_id:
            reason = self._work.reason_to_rest(round_id)
            self._known_reason = round_id, reason
            if reason is not None:
                self._on_progress(reason)
        return reason

    def _open_first(self) -> None:
        base = self._work.begin()
        prepared = self._work.prepare(base, self._on_progress)
        with self._database.write() as connection:
            self._lease.check(connection)
            self._open(connection, base, prepared)
        self._tell_open(base, prepared)

    def _choose_updates(self, current: Row) -> bool:
        """Begins to close a round that is due; returns whether it is."""
        now = self._clock()
        with self._database.read() as connection:
            waiting = _count_waiting(connection)
        is_late = now >= current.deadline
        if waiting < self._settings.goal and not is_late:
            return False
        with self._database.write() as connection:
            self._lease.check(connection)
            if waiting < self._settings.least_updates:
                # Devices go on with the same models.
                connection.execute(
                    update(rounds)
                    .where(rounds.c.id == current.id)
                    .values(deadline=now + self._settings.deadline_seconds)
                )
                return True
            if not _change_state(connection, current, "closing"):
                return True
            connection.execute(
                update(updates)
                .where(updates.c.state == "waiting", updates.c.merged_in.is_(None))
                .values(merged_in=current.id)
            )
        return True

    def _close(self, current: Row) -> None:
        base = Base(current.number, current.base_hash, current.folder)
        with self._database.read() as connection:
            chosen = connection.execute(
                select(
                    updates, rounds.c.base_hash, rounds.c.number, rounds.c.state.label("of_round")
                )
                .join(rounds, rounds.c.id == updates.c.round_id)
                .where(updates.c.merged_in == current.id, updates.c.state == "waiting")
                # Whatever the order in which they came, the sum is the same.
                .order_by(updates.c.hash, updates.c.task)
            ).all()
            used_before = connection.execute(
                select(updates.c.identity).where(
                    updates.c.state == "used",
                    updates.c.merged_in.in_(_lately_closed(connection, self._settings)),
                )
            ).scalars()
            used_before = frozenset(used_before)
        # A rollback may take a round back while an update of it is accepted.
        standing = [row for row in chosen if row.of_round != "undone"]
        if not self._settings.max_staleness:
            # One may have come while its round was being closed.
            standing = [row for row in standing if row.round_id == current.id]
        paths = {row.task: self._update_path(row) for row in standing}
        older = {
            row.base_hash: staleness_factor(current.number - row.number)
            for row in standing
            if row.base_hash != current.base_hash
        }
        merged = Merged(base, {})
        if paths:
            merged = self._work.merge(base, list(paths.values()), older, used_before, current.id)
        if merged.waits_for_more:
            self._wait_for_more(current, chosen, paths, merged)
            return
        prepared = self._work.prepare(merged.base, self._on_progress)
        outcomes = [merged.outcomes.get(paths.get(row.task), _TAKEN_BACK) for row in chosen]
        now = self._clock()
        with self._database.write() as connection:
            self._lease.check(connection)
            if not _change_state(connection, current, "closed", closed=now):
                # A rollback took the round back meanwhile.
                return
            for row, outcome in zip(chosen, outcomes, strict=True):
                connection.execute(
                    update(updates).where(updates.c.task == row.task).values(**_fields(outcome))
                )
            self._open(connection, merged.base, prepared)
        used = sum(outcome.is_used for outcome in outcomes)
        self._on_progress(
            f"round {base.number} closed: {used} updates used, {len(outcomes) - used} left out"
        )
        self._tell_open(merged.base, prepared)
        self.remove_left_over()
        if self._settings.kept_rounds is not None:
            # A late update is checked against the model that was sent.
            kept_rounds = max(self._settings.kept_rounds, self._settings.max_staleness)
            with self._database.read() as connection:
                remove_old_rounds(connection, self._folder, kept_rounds)

    def _wait_for_more(
        self, current: Row, chosen: Sequence[Row], paths: dict[str, str], merged: Merged
    ) -> None:
        """Opens a round again whose updates are too few; what cannot be used is left out."""
        now = self._clock()
        left_out = 0
        with self._database.write() as connection:
            self._lease.check(connection)
            deadline = max(current.deadline, now + self._settings.deadline_seconds)
            if not _change_state(connection, current, "open", deadline=deadline):
                return
            for row in chosen:
                outcome = merged.outcomes.get(paths[row.task]) if row.task in paths else _TAKEN_BACK
                values = {"merged_in": None} if outcome is None else _fields(outcome)
                connection.execute(
                    update(updates).where(updates.c.task == row.task).values(**values)
                )
                if outcome is not None:
                    left_out += 1
                    _ask_one_more(connection, current, row.task)
        self._on_progress(
            f"round {current.number} waits for more updates; {left_out} cannot be used"
        )

    def _update_path(self, row: Row) -> str:
        return os.path.join(self._folder, update_path(row.task, row.hash))

    def remove_left_over(self) -> None:
        """Removes files of updates that were counted, and those that no answer 2xx was given to."""
        folder = os.path.join(self._folder, UPDATES)
        for part in _entries(folder):
            paths = {entry.name: entry.path for entry in _entries(part.path)}
            states = self._states(name.partition("-")[0] for name in paths)
            for name, path in paths.items():
                if name not in states:
                    self._remove_if_old(path)
                elif states[name] != "waiting" and not self._settings.keeps_updates:
                    os.remove(path)
        for entry in _entries(os.path.join(self._folder, INCOMING)):
            self._remove_if_old(entry.path)

    def _states(self, named: Iterable[str]) -> dict[str, str]:
        """Returns the states of the updates that were accepted for tasks, by their files' names."""
        found, asked = {}, list(named)
        for begin in range(0, len(asked), _MOST_ASKED):
            part = updates.c.task.in_(asked[begin : begin + _MOST_ASKED])
            with self._database.read() as connection:
                query = select(updates.c.task, updates.c.hash, updates.c.state).where(part)
                for row in connection.execute(query):
                    found[os.path.basename(update_path(row.task, row.hash))] = row.state
        return found

    def _remove_if_old(self, path: str) -> None:
        """Removes a file unless somebody may be at work on it."""
        with contextlib.suppress(FileNotFoundError):
            if self._clock() - os.stat(path).st_mtime > _LEFT_OVER_SECONDS:
                os.remove(path)

    def _open(self, connection: Connection, base: Base, prepared: Prepared) -> None:
        """Writes down a round; devices see it when the transaction ends."""
        now = self._clock()
        result = connection.execute(
            rounds.insert().values(
                number=base.number,
                base_hash=base.hash,
                folder=base.folder,
                state="open",
                opened=now,
                deadline=now + self._settings.deadline_seconds,
                accuracies=prepared.accuracies_json(),
            )
        )
        (round_id,) = result.inserted_primary_key
        goals = share_out(self._settings.goal, [model.tier.share for model in prepared.models])
        for place, (model, goal) in enumerate(zip(prepared.models, goals, strict=True)):
            path = os.path.join(self._folder, model.path)
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
                    asked=max(1, math.ceil(goal * (1 + self._settings.over_asking))),
                    model=hash_,
                    architecture=model.architecture(),
                    parameters=model.parameters,
                )
            )

    def _tell_open(self, base: Base, prepared: Prepared) -> None:
        shown = "  ".join(
            f"{name} {100 * share:.1f}" for name, share in prepared.accuracies.items()
        )
        accuracy = f" | accuracy % {shown}" if shown else ""
        self._on_progress(f"round {base.number} open{accuracy}")


def current_round(connection: Connection) -> Row | None:
    """Returns the round that is not over; None before the first."""
    return connection.execute(
        select(rounds)
        .where(rounds.c.state.in_(CURRENT_STATES))
        .order_by(rounds.c.id.desc())
        .limit(1)
    ).first()


def staleness_factor(staleness: int) -> float:
    """Returns the factor of the change of an update that so many closed rounds are newer than.

    That of FedBuff: Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation
    (2022), section 5. The update still counts whole in the divisor of the mean.
    """
    return 1 / math.sqrt(1 + staleness)


def share_out(total: int, shares: Sequence[float]) -> list[int]:
    """Divides a whole number by shares, so that the parts add up to it."""
    exact = [total * share / math.fsum(shares) for share in shares]
    parts = [math.floor(part) for part in exact]
    by_rest = sorted(range(len(parts)), key=lambda place: parts[place] - exact[place])
    for place in by_rest[: total - sum(parts)]:
        parts[place] += 1
    return parts


def _change_state(connection: Connection, current: Row, state: str, **values) -> bool:
    """Changes the state of a round that is as it was read; returns whether it is."""
    changed = connection.execute(
        update(rounds)
        .where(rounds.c.id == current.id, rounds.c.state == current.state)
        .values(state=state, **values)
    )
    return changed.rowcount > 0


def _entries(folder: str) -> list[os.DirEntry]:
    return list(os.scandir(folder)) if os.path.isdir(folder) else []


def _count_waiting(connection: Connection) -> int:
    return connection.scalar(
        select(func.count())
        .select_from(updates)
        .where(updates.c.state == "waiting", updates.c.merged_in.is_(None))
    )


def _lately_closed(connection: Connection, settings: RoundSettings) -> list[int]:
    """Returns the rounds whose updates may still come again."""
    return (
        connection.execute(
            select(rounds.c.id)
            .where(rounds.c.state == "closed")
            .order_by(rounds.c.id.desc())
            .limit(settings.max_staleness + 2)
        )
        .scalars()
        .all()
    )


def _ask_one_more(connection: Connection, current: Row, task: str) -> None:
    """Lets another device take part in place of the one that has a task, if it is of the round."""
    tier = select(tasks.c.tier).where(tasks.c.id == task, tasks.c.round_id == current.id)
    connection.execute(
        update(round_tiers)
        .where(round_tiers.c.round_id == current.id, round_tiers.c.tier == tier.scalar_subquery())
        .values(asked=round_tiers.c.asked + 1)
    )


def _fields(outcome: Outcome) -> dict:
    state = "used" if outcome.is_used else "left_out"
    fields = outcome._asdict()
    del fields["is_used"]
    return {"state": state, **fields}
