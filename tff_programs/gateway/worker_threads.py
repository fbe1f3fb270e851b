"""Threads for what waits for the disk, beside the event loop."""

import queue
import threading
from collections.abc import Callable


class WorkerThreads:
    """Makes calls in a fixed number of threads, in the order in which they were asked for.

    `concurrent.futures` keeps a future with a lock of its own for each call, which nobody here
    asks for, and which costs as much as a short call.
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
        """Lets a call be made, which must not raise."""
        self._calls.put(call)

    def close(self) -> None:
        """Makes what waits, then ends."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            # What it holds, such as a body, must not stay until the next one comes.
            del call
