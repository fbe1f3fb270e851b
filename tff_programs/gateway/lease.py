"""The lease of the process that closes rounds: one holder at a time, replaced on expiry."""

import contextlib
import threading

from sqlalchemy import select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from tff_programs.gateway.database import UNAVAILABLE, Database
from tff_programs.gateway.tables import leases

_NAME = "rounds"


class LeaseLostError(RuntimeError):
    """Another process holds the lease."""


def lock_rounds(connection: Connection) -> None:
    """Waits for a transaction that changes rounds, and blocks others until this one ends."""
    connection.execute(select(leases).where(leases.c.name == _NAME).with_for_update())


class Lease:
    """A lock in the database that expires unless its owner renews it.

    Code that writes under the lease calls `check` in the same transaction: a process that was
    suspended for longer than the lease lasts must not write once another process has taken over.
    """

    def __init__(self, database: Database, owner: str, seconds: float, clock):
        """Creates the lease without taking it.

        Args:
          database: Database that stores the lease.
          owner: Text that identifies this process and no other.
          seconds: Seconds after which the lease expires unless it is renewed.
          clock: Returns the current Unix time, in seconds.
        """
        self._database = database
        self._owner = owner
        self._seconds = seconds
        self._clock = clock
        self._renew_at = 0.0

    def take(self) -> bool:
        """Acquires or renews the lease; returns whether this process holds it."""
        now = self._clock()
        if now < self._renew_at:
            return True
        has_it = self._write(now)
        self._renew_at = now + self._seconds / 3 if has_it else 0.0
        return has_it

    def _write(self, now: float) -> bool:
        free = (leases.c.owner == self._owner) | (leases.c.expires <= now)
        values = {"owner": self._owner, "expires": now + self._seconds}
        with self._database.write() as connection:
            if connection.execute(
                update(leases).where(leases.c.name == _NAME, free).values(values)
            ).rowcount:
                return True
            held = connection.scalar(select(leases.c.owner).where(leases.c.name == _NAME))
        if held is not None:
            return False
        try:
            with self._database.write() as connection:
                connection.execute(leases.insert().values(name=_NAME, **values))
        except IntegrityError:
            return False
        return True

    def check(self, connection: Connection) -> None:
        """Checks the lease and locks it until the transaction ends.

        Raises:
          LeaseLostError: If this process does not hold the lease.
        """
        row = connection.execute(
            select(leases).where(leases.c.name == _NAME).with_for_update()
        ).first()
        if row is None or row.owner != self._owner:
            self._renew_at = 0.0
            raise LeaseLostError("Another process closes rounds now.")

    def give_back(self) -> None:
        """Releases the lease, so that another process need not wait."""
        self._renew_at = 0.0
        with self._database.write() as connection:
            connection.execute(
                update(leases)
                .where(leases.c.name == _NAME, leases.c.owner == self._owner)
                .values(expires=0.0)
            )


class LeaseKeeper:
    """Renews a lease in a separate thread during long work."""

    def __init__(self, lease: Lease, seconds: float):
        """Starts renewing the lease every `seconds` seconds."""
        self._lease = lease
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, args=(seconds,), daemon=True)
        self._thread.start()

    def _renew(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            # An unavailable database may answer again before the lease expires.
            with contextlib.suppress(*UNAVAILABLE):
                if not self._lease.take():
                    return

    def stop(self) -> None:
        """Stops renewing the lease."""
        self._ended.set()
        self._thread.join()
