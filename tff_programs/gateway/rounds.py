"""Rounds: opened with exported models, closed on enough updates, each update counted once.

A round is closed in three steps. A killed process leaves each step either done or not done:

1. One transaction assigns all waiting updates to the round. This determines the round's result,
   whichever process continues it.
2. The updates are merged and the next round's models are exported, under names derived from the
   hashes of their content. Repeating this step gives the same result.
3. One transaction records the updates as used or left out, and opens the next round.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence

from sqlalchemy import select, update
from sqlalchemy.engine import Connection, Row

from tff_programs.gateway.database import Database
from tff_programs.gateway.lease import Lease
from tff_programs.gateway.left_over_updates import remove_left_over_updates
from tff_programs.gateway.old_rounds import remove_old_rounds
from tff_programs.gateway.round_records import (
    ask_one_more,
    change_state,
    count_waiting,
    current_round,
    lately_closed,
    open_round,
)
from tff_programs.gateway.round_work import Base, Merged, Outcome, Prepared, RoundWork
from tff_programs.gateway.tables import rounds, updates
from tff_programs.gateway.update_files import update_path
from tff_programs.simulation.tiers import format_accuracies

_ROLLED_BACK = Outcome(False, 0.0, "Its round was rolled back or closed. Check in again.")


@dataclasses.dataclass(frozen=True)
class RoundSettings:
    """Settings that decide when rounds are closed.

    Attributes:
      goal: Number of updates that closes a round.
      min_updates: Minimum number of updates to close a round.
      deadline_seconds: Seconds after which a round is closed with the updates that it has.
      over_asking: Additional devices asked beyond the goal, as a share of it.
      max_staleness: Maximum number of rounds that may be closed before an update arrives; with 0,
        an update counts in its own round or not at all.
      keeps_updates: Whether the update files are kept after their round.
      kept_rounds: Number of closed rounds whose files are kept, at least `max_staleness`; None for
        all.
    """

    goal: int
    min_updates: int = 1
    deadline_seconds: float = 24 * 3600.0
    over_asking: float = 0.3
    max_staleness: int = 3
    keeps_updates: bool = False
    kept_rounds: int | None = None


class Rounds:
    """Opens and closes rounds; only the process that holds the lease may use it."""

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
        """Creates the manager of a gateway's rounds.

        Args:
          database: The gateway's database.
          folder: Path of the gateway's folder.
          settings: Settings that decide when rounds are closed.
          work: Merges updates and exports models.
          lease: Lease of this process, checked in every write transaction.
          clock: Returns the current Unix time, in seconds.
          on_progress: Called with a line of text about each event.
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
        """Performs the action that is due; returns whether there was one."""
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
        """Lets a round rest while it must not be merged; returns whether it rests."""
        reason = self._budget_exceeded_reason(current.id)
        state = "open" if reason is None else "resting"
        if current.state not in (state, "closing"):
            deadline = self._clock() + self._settings.deadline_seconds
            with self._database.write() as connection:
                self._lease.check(connection)
                change_state(connection, current, state, deadline=deadline)
        return reason is not None

    def _budget_exceeded_reason(self, round_id: int) -> str | None:
        """Returns why a round must rest, or None; asks for it and reports it once per round."""
        known_id, reason = self._known_reason
        if known_id != round_id:
            reason = self._work.budget_exceeded_reason(round_id)
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
        self._report_open(base, prepared)

    def _choose_updates(self, current: Row) -> bool:
        """Starts closing a round if it is due; returns whether it is."""
        now = self._clock()
        with self._database.read() as connection:
            waiting = count_waiting(connection)
        is_late = now >= current.deadline
        if waiting < self._settings.goal and not is_late:
            return False
        with self._database.write() as connection:
            self._lease.check(connection)
            if waiting < self._settings.min_updates:
                # The deadline is extended, and devices continue with the same models.
                connection.execute(
                    update(rounds)
                    .where(rounds.c.id == current.id)
                    .values(deadline=now + self._settings.deadline_seconds)
                )
                return True
            if not change_state(connection, current, "closing"):
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
                # The sum must not depend on the order of arrival.
                .order_by(updates.c.hash, updates.c.task)
            ).all()
            # Rounds whose updates may still be sent again.
            before = lately_closed(connection, self._settings.max_staleness + 2)
            used_before = connection.execute(
                select(updates.c.identity).where(
                    updates.c.state == "used", updates.c.merged_in.in_(before)
                )
            ).scalars()
            used_before = frozenset(used_before)
        # A rollback may undo a round while one of its updates is being accepted.
        standing = [row for row in chosen if row.of_round != "undone"]
        if not self._settings.max_staleness:
            # An update may have arrived while its round was being closed.
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
        outcomes = [merged.outcomes.get(paths.get(row.task), _ROLLED_BACK) for row in chosen]
        now = self._clock()
        with self._database.write() as connection:
            self._lease.check(connection)
            if not change_state(connection, current, "closed", closed=now):
                # A rollback undid the round in the meantime.
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
        self._report_open(merged.base, prepared)
        remove_left_over_updates(
            self._database, self._folder, self._clock(), self._settings.keeps_updates
        )
        if self._settings.kept_rounds is not None:
            # A late update is checked against the model that was sent, which must be kept.
            kept_rounds = max(self._settings.kept_rounds, self._settings.max_staleness)
            with self._database.read() as connection:
                remove_old_rounds(connection, self._folder, kept_rounds)

    def _wait_for_more(
        self, current: Row, chosen: Sequence[Row], paths: dict[str, str], merged: Merged
    ) -> None:
        """Reopens a round that has too few updates; unusable ones are left out."""
        now = self._clock()
        left_out = 0
        with self._database.write() as connection:
            self._lease.check(connection)
            deadline = max(current.deadline, now + self._settings.deadline_seconds)
            if not change_state(connection, current, "open", deadline=deadline):
                return
            for row in chosen:
                outcome = (
                    merged.outcomes.get(paths[row.task]) if row.task in paths else _ROLLED_BACK
                )
                values = {"merged_in": None} if outcome is None else _fields(outcome)
                connection.execute(
                    update(updates).where(updates.c.task == row.task).values(**values)
                )
                if outcome is not None:
                    left_out += 1
                    ask_one_more(connection, current, row.task)
        self._on_progress(
            f"round {current.number} waits for more updates; {left_out} cannot be used"
        )

    def _update_path(self, row: Row) -> str:
        return os.path.join(self._folder, update_path(row.task, row.hash))

    def _open(self, connection: Connection, base: Base, prepared: Prepared) -> None:
        settings, now = self._settings, self._clock()
        deadline = now + settings.deadline_seconds
        shares = (settings.goal, settings.over_asking)
        open_round(connection, self._folder, base, prepared, *shares, now, deadline)

    def _report_open(self, base: Base, prepared: Prepared) -> None:
        parts = [f"round {base.number} open"]
        if prepared.accuracies:
            parts.append(format_accuracies(prepared.accuracies))
        self._on_progress(" | ".join(parts))


def staleness_factor(staleness: int) -> float:
    """Returns the factor of an update that is `staleness` closed rounds old.

    It is the factor of FedBuff: Nguyen et al., Federated Learning with Buffered Asynchronous
    Aggregation (2022), section 5. It scales the update's change, but not its weight in the divisor
    of the mean.
    """
    return 1 / math.sqrt(1 + staleness)


def _fields(outcome: Outcome) -> dict:
    state = "used" if outcome.is_used else "left_out"
    fields = outcome._asdict()
    del fields["is_used"]
    return {"state": state, **fields}
