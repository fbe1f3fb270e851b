"""Database calls from the event loop, batched into transactions."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection

from tff_programs.gateway.database import Database
from tff_programs.gateway.refusal import RefusalError

# Maximum number of calls in a transaction, which bounds how long a request waits.
_MAX_CALLS = 256
# Result and error of a call; the result is None if there is an error.
_Outcome = tuple[Any, Exception | None]


class _Waiting(NamedTuple):
    """A queued call.

    Attributes:
      call: Reads or changes the database, and may raise. It may share a transaction with other
        calls, and is called again if that transaction is rolled back because of another call.
      future: Receives the result once the transaction has ended.
    """

    call: Callable[[Connection], Any]
    future: asyncio.Future


class _GroupedCalls:
    """Makes calls in a thread, one transaction at a time.

    Under load a busy thread need not be woken, and all calls that arrive during one transaction
    share the cost of beginning and ending the next.
    """

    def __init__(
        self, begin: Callable[[], contextlib.AbstractContextManager[Connection]], name: str
    ):
        """Starts the thread.

        Args:
          begin: Returns a context manager of a transaction.
          name: Name of the thread.
        """
        self._begin = begin
        self._calls: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[Connection], Any], future: asyncio.Future) -> None:
        """Queues a call; any thread may submit one.

        Args:
          call: Reads or changes the database.
          future: Receives the result of the call.
        """
        self._calls.put(_Waiting(call, future))

    def close(self) -> None:
        """Makes the queued calls, then stops the thread."""
        self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            taken = [self._calls.get()]
            while len(taken) < _MAX_CALLS and not self._calls.empty():
                taken.append(self._calls.get())
            is_open = None not in taken
            calls = [call for call in taken if call is not None and not call.future.cancelled()]
            if calls:
                pairs = zip(calls, self._run_batch(calls), strict=True)
                settle([(call.future, result, error) for call, (result, error) in pairs])

    def _run_batch(self, calls: list[_Waiting]) -> list[_Outcome]:
        """Makes calls in one transaction; if one raises, repeats all so that it fails alone."""
        outcomes: list[_Outcome] = []
        try:
            with self._begin() as connection:
                outcomes += [self._call(connection, waiting) for waiting in calls]
            return outcomes
        except Exception as error:
            # A failed commit is not repeated, since it may have taken effect.
            if outcomes or len(calls) == 1:
                return [(None, error)] * len(calls)
        try:
            with self._begin() as connection:
                outcomes += [_call_in_savepoint(connection, waiting) for waiting in calls]
            return outcomes
        except Exception as error:
            return [(None, error)] * len(calls)

    def _call(self, connection: Connection, waiting: _Waiting) -> _Outcome:
        """Makes a call; an error rolls back the whole transaction."""
        return waiting.call(connection), None


def _call_in_savepoint(connection: Connection, waiting: _Waiting) -> _Outcome:
    """Makes a call in a savepoint of the shared transaction."""
    try:
        with connection.begin_nested():
            return waiting.call(connection), None
    except Exception as error:
        return None, error


class GroupedReads(_GroupedCalls):
    """Batched reads; each sees everything that was written before it was submitted."""

    def __init__(self, database: Database):
        """Starts the thread."""
        super().__init__(database.read, "gateway-reads")

    def _call(self, connection: Connection, waiting: _Waiting) -> _Outcome:
        """Makes a read; a refusal does not roll back the transaction."""
        try:
            return super()._call(connection, waiting)
        except RefusalError as refusal:
            return None, refusal


class GroupedWrites(_GroupedCalls):
    """Batched changes: those that arrive during one transaction share the next.

    A commit waits for the disk, and SQLite allows one writer at a time: requests with a transaction
    each would wait for all the others. A change that raises is rolled back alone. No change is
    answered before its transaction is on disk.
    """

    def __init__(self, database: Database):
        """Starts the thread."""
        super().__init__(database.write, "gateway-writes")


def settle(settled: list[tuple[asyncio.Future, Any, Exception | None]]) -> None:
    """Sets results or errors of futures from another thread, waking each event loop once."""
    of_loops: dict[asyncio.AbstractEventLoop, list] = {}
    for each in settled:
        of_loops.setdefault(each[0].get_loop(), []).append(each)
    for loop, own in of_loops.items():
        # The loop may have been closed while its last requests were written.
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
