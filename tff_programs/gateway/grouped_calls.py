"""Calls on the database from the event loop, as many in a transaction as came meanwhile."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection

from tff_programs.gateway.database import Database
from tff_programs.gateway.refusal import RefusalError

# Calls of a transaction; the longest that a request waits is for as many.
_MOST_CALLS = 256
# A call's result, and its error instead.
_Outcome = tuple[Any, Exception | None]


class _Waiting(NamedTuple):
    """A call that waits.

    Attributes:
      call: Reads or changes the database; it may be called on a transaction with others, and raise.
        It is called again after that transaction was taken back because of another one.
      future: Its result, once the transaction ended.
    """

    call: Callable[[Connection], Any]
    future: asyncio.Future


class _GroupedCalls:
    """Makes calls in a thread, one transaction after the other.

    Under load a thread that has work need not be woken, and beginning and ending a transaction is
    shared by all that came while the one before was made.
    """

    def __init__(self, database: Database, name: str):
        """Begins to wait for calls."""
        self._database = database
        self._calls: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[Connection], Any], future: asyncio.Future) -> None:
        """Lets a call be made; any thread may ask for it.

        Args:
          call: The call.
          future: Gets its result.
        """
        self._calls.put(_Waiting(call, future))

    def close(self) -> None:
        """Makes what waits, then ends."""
        self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            taken = [self._calls.get()]
            while len(taken) < _MOST_CALLS and not self._calls.empty():
                taken.append(self._calls.get())
            is_open = None not in taken
            calls = [call for call in taken if call is not None and not call.future.cancelled()]
            if calls:
                pairs = zip(calls, self._outcomes(calls), strict=True)
                settle([(call.future, result, error) for call, (result, error) in pairs])

    def _outcomes(self, calls: list[_Waiting]) -> list[_Outcome]:
        raise NotImplementedError


class GroupedReads(_GroupedCalls):
    """Reads; each sees all that was written before it was asked for."""

    def __init__(self, database: Database):
        """Begins to wait for calls."""
        super().__init__(database, "gateway-reads")

    def _outcomes(self, calls: list[_Waiting]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        while len(outcomes) < len(calls):
            has_begun = False
            try:
                with self._database.read() as connection:
                    has_begun = True
                    for waiting in calls[len(outcomes) :]:
                        outcomes.append(_attempt(connection, waiting))
            except Exception as error:
                # The transaction is lost to the calls behind the one that raised, too.
                failed = 1 if has_begun else len(calls)
                outcomes += [(None, error)] * failed
        return outcomes[: len(calls)]


def _attempt(connection: Connection, waiting: _Waiting) -> _Outcome:
    """Makes a call whose refusal leaves the transaction as it is."""
    try:
        return waiting.call(connection), None
    except RefusalError as refusal:
        return None, refusal


class GroupedWrites(_GroupedCalls):
    """Changes, one after the other, as many in a transaction as came while one was written.

    A commit waits for the disk, and SQLite has one writer at a time; requests that each began a
    transaction of their own would wait for all the others'. A change that raises is taken back
    alone. No change is answered before the transaction that holds it is on the disk.
    """

    def __init__(self, database: Database):
        """Begins to wait for calls."""
        super().__init__(database, "gateway-writes")

    def _outcomes(self, calls: list[_Waiting]) -> list[_Outcome]:
        return self._write_all(calls) or self._write_each(calls)

    def _write_all(self, calls: list[_Waiting]) -> list[_Outcome] | None:
        """Makes changes that hardly ever raise; takes all back and returns None if one does."""
        results = []
        try:
            with self._database.write() as connection:
                results += [(waiting.call(connection), None) for waiting in calls]
        except Exception as error:
            if not results and len(calls) > 1:
                return None
            # None of them is kept, whichever it was.
            return [(None, error)] * len(calls)
        return results

    def _write_each(self, calls: list[_Waiting]) -> list[_Outcome]:
        """Makes changes so that one that raises is taken back alone."""

        def attempt(connection, waiting):
            with connection.begin_nested():
                return waiting.call(connection)

        try:
            with self._database.write() as connection:
                outcomes = []
                for waiting in calls:
                    try:
                        outcomes.append((attempt(connection, waiting), None))
                    except Exception as error:
                        outcomes.append((None, error))
                return outcomes
        except Exception as error:
            return [(None, error)] * len(calls)


def settle(settled: list[tuple[asyncio.Future, Any, Exception | None]]) -> None:
    """Gives futures their results or errors from another thread; wakes each event loop once."""
    of_loops: dict[asyncio.AbstractEventLoop, list] = {}
    for each in settled:
        of_loops.setdefault(each[0].get_loop(), []).append(each)
    for loop, own in of_loops.items():
        # The loop may have ended while its last requests were written.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, own)


def _settle(settled: Iterable[tuple[asyncio.Future, Any, Exception | None]]) -> None:
    for future, result, error in settled:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
