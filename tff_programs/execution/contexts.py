"""Where TFF computations run: in worker processes of this program, or on workers elsewhere."""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

import portpicker
import tensorflow_federated as tff

from tff_programs.execution import remote_worker, worker_command
from tff_programs.execution.context import SubroundContext

_LOGGER = logging.getLogger(__name__)
_START_SECONDS = 60
_PARENT_DEATH_SIGNAL = 1


@contextlib.contextmanager
def local_execution(
    clients_at_once: int | None = None, on_message: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Runs TFF computations of the `with` block in worker processes that end with it.

    There are `clients_at_once` of them (by default one a core), of one thread each: a process that
    computes several clients waits a quarter of its time for its own threads and locks. Where every
    core has one, it stays there, and TensorFlow leaves out what makes threads work together. They
    end with this process even if that is killed. `on_message` is called with a line of text when a
    worker is lost or comes back; such lines are logged as warnings by default.
    """
    cores = sorted(os.sched_getaffinity(0))
    count = clients_at_once or len(cores)
    with contextlib.ExitStack() as stack:
        # All before the first is connected to: gRPC's threads and a fork do not go together.
        started = [
            stack.enter_context(
                _worker_process(cores[number % len(cores)] if count >= len(cores) else None)
            )
            for number in range(count)
        ]
        workers = []
        for port, process in started:
            workers.append(remote_worker.RemoteWorker(f"localhost:{port}", 1, process))
            stack.callback(workers[-1].disconnect)
        for worker in workers:
            _wait(worker)
        with _execute_on(workers, on_message or _LOGGER.warning):
            yield


@contextlib.contextmanager
def _worker_process(core: int | None) -> Iterator[tuple[int, subprocess.Popen]]:
    """A process that computes one client at a time, on a core if one is named; and its port."""

    def prepare():
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if core is not None:
            os.sched_setaffinity(0, {core})

    port = portpicker.pick_unused_port()
    # A worker that held this program's pipes would keep a reader of its output waiting. A session
    # of its own, since Ctrl-C is for this program, which then ends the worker.
    process = subprocess.Popen(
        worker_command.arguments(port, 1),
        executable=worker_command.binary_path(),
        env=worker_command.environment(1),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=prepare,
    )
    try:
        yield port, process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def remote_execution(
    addresses: Sequence[str],
    deadline_seconds: float,
    on_message: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Runs TFF computations of the `with` block on workers that `fedsup worker` started.

    Args:
      addresses: `host:port` of each.
      deadline_seconds: How long to wait for those that are not up yet.
      on_message: As for `local_execution`.
    """
    on_message = on_message or _LOGGER.warning
    workers = remote_worker.connect(addresses, deadline_seconds, on_message)
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


def _wait(worker):
    deadline = time.monotonic() + _START_SECONDS
    while not worker.is_ready:
        if worker.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(
                f"TFF's worker did not answer at {worker.address} within {_START_SECONDS} s (exit "
                f"code {worker.process.poll()}). Check that the machine has memory and a free port."
            )
        time.sleep(0.05)
