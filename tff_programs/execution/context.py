"""Rounds in subrounds of a bounded number of clients, on one worker or on many.

TFF's worker holds all clients' data and updates of a computation at once: some 33 MB for each
client of `fedsup_cifar`, 14 GB for 400. TFF can cut a computation whose aggregations do not depend
on each other into a part up to the aggregation, a merge of accumulators and a part behind it
(`MergeableCompForm`), and so run a large round as subrounds. The context that TFF has for that form
moves every subround's accumulator through the program, sends the server's state anew with each and,
since TFF's executors block, lets workers take turns. This one executes the same form otherwise:

* a subround's accumulator stays on its worker and is merged there; the state goes to each worker
  once a round, and of all workers but the one that ends the round an accumulator comes back;
* each worker has a thread; its next subround is sent while it computes one;
* clients' data are made when their subround is sent;
* what a lost worker had to do goes to those left, what others have done is kept.

Each computation is compiled once, whatever workers, subrounds and subnets it meets.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence

import tensorflow_federated as tff
from tensorflow_federated.python.core.environments.tensorflow_frontend import (
    tensorflow_computation,
)
from tensorflow_federated.python.core.impl.executors import cardinalities_utils

from tff_programs.execution import load_balancing, remote_worker
from tff_programs.execution.compilation import Form, compile_in_parts, compile_whole
from tff_programs.execution.streaming import Argument, to_numpy
from tff_programs.execution.worker_task import WorkerShare

# For each that a worker computes at once; of `fedsup_cifar` 165 MB.
_CLIENTS_OF_SUBROUND = 5
# Of a computation that cannot be cut; of `fedsup_cifar` 3.3 GB.
_MOST_CLIENTS_WHOLE = 100


class SubroundContext(tff.framework.AsyncContext):
    """Executes TFF computations on workers, those with clients in subrounds."""

    def __init__(
        self,
        workers: Sequence[remote_worker.RemoteWorker],
        tell: Callable[[str], None],
        clients_of_subround: int | None = None,
    ):
        """Makes the context.

        Args:
          workers: Connected workers.
          tell: Takes a line for the user.
          clients_of_subround: Most clients that a worker is sent at once; by default five for each
            that it computes at once. It holds the data of two such subrounds.
        """
        self._workers = list(workers)
        self._lost = []
        self._tell = tell
        self._clients_of_subround = clients_of_subround
        self._sending = threading.Lock()

    async def invoke(self, comp, arg):
        """See the base class."""
        if asyncio.iscoroutine(arg):
            arg = await arg
        arg = to_numpy(arg)
        self._readmit()
        if not self._workers:
            raise RuntimeError(
                "Expected a worker, all are lost. Start workers again and repeat the command."
            )
        parameter_type = comp.type_signature.parameter
        argument, clients = None, 0
        if arg is not None:
            argument = Argument(arg, parameter_type)
            cardinalities = cardinalities_utils.infer_cardinalities(arg, parameter_type)
            clients = cardinalities.get(tff.CLIENTS, 0)
        form = compile_in_parts(comp) if clients else None
        if isinstance(form, Form):
            result = await self._in_subrounds(form, argument, clients)
        elif clients <= _MOST_CLIENTS_WHOLE:
            result = await self._whole(comp, argument, clients)
        else:
            raise ValueError(
                f"Expected at most {_MOST_CLIENTS_WHOLE} clients for a computation with "
                "aggregations that depend on each other, since it cannot run in subrounds; "
                f"received {clients}: {form}"
            ) from form
        result = tff.types.type_to_py_container(result, comp.type_signature.result)
        return tensorflow_computation.transform_result(result)

    def _bound(self, worker) -> int:
        return self._clients_of_subround or _CLIENTS_OF_SUBROUND * worker.capacity

    async def _whole(self, comp, argument, clients):
        computation = compile_whole(comp)

        async def run(worker):
            sent = None
            if argument is not None:
                sent = await argument.ingest(worker.executor(clients), range(clients), {})
            return await (await worker.call(clients, computation, sent)).compute()

        return await self._on_one(run)

    async def _in_subrounds(self, form, argument, clients):
        costs = argument.costs or [1.0] * clients
        final, partials = None, []
        waiting = list(range(clients))
        while True:
            capacities = [worker.capacity for worker in self._workers]
            spread = load_balancing.spread([costs[client] for client in waiting], capacities)
            work = [
                WorkerShare(worker, form, argument, [waiting[place] for place in share], bound)
                for worker, share, bound in zip(
                    self._workers, spread, map(self._bound, self._workers), strict=True
                )
                if share
            ]
            work.sort(key=lambda share: -sum(costs[client] for client in share.clients))
            if final is None:
                # The longest, sent first: the others' sums are there when it ends.
                final = work[0]
            ended = await asyncio.gather(
                *(self._partial(share, final) for share in work), return_exceptions=True
            )
            waiting = []
            for share, result in zip(work, ended, strict=True):
                if isinstance(result, remote_worker.WorkerLostError):
                    waiting += share.clients
                elif isinstance(result, BaseException):
                    raise result
                else:
                    partials += result
            if final.worker not in self._workers:
                # It is among those waiting, if it was not lost before.
                waiting = sorted({*waiting, *final.clients})
                final = None
            elif not waiting:
                try:
                    return await self._on(final.worker, final.finish, partials)
                except remote_worker.WorkerLostError:
                    waiting, final = final.clients, None

    async def _partial(self, share, final):
        """Computes a share: its accumulators, but those of the one that ends the round stay."""
        if share is final:
            await self._on(share.worker, share.compute, self._sending)
            return []
        partials = await self._on(share.worker, share.partials, self._sending)
        if final.worker in self._workers:
            with contextlib.suppress(remote_worker.WorkerLostError):
                await self._on(final.worker, final.receive, partials)
        return partials

    async def _on_one(self, run):
        """Runs on the first worker, or where that is lost on the next."""
        while True:
            try:
                return await self._on(self._workers[0], run, self._workers[0])
            except remote_worker.WorkerLostError:
                continue

    async def _on(self, worker, run, *arguments):
        """Runs in a thread, and looks whether the worker lives."""

        async def explained():
            try:
                return await run(*arguments)
            except Exception as error:
                raise worker.explain(error) from error

        async def answers():
            return worker.answers(remote_worker.PROBE_SECONDS)

        running = asyncio.wrap_future(remote_worker.start(explained))
        while not (await asyncio.wait([running], timeout=remote_worker.PROBE_EVERY_SECONDS))[0]:
            if not await asyncio.wrap_future(remote_worker.start(answers)) and not running.done():
                worker.disconnect()
        try:
            return running.result()
        except remote_worker.WorkerLostError as error:
            self._lose(worker, error)
            raise

    def _lose(self, worker, error):
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        worker.disconnect()
        if not self._workers:
            others = [lost.name for lost in self._lost]
            told = f" Lost before: {', '.join(others)}." if others else ""
            raise RuntimeError(
                f"{worker.name} is lost ({error}), no worker is left.{told} What was saved is kept:"
                " start workers again and repeat the command, it goes on after the last round that "
                "was saved."
            ) from error
        if worker.process is None:
            worker.connect()
        self._lost.append(worker)
        left = ", ".join(left.name for left in self._workers)
        self._tell(f"{worker.name} is lost ({error}). What it had to do goes on with {left}.")

    def _readmit(self):
        for worker in [lost for lost in self._lost if lost.is_ready]:
            if not worker.answers(remote_worker.PROBE_SECONDS):
                continue  # It came and is gone again.
            try:
                worker.check()
            except RuntimeError as error:
                self._lost.remove(worker)
                worker.disconnect()
                self._tell(f"{error} It is not asked again.")
                continue
            if any(worker.identity == other.identity for other in self._workers):
                continue  # Its name leads to another worker now.
            self._lost.remove(worker)
            self._workers.append(worker)
            self._tell(f"Worker {worker.address} is back.")
