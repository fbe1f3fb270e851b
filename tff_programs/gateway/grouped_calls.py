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

    def __init__(
        self, begin: Callable[[], contextlib.AbstractContextManager[Connection]], name: str
    ):
        """Begins to wait for calls.

        Args:
          begin: Begins a transaction.
          name: The thread's.
        """
        self._begin = begin
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
        """Makes calls in one transaction; where one raises, all anew, so that it fails alone."""
        outcomes: list[_Outcome] = []
        try:
            with self._begin() as connection:
                outcomes += [self._make(connection, waiting) for waiting in calls]
            return outcomes
        except Exception as error:
            # What was made and could not be kept is not made again: perhaps it is kept.
            if outcomes or len(calls) == 1:
                return [(None, error)] * len(calls)
        try:
            with self._begin() as connection:
                outcomes += [_make_apart(connection, waiting) for waiting in calls]
            return outcomes
        except Exception as error:
            return [(None, error)] * len(calls)

    def _make(self, connection: Connection, waiting: _Waiting) -> _Outcome:
        """Makes a call; an error means that the whole transaction is to be taken back."""
        return waiting.call(connection), None


def _make_apart(connection: Connection, waiting: _Waiting) -> _Outcome:
    """Makes a call in a transaction of its own inside of that of all."""
    try:
        with connection.begin_nested():
            return waiting.call(connection), None
    except Exception as error:
        return None, error


class GroupedReads(_GroupedCalls):
    """Reads; each sees all that was written before it was asked for."""

    def __init__(self, database: Database):
        """Begins to wait for calls."""
        super().__init__(database.read, "gateway-reads")

    def _make(self, connection: Connection, waiting: _Waiting) -> _Outcome:
        """Makes a read, whose refusal leaves the transaction as it is."""
        try:
            return super()._make(connection, waiting)
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
        super().__init__(database.write, "gateway-writes")


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
