"""One worker's part of a computation with clients, in subrounds that are merged on the worker."""

import collections
import contextlib
import threading
from collections.abc import Sequence

from tensorflow_federated.proto.v0 import executor_pb2

from tff_programs.execution import load_balancing, remote_worker
from tff_programs.execution.compilation import MergeableForm
from tff_programs.execution.streaming import Argument


class WorkerTask:
    """One worker's part of a computation: some of its clients.

    Attributes:
      worker: The worker.
      clients: Numbers of the task's clients.
    """

    def __init__(
        self,
        worker: remote_worker.RemoteWorker,
        form: MergeableForm,
        argument: Argument,
        clients: Sequence[int],
        bound: int,
    ):
        """Creates the task.

        Args:
          worker: Worker that computes the task.
          form: The compiled computation.
          argument: The computation's argument.
          clients: Numbers of the task's clients, at least one.
          bound: Maximum number of clients per subround.
        """
        self.worker = worker
        self.clients = clients
        self._form = form
        self._argument = argument
        self._subrounds = load_balancing.subrounds(clients, bound)
        # Both by subround size, since a value belongs to the executor for that number of clients.
        self._totals, self._sent = {}, {}
        # Other tasks' accumulators that were sent to this worker, by `id`.
        self._received = {}

    async def compute(self, sending: threading.Lock) -> None:
        """Computes the task's clients; the accumulators stay on the worker.

        Args:
          sending: Lock that is held while clients are sent to a worker process of this program.
        """
        form, worker = self._form, self.worker
        shared = collections.defaultdict(dict)
        running = collections.deque()
        for subround in self._subrounds:
            size = len(subround)
            executor = worker.executor(size)
            # Python serializes one argument at a time: with the lock the first worker can start
            # before the others' arguments are serialized.
            with sending if worker.process else contextlib.nullcontext():
                sent = await self._argument.ingest(executor, subround, shared[size])
            total = await worker.call(size, form.up_to_merge, sent)
            if size in self._totals:
                total = await self._merge(size, self._totals[size], total)
            self._totals[size], self._sent[size] = total, sent
            running.append(await worker.call(size, form.synchronize, total))
            if len(running) > 1:
                await running.popleft().compute()
        await running.popleft().compute()

    async def partials(self, sending: threading.Lock) -> list[executor_pb2.Value]:
        """Computes the task's clients and returns an accumulator for each subround size."""
        await self.compute(sending)
        return [
            await self.worker.executor(size).fetch(total) for size, total in self._totals.items()
        ]

    async def receive(self, partials: Sequence[executor_pb2.Value]) -> None:
        """Sends other tasks' accumulators to this worker, ahead of `finish`."""
        executor = self.worker.executor(self._last_size)
        for partial in partials:
            if id(partial) not in self._received:
                sent = await executor.create_value(partial, self._form.accumulator_type)
                self._received[id(partial)] = sent

    async def finish(self, partials: Sequence[executor_pb2.Value]):
        """Merges other tasks' accumulators with this one's and returns the final result."""
        size = self._last_size
        own = [
            await self.worker.executor(other).fetch(total)
            for other, total in self._totals.items()
            if other != size
        ]
        partials = [*own, *partials]
        await self.receive(partials)
        total = self._totals[size]
        for partial in partials:
            total = await self._merge(size, total, self._received.pop(id(partial)))
        both = await self.worker.executor(size).create_struct([self._sent[size], total])
        return await (await self.worker.call(size, self._form.after_merge, both)).compute()

    @property
    def _last_size(self):
        return len(self._subrounds[-1])

    async def _merge(self, size, first, second):
        both = await self.worker.executor(size).create_struct([first, second])
        return await self.worker.call(size, self._form.merge, both)
