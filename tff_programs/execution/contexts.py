"""Contexts that run TFF computations in processes of this program or on remote workers."""

import atexit
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.context_stack import set_default_context

from tff_programs.execution import connect_workers, local_worker, remote_worker
from tff_programs.execution.context import SubroundContext
from tff_programs.execution.forwarder import TlsFiles

_LOGGER = logging.getLogger(__name__)
_START_SECONDS = 60
# TFF's own context ends its worker processes when garbage-collected, which fails at Python's exit.
atexit.register(set_default_context.set_no_default_context)


@contextlib.contextmanager
def local_execution(
    clients_at_once: int | None = None, on_message: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Runs TFF computations of the `with` block in worker processes that end with it.

    A process that computes several clients spends a quarter of its time waiting for its own threads
    and locks, so each process has one thread. If there is a process for every core, each process is
    pinned to a core, which lets TensorFlow skip the coordination of threads. Only this program can
    reach the processes (a message says so if the system does not allow this), and they end with it
    even if it is killed.

    Args:
      clients_at_once: Number of processes; by default one per core.
      on_message: Called with a line of text when a worker is lost or comes back, or if others can
        reach it; by default such lines are logged as warnings.
    """
    on_message = on_message or _LOGGER.warning
    cores = sorted(os.sched_getaffinity(0))
    count = clients_at_once or len(cores)
    with contextlib.ExitStack() as stack:
        # Start all before connecting to any, since forking is not safe with gRPC's threads.
        started = [
            stack.enter_context(
                local_worker.start(cores[number % len(cores)] if count >= len(cores) else None)
            )
            for number in range(count)
        ]
        line = local_worker.open_ports_line(started)
        if line is not None:
            on_message(line)
        workers = []
        for address, process, _ in started:
            workers.append(remote_worker.RemoteWorker(address, process=process))
            stack.callback(workers[-1].disconnect)
        for worker in workers:
            wait_for_local(worker)
        with _execute_on(workers, on_message):
            yield


@contextlib.contextmanager
def remote_execution(
    addresses: Sequence[str],
    deadline_seconds: float,
    on_message: Callable[[str], None] | None = None,
    tls: TlsFiles | None = None,
) -> Iterator[None]:
    """Runs TFF computations of the `with` block on workers started by `fedsup worker`.

    Args:
      addresses: Address of each worker, `host:port`.
      deadline_seconds: Timeout for workers that are not up yet, in seconds.
      on_message: Called with a line of text while waiting for workers and when a worker is lost or
        comes back; by default such lines are logged as warnings.
      tls: Files for mutual TLS if the workers require a certificate.
    """
    on_message = on_message or _LOGGER.warning
    workers = connect_workers.connect(addresses, deadline_seconds, on_message, tls)
    try:
        with _execute_on(workers, on_message):
            yield
    finally:
        for worker in workers:
            worker.disconnect()


def _execute_on(workers, on_message) -> contextlib.AbstractContextManager:
    """Installs a context for the workers; the previous one is restored when the block ends."""
    context = tff.program.NativeFederatedContext(SubroundContext(workers, on_message))
    return tff.framework.get_context_stack().install(context)


def wait_for_local(worker: remote_worker.RemoteWorker) -> None:
    """Waits until a worker process of this program answers.

    Raises:
      RuntimeError: If it does not answer in time.
    """
    deadline = time.monotonic() + _START_SECONDS
    while not worker.is_ready:
        if worker.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(
                f"{worker.name} did not answer within {_START_SECONDS} s (exit code "
                f"{worker.process.poll()}). Check that the machine has memory."
            )
        time.sleep(0.05)
