"""The process that closes rounds: waits for the lease, and works while it holds it."""

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

# A process that died is replaced after this time.
LEASE_SECONDS = 30.0
_POLL_SECONDS = 0.5
# Time between attempts while the database or the disk fails.
TROUBLE_SECONDS = 5.0


def keep_rounds(
    database: Database,
    folder: str,
    settings: RoundSettings,
    work: RoundWork,
    on_progress: Callable[[str], None],
    lease_seconds: float = LEASE_SECONDS,
) -> None:
    """Opens and closes rounds forever, whenever no other process does.

    Args:
      database: The gateway's database.
      folder: Path of the gateway's folder.
      settings: Settings that decide when rounds are closed.
      work: Merges updates and exports models.
      on_progress: Called with a line of text about each event.
      lease_seconds: Seconds after which the lease expires unless it is renewed.
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
                # Nothing is lost: an interrupted step is repeated.
                reason = str(getattr(error, "orig", error)).rstrip(".")
                on_progress(f"The database does not answer: {reason}. Trying again.")
                time.sleep(TROUBLE_SECONDS)
            except OSError as error:
                # For example a full disk. Devices are still served; the error is reported once.
                if str(error) != told:
                    told = str(error)
                    reason = told.rstrip(".")
                    on_progress(f"The round waits ({reason}). Nothing is lost; trying again.")
                time.sleep(TROUBLE_SECONDS)
    finally:
        with contextlib.suppress(*UNAVAILABLE):
            lease.give_back()


def _step(rounds: Rounds, lease: Lease, lease_seconds: float) -> bool:
    """Performs the action that is due, renewing the lease meanwhile."""
    keeper = LeaseKeeper(lease, lease_seconds / 3)
    try:
        return rounds.step()
    finally:
        keeper.stop()
