"""Threads for blocking work outside the event loop."""

import queue
import threading
from collections.abc import Callable


class WorkerThreads:
    """Makes calls in a fixed number of threads, in the order of submission.

    `concurrent.futures` would create a future with its own lock for each call, which is not needed
    here and costs as much as a short call.
    """

    def __init__(self, count: int):
        """Starts the threads."""
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"gateway-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[[], None]) -> None:
        """Queues a call, which must not raise."""
        self._calls.put(call)

    def close(self) -> None:
        """Makes the queued calls, then stops the threads."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            # Free what the call holds, such as a body, before waiting for the next one.
            del call
