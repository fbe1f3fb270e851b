"""Keeps the changes of many requests in one transaction, which reaches the disk once for all."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection

from tff_programs.gateway.database import Database

# Changes of a transaction; the longest that a request waits is for as many.
_MOST_CHANGES = 256
# A change's result, and its error instead.
_Outcome = tuple[Any, Exception | None]


class _Change(NamedTuple):
    """A change that waits.

    Attributes:
      call: Changes the database; it may be called on a transaction with others, and raise. It is
        called again after that transaction was taken back because of another one.
      future: Its result, once that is on the disk.
    """

    call: Callable[[Connection], Any]
    future: asyncio.Future


class GroupCommit:
    """Writes changes one after the other, as many in a transaction as came while one was written.

    A commit waits for the disk, and SQLite has one writer at a time; requests that each began a
    transaction of their own would wait for all the others'. A change that raises is taken back
    alone. No change is answered before the transaction that holds it is on the disk.
    """

    def __init__(self, database: Database):
        """Begins to wait for changes."""
        self._database = database
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="gateway-writes", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[Connection], Any], future: asyncio.Future) -> None:
        """Lets a change be written; any thread may call it.

        Args:
          call: The change.
          future: Gets its result, once that is on the disk.
        """
        self._changes.put(_Change(call, future))

    def close(self) -> None:
        """Writes what waits, then ends."""
        self._changes.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            taken = [self._changes.get()]
            while len(taken) < _MOST_CHANGES and not self._changes.empty():
                taken.append(self._changes.get())
            is_open = None not in taken
            changes = [
                change for change in taken if change is not None and not change.future.cancelled()
            ]
            if changes:
                self._write(changes)

    def _write(self, changes: list[_Change]) -> None:
        outcomes = self._write_all(changes)
        if outcomes is None:
            outcomes = self._write_each(changes)
        pairs = zip(changes, outcomes, strict=True)
        settle([(change.future, result, error) for change, (result, error) in pairs])

    def _write_all(self, changes: list[_Change]) -> list[_Outcome] | None:
        """Makes changes that hardly ever raise; takes all back and returns None if one does."""
        results = []
        try:
            with self._database.write() as connection:
                results += [(change.call(connection), None) for change in changes]
        except Exception as error:
            if not results and len(changes) > 1:
                return None
            # None of them is kept, whichever it was.
            return [(None, error)] * len(changes)
        return results

    def _write_each(self, changes: list[_Change]) -> list[_Outcome]:
        """Makes changes so that one that raises is taken back alone."""
        try:
            with self._database.write() as connection:
                return [_attempt(connection, change) for change in changes]
        except Exception as error:
            return [(None, error)] * len(changes)


def _attempt(connection: Connection, change: _Change) -> _Outcome:
    """Makes a change or takes it back; returns its result and its error."""
    try:
        with connection.begin_nested():
            return change.call(connection), None
    except Exception as error:
        return None, error


def settle(settled: list[tuple[asyncio.Future, Any, Exception | None]]) -> None:
    """Gives futures of one event loop their results or errors, from another thread.

    The loop is woken once for all of them.
    """
    # The loop may have ended while its last requests were written.
    with contextlib.suppress(RuntimeError):
        settled[0][0].get_loop().call_soon_threadsafe(_settle, settled)


def _settle(settled: Iterable[tuple[asyncio.Future, Any, Exception | None]]) -> None:
    for future, result, error in settled:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
