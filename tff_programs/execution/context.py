"""Executes rounds in subrounds of a bounded number of clients, on one or more workers.

TFF's worker holds the data and updates of all clients of a computation at the same time: about 33
MB per client for `fedsup_cifar`, 14 GB for 400. If the aggregations of a computation do not depend
on each other, TFF can split it into a part up to the aggregation, a merge of accumulators and a
part after it (`MergeableCompForm`), so that a large round runs as subrounds. TFF's own context for
that form moves every subround's accumulator through the program, sends the server's state with each
subround and, since TFF's executors block, uses one worker at a time. This context differs:

* A subround's accumulator stays on its worker and is merged there. Per round, the state is sent to
  each worker once for each subround size (at most two sizes), and each worker except the one that
  finishes the round returns one accumulator per size.
* Each worker has a thread, which sends the next subround while the worker computes the current one.
* Clients' data are made when their subround is sent.
* The clients of a lost worker are reassigned to the others; the others' results are kept.

Each computation is compiled once, for any number of workers and subrounds and for any subnets.
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

from tff_programs.execution import load_balancing, remote_worker, worker_stub
from tff_programs.execution.compilation import MergeableForm, compile_in_parts, compile_whole
from tff_programs.execution.streaming import Argument, to_numpy
from tff_programs.execution.worker_task import WorkerTask

# Clients per subround for each client that a worker computes concurrently; 165 MB for
# `fedsup_cifar`.
_CLIENTS_OF_SUBROUND = 5
# Maximum number of clients of a computation that cannot be split; 3.3 GB for `fedsup_cifar`.
_MAX_CLIENTS_WHOLE = 100


class SubroundContext(tff.framework.AsyncContext):
    """TFF context that executes computations on workers, in subrounds if there are clients.

    A computation with clients that TFF can split is executed in rounds over the clients that are
    not computed yet, initially all of them:

    1. The clients are divided among the remaining workers, one task per worker. The task with the
       highest cost becomes the final task; its accumulators stay on its worker.
    2. All tasks run concurrently. The other tasks' accumulators are sent to the final task's
       worker.
    3. If a worker is lost, its clients wait for the next round. If it was the final task's worker,
       the clients of that task wait too, and a new final task is chosen.
    4. When no clients are waiting, the final task merges all accumulators and computes the result.
    """

    def __init__(
        self,
        workers: Sequence[remote_worker.RemoteWorker],
        on_message: Callable[[str], None],
        clients_of_subround: int | None = None,
    ):
        """Creates the context.

        Args:
          workers: Connected workers.
          on_message: Called with a line of text when a worker is lost or comes back.
          clients_of_subround: Maximum number of clients per subround; by default five for each
            client that the worker computes concurrently. A worker holds the data of two subrounds.
        """
        self._workers = list(workers)
        self._lost = []
        self._on_message = on_message
        self._clients_of_subround = clients_of_subround
        self._sending = threading.Lock()

    async def invoke(self, comp, arg):
        """Executes a computation on an argument and returns Python and NumPy values.

        Raises:
          RuntimeError: If no worker remains or the computation fails.
          ValueError: If the computation cannot be split and has too many clients.
        """
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
        if isinstance(form, MergeableForm):
            result = await self._in_subrounds(form, argument, clients)
        elif clients <= _MAX_CLIENTS_WHOLE:
            result = await self._whole(comp, argument, clients)
        else:
            raise ValueError(
                f"Expected at most {_MAX_CLIENTS_WHOLE} clients for a computation with "
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
            tasks = [
                WorkerTask(worker, form, argument, [waiting[place] for place in share], bound)
                for worker, share, bound in zip(
                    self._workers, spread, map(self._bound, self._workers), strict=True
                )
                if share
            ]
            tasks.sort(key=lambda task: -sum(costs[client] for client in task.clients))
            if final is None:
                # The task with the highest cost is sent first, so that the others' accumulators
                # have arrived when it ends.
                final = tasks[0]
            ended = await asyncio.gather(
                *(self._partial(task, final) for task in tasks), return_exceptions=True
            )
            waiting = []
            for task, result in zip(tasks, ended, strict=True):
                if isinstance(result, remote_worker.WorkerLostError):
                    waiting += task.clients
                elif isinstance(result, BaseException):
                    raise result
                else:
                    partials += result
            if final.worker not in self._workers:
                # If it was lost in this round, its clients are already waiting.
                waiting = sorted({*waiting, *final.clients})
                final = None
            elif not waiting:
                try:
                    return await self._on(final.worker, final.finish, partials)
                except remote_worker.WorkerLostError:
                    waiting, final = final.clients, None

    async def _partial(self, task, final):
        """Computes a task; returns its accumulators, or none for the final task."""
        if task is final:
            await self._on(task.worker, task.compute, self._sending)
            return []
        partials = await self._on(task.worker, task.partials, self._sending)
        if final.worker in self._workers:
            with contextlib.suppress(remote_worker.WorkerLostError):
                await self._on(final.worker, final.receive, partials)
        return partials

    async def _on_one(self, run):
        """Calls `run` with the first worker, or with the next one if that is lost."""
        while True:
            try:
                return await self._on(self._workers[0], run, self._workers[0])
            except remote_worker.WorkerLostError:
                continue

    async def _on(self, worker, run, *arguments):
        """Calls `run` in a thread; disconnects the worker if it stops answering."""

        async def explained():
            try:
                return await run(*arguments)
            except Exception as error:
                raise worker.explain(error) from error

        async def answers():
            return worker.answers(worker_stub.PROBE_SECONDS)

        running = asyncio.wrap_future(remote_worker.start(explained))
        while not (await asyncio.wait([running], timeout=worker_stub.PROBE_EVERY_SECONDS))[0]:
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
            before = f" Lost before: {', '.join(others)}." if others else ""
            raise RuntimeError(
                f"{worker.name} is lost ({error}), no worker is left.{before} What was saved is "
                "kept: start workers again and repeat the command, it goes on after the last round "
                "that was saved."
            ) from error
        if worker.process is None:
            worker.connect()
        self._lost.append(worker)
        left = ", ".join(left.name for left in self._workers)
        self._on_message(f"{worker.name} is lost ({error}). What it had to do goes on with {left}.")

    def _readmit(self):
        for worker in [lost for lost in self._lost if lost.is_ready]:
            if not worker.answers(worker_stub.PROBE_SECONDS):
                continue  # It connected and is gone again.
            try:
                worker.check()
            except RuntimeError as error:
                self._lost.remove(worker)
                worker.disconnect()
                self._on_message(f"{error} It is not asked again.")
                continue
            if any(worker.identity == other.identity for other in self._workers):
                continue  # Its name leads to another worker now.
            self._lost.remove(worker)
            self._workers.append(worker)
            self._on_message(f"Worker {worker.address} is back.")
