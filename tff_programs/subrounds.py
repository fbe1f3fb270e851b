"""Rounds in subrounds of a bounded number of clients, on one worker or on many.

TFF's worker holds all clients' data and updates of a computation at once: some 33 MB for each
client of `fedsup_cifar`, 14 GB for 400. TFF can cut a computation whose aggregations do not depend
on each other into a part up to the aggregation, a merge of accumulators and a part behind it
(`MergeableCompForm`), and so run a large round as subrounds. The context that TFF has for that form
moves every subround's accumulator through the program, sends the server's state anew with each and,
since TFF's executors block, lets workers take turns. This one executes the same form otherwise:

* a subround's accumulator stays on its worker and is merged there; one for each worker crosses the
  network, and the state goes to each worker once a round;
* each worker has a thread; its next subround is sent while it computes one;
* clients' data are made when their subround is sent;
* what a lost worker had to do goes to those left, what others have done is kept.

Each computation is compiled once, whatever workers, subrounds and subnets it meets.
"""

import asyncio
import collections
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.environments.tensorflow_frontend import (
    tensorflow_computation,
)
from tensorflow_federated.python.core.impl.executors import cardinalities_utils

from tff_programs import remote, shares
from tff_programs.arguments import costs_of, ingest, to_numpy

# At least, so that an average round is one subround; 330 MB of a worker for `fedsup_cifar`.
_CLIENTS_OF_SUBROUND = 10


class _Form(NamedTuple):
    """A compiled computation in parts, see `tff.framework.MergeableCompForm`.

    Attributes:
      up_to_merge: From the argument, of some of the clients, to an accumulator at the server.
      merge: Two accumulators at the server to one.
      is_done: An accumulator at the server to a number, once it is there.
      after_merge: From the argument and the accumulator of all to the result.
      accumulator_type: The accumulator's.
    """

    up_to_merge: tff.Computation
    merge: tff.Computation
    is_done: tff.Computation
    after_merge: tff.Computation
    accumulator_type: tff.FederatedType


_compile_whole = functools.lru_cache(tff.backends.native.desugar_and_transform_to_native)


@functools.lru_cache
def _compile_in_parts(computation) -> _Form:
    try:
        form = tff.backends.native.compile_to_mergeable_comp_form(computation)
    except ValueError as error:
        raise ValueError(
            "Expected a computation whose aggregations do not depend on each other, so that it can "
            f"run in subrounds; received one that TFF cannot cut: {error}"
        ) from error
    accumulator_type = form.up_to_merge.type_signature.result

    @tff.federated_computation(accumulator_type, accumulator_type)
    def merge(first, second):
        return tff.federated_map(form.merge, tff.federated_zip((first, second)))

    @tff.tensorflow.computation(accumulator_type.member)
    def size(accumulator):
        parts = tff.structure.Struct.unnamed(accumulator)
        parts = tff.structure.flatten(tff.structure.from_container(parts, recursive=True))
        return sum((tf.size(part) for part in parts), tf.constant(0))

    @tff.federated_computation(accumulator_type)
    def is_done(accumulator):
        return tff.federated_map(size, accumulator)

    return _Form(
        *map(_compile_whole, (form.up_to_merge, merge, is_done, form.after_merge)),
        accumulator_type,
    )


class SubroundContext(tff.framework.AsyncContext):
    """Executes TFF computations on workers, those with clients in subrounds."""

    def __init__(
        self,
        workers: Sequence[remote.RemoteWorker],
        tell: Callable[[str], None],
        clients_of_subround: int | None = None,
    ):
        """Makes the context.

        Args:
          workers: Connected workers.
          tell: Takes a line for the user.
          clients_of_subround: Most clients that a worker is sent at once; by default ten, or two
            for each that it computes at once. It holds the data of two such subrounds.
        """
        self._workers = list(workers)
        self._lost = []
        self._tell = tell
        self._clients_of_subround = clients_of_subround

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
        clients = 0
        if arg is not None:
            cardinalities = cardinalities_utils.infer_cardinalities(arg, parameter_type)
            clients = cardinalities.get(tff.CLIENTS, 0)
        alone = len(self._workers) == 1 and clients <= self._bound(self._workers[0])
        if alone or not clients:
            result = await self._whole(comp, arg, clients)
        else:
            result = await self._in_subrounds(comp, arg, clients)
        result = tff.types.type_to_py_container(result, comp.type_signature.result)
        return tensorflow_computation.transform_result(result)

    def _bound(self, worker) -> int:
        return self._clients_of_subround or max(_CLIENTS_OF_SUBROUND, 2 * worker.capacity)

    async def _whole(self, comp, arg, clients):
        computation = _compile_whole(comp)
        parameter_type = comp.type_signature.parameter

        async def run(worker):
            argument = None
            if arg is not None:
                executor = worker.executor(clients)
                argument = await ingest(executor, arg, parameter_type, range(clients), {}, ())
            return await (await worker.call(clients, computation, argument)).compute()

        return await self._on_one(run)

    async def _in_subrounds(self, comp, arg, clients):
        form = _compile_in_parts(comp)
        parameter_type = form.up_to_merge.type_signature.parameter
        costs = costs_of(arg, parameter_type) or [1.0] * clients
        share_of = functools.partial(self._share, form=form, arg=arg)
        if len(self._workers) == 1:
            return await self._on_one(
                functools.partial(share_of, clients=range(clients), finish=True)
            )
        partials = []
        waiting = list(range(clients))
        while waiting:
            capacities = [worker.capacity for worker in self._workers]
            spread = shares.spread([costs[client] for client in waiting], capacities)
            work = [
                (worker, [waiting[place] for place in share])
                for worker, share in zip(self._workers, spread, strict=True)
                if share
            ]
            ended = await asyncio.gather(
                *(
                    self._on(worker, functools.partial(share_of, clients=share))
                    for worker, share in work
                ),
                return_exceptions=True,
            )
            waiting = []
            for (_, share), result in zip(work, ended, strict=True):
                if isinstance(result, remote.WorkerLostError):
                    waiting += share
                elif isinstance(result, BaseException):
                    raise result
                else:
                    partials += result
        return await self._on_one(
            functools.partial(self._after_merge, form=form, arg=arg, partials=partials)
        )

    async def _on_one(self, run):
        """Runs on the first worker, or where that is lost on the next."""
        while True:
            try:
                return await self._on(self._workers[0], run)
            except remote.WorkerLostError:
                continue

    async def _on(self, worker, run):
        """Runs in a thread, and looks whether the worker lives."""

        async def explained():
            try:
                return await run(worker)
            except Exception as error:
                raise worker.explain(error) from error

        async def answers():
            return worker.answers(remote.PROBE_SECONDS)

        running = asyncio.wrap_future(remote.start(explained))
        while not (await asyncio.wait([running], timeout=remote.PROBE_EVERY_SECONDS))[0]:
            if not await asyncio.wrap_future(remote.start(answers)) and not running.done():
                worker.disconnect()
        try:
            return running.result()
        except remote.WorkerLostError as error:
            self._lose(worker, error)
            raise

    def _lose(self, worker, error):
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        worker.disconnect()
        name = "TFF's worker process" if worker.process else f"Worker {worker.address}"
        if not self._workers:
            others = [lost.address for lost in self._lost]
            told = f" Lost before: {', '.join(others)}." if others else ""
            raise RuntimeError(
                f"{name} is lost ({error}), no worker is left.{told} What was saved is kept: start "
                "workers again and repeat the command, it goes on after the last round that was "
                "saved."
            ) from error
        worker.connect()
        self._lost.append(worker)
        left = ", ".join(left.address for left in self._workers)
        self._tell(f"{name} is lost ({error}). What it had to do goes on with {left}.")

    def _readmit(self):
        for worker in [lost for lost in self._lost if lost.is_ready]:
            try:
                worker.check()
            except RuntimeError as error:
                self._lost.remove(worker)
                worker.disconnect()
                self._tell(f"{error} It is not asked again.")
                continue
            self._lost.remove(worker)
            self._workers.append(worker)
            self._tell(f"Worker {worker.address} is back.")

    async def _share(self, worker, *, form, arg, clients, finish=False):
        """Computes a worker's clients.

        Returns:
          An accumulator for each number of clients that its subrounds had; with `finish` the
          computation's result, for a worker that had all clients.
        """
        parameter_type = form.up_to_merge.type_signature.parameter
        totals, arguments, shared = {}, {}, {}
        running = collections.deque()
        for subround in shares.subrounds(clients, self._bound(worker)):
            size = len(subround)
            executor = worker.executor(size)
            argument = await ingest(executor, arg, parameter_type, subround, shared, (size,))
            total = await worker.call(size, form.up_to_merge, argument)
            if size in totals:
                both = await executor.create_struct([totals[size], total])
                total = await worker.call(size, form.merge, both)
            totals[size], arguments[size] = total, argument
            running.append(await worker.call(size, form.is_done, total))
            if len(running) > 1:
                await running.popleft().compute()
        del argument, total
        if not finish:
            return [await total.compute() for total in totals.values()]
        *others, size = totals
        partials = [await totals[other].compute() for other in others]
        return await _finish(worker, size, form, arguments[size], totals[size], partials)

    async def _after_merge(self, worker, *, form, arg, partials):
        # The clients have done their part: this one knows none.
        parameter_type = form.up_to_merge.type_signature.parameter
        argument = await ingest(worker.executor(0), arg, parameter_type, (), {}, (0,))
        first, *others = partials
        total = await worker.executor(0).create_value(first, form.accumulator_type)
        return await _finish(worker, 0, form, argument, total, others)


async def _finish(worker, size, form, argument, total, partials):
    executor = worker.executor(size)
    for partial in partials:
        other = await executor.create_value(partial, form.accumulator_type)
        both = await executor.create_struct([total, other])
        total = await worker.call(size, form.merge, both)
    both = await executor.create_struct([argument, total])
    return await (await worker.call(size, form.after_merge, both)).compute()
