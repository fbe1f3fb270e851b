"""Contexts in which TFF computations run: in processes of this program, or on workers elsewhere."""

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
# TFF's own context ends its worker processes when it is collected, and cannot when Python ends.
atexit.register(set_default_context.set_no_default_context)


@contextlib.contextmanager
def local_execution(
    clients_at_once: int | None = None, on_message: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Runs TFF computations of the `with` block in worker processes that end with it.

    A process that computes several clients waits a quarter of its time for its own threads and
    locks, so that each process has one thread. Where every core has a process, it stays there, and
    TensorFlow leaves out what makes threads work together. Nobody but this program can reach the
    processes (where the system refuses that, a message says so), and they end with it even if it is
    killed.

    Args:
      clients_at_once: Number of processes; by default one a core.
      on_message: Called with a line of text when a worker is lost or comes back, or can be reached
        by others; such lines are logged as warnings by default.
    """
    on_message = on_message or _LOGGER.warning
    cores = sorted(os.sched_getaffinity(0))
    count = clients_at_once or len(cores)
    with contextlib.ExitStack() as stack:
        # All before the first is connected to: gRPC's threads and a fork do not go together.
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
    """Runs TFF computations of the `with` block on workers that `fedsup worker` started.

    Args:
      addresses: `host:port` of each.
      deadline_seconds: Seconds to wait for those that are not up yet.
      on_message: As for `local_execution`.
      tls: Files for mutual TLS if the workers ask for a certificate.
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
    """Installs a context of the workers; the one before is back when the block ends."""
    context = tff.program.NativeFederatedContext(SubroundContext(workers, on_message))
    return tff.framework.get_context_stack().install(context)


def wait_for_local(worker: remote_worker.RemoteWorker) -> None:
    """Waits until a worker process of this program answers.

    Raises:
      RuntimeError: If it does not.
    """
    deadline = time.monotonic() + _START_SECONDS
    while not worker.is_ready:
        if worker.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(
                f"{worker.name} did not answer within {_START_SECONDS} s (exit code "
                f"{worker.process.poll()}). Check that the machine has memory."
            )
        time.sleep(0.05)
