"""The process that closes rounds: waits for the lease, and works while it has it."""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable

from tff_programs.gateway.database import UNAVAILABLE, Database
from tff_programs.gateway.lease import Lease, LeaseKeeper, LeaseLostError
from tff_programs.gateway.round_work import RoundWork
from tff_programs.gateway.rounds import Rounds, RoundSettings

# A process that died is replaced after as long.
LEASE_SECONDS = 30.0
_POLL_SECONDS = 0.5
# Between two tries while the database or the disk fails.
TROUBLE_SECONDS = 5.0


def keep_rounds(
    database: Database,
    folder: str,
    settings: RoundSettings,
    work: RoundWork,
    on_progress: Callable[[str], None],
    lease_seconds: float = LEASE_SECONDS,
) -> None:
    """Opens and closes rounds for ever, whenever no other process does.

    Args:
      database: The gateway's.
      folder: The gateway's.
      settings: When rounds are closed.
      work: Merges and exports.
      on_progress: Called with a line of text about each thing that was done.
      lease_seconds: How long the lease lasts without being renewed.
    """
    owner = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
    lease = Lease(database, owner, lease_seconds, time.time)
    rounds = Rounds(database, folder, settings, work, lease, time.time, on_progress)
    told = ""
    try:
        while True:
            try:
                if not (lease.take() and _step(rounds, lease, lease_seconds)):
                    time.sleep(_POLL_SECONDS)
                told = ""
            except LeaseLostError as error:
                on_progress(f"{error} This one waits.")
            except UNAVAILABLE as error:
                # Nothing is lost: what was begun is begun anew.
                reason = str(getattr(error, "orig", error)).rstrip(".")
                on_progress(f"The database does not answer: {reason}. Trying again.")
                time.sleep(TROUBLE_SECONDS)
            except OSError as error:
                # Such as a full disk: devices are answered meanwhile, and it is told once.
                if str(error) != told:
                    told = str(error)
                    reason = told.rstrip(".")
                    on_progress(f"The round waits ({reason}). Nothing is lost; trying again.")
                time.sleep(TROUBLE_SECONDS)
    finally:
        with contextlib.suppress(*UNAVAILABLE):
            lease.give_back()


def _step(rounds: Rounds, lease: Lease, lease_seconds: float) -> bool:
    """Does what is due, however long it takes."""
    keeper = LeaseKeeper(lease, lease_seconds / 3)
    try:
        return rounds.step()
    finally:
        keeper.stop()
