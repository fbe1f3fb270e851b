"""The lease of the process that closes rounds: one at a time, taken over when it ends."""

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


class Lease:
    """A lock in the database that ends by itself unless its owner renews it.

    Whoever writes under it calls `check` in the same transaction: a process that was stopped for
    longer than the lease lasts must not write what another one has taken over.
    """

    def __init__(self, database: Database, owner: str, seconds: float, clock):
        """Creates the lease without taking it.

        Args:
          database: Where it is kept.
          owner: Text that no other process has.
          seconds: How long it lasts without being renewed.
          clock: Returns the seconds since 1970.
        """
        self._database = database
        self._owner = owner
        self._seconds = seconds
        self._clock = clock
        self._renew_at = 0.0

    def take(self) -> bool:
        """Takes or renews the lease; returns whether this process has it."""
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
        """Keeps the lease until the transaction ends.

        Raises:
          LeaseLostError: If this process does not have it.
        """
        row = connection.execute(
            select(leases).where(leases.c.name == _NAME).with_for_update()
        ).first()
        if row is None or row.owner != self._owner:
            self._renew_at = 0.0
            raise LeaseLostError("Another process closes rounds now.")

    def give_back(self) -> None:
        """Ends the lease, so that another process need not wait."""
        self._renew_at = 0.0
        with self._database.write() as connection:
            connection.execute(
                update(leases)
                .where(leases.c.name == _NAME, leases.c.owner == self._owner)
                .values(expires=0.0)
            )


class LeaseKeeper:
    """Renews a lease in a thread of its own while long work is done."""

    def __init__(self, lease: Lease, seconds: float):
        """Starts to renew the lease every so many seconds."""
        self._lease = lease
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, args=(seconds,), daemon=True)
        self._thread.start()

    def _renew(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            # A database that does not answer now may answer before the lease ends.
            with contextlib.suppress(*UNAVAILABLE):
                if not self._lease.take():
                    return

    def stop(self) -> None:
        """Stops to renew it."""
        self._ended.set()
        self._thread.join()
