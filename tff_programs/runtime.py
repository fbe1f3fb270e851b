"""Where TFF computations run: in a worker process of this program, or on workers elsewhere."""

import contextlib
import ctypes
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence

import portpicker
import tensorflow_federated as tff

from tff_programs import remote, worker_command
from tff_programs.subrounds import SubroundContext

_START_SECONDS = 60
_PARENT_DEATH_SIGNAL = 1


@contextlib.contextmanager
def local_execution(clients_at_once: int | None = None) -> Iterator[None]:
    """Runs TFF computations of the `with` block in a worker process that ends with it.

    The worker computes `clients_at_once` clients (by default one a core) with one thread each. It
    ends with this process even if that is killed.
    """
    clients_at_once = clients_at_once or worker_command.cores()
    port = portpicker.pick_unused_port()
    # A worker that held this program's pipes would keep a reader of its output waiting. A session
    # of its own, since Ctrl-C is for this program, which then ends the worker.
    process = subprocess.Popen(
        worker_command.arguments(port, clients_at_once),
        executable=worker_command.binary_path(),
        env=worker_command.environment(clients_at_once),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    worker = remote.RemoteWorker(f"localhost:{port}", clients_at_once, process)
    try:
        _wait(worker)
        _execute_on([worker])
        yield
    finally:
        process.kill()
        process.wait()
        worker.disconnect()


@contextlib.contextmanager
def remote_execution(addresses: Sequence[str], deadline_seconds: float) -> Iterator[None]:
    """Runs TFF computations of the `with` block on workers that `fedsup worker` started.

    Args:
      addresses: `host:port` of each.
      deadline_seconds: How long to wait for those that are not up yet.
    """
    workers = remote.connect(addresses, deadline_seconds, _tell)
    try:
        _execute_on(workers)
        yield
    finally:
        for worker in workers:
            worker.disconnect()


def _execute_on(workers):
    context = SubroundContext(workers, _tell)
    tff.framework.set_default_context(tff.program.NativeFederatedContext(context))


def _tell(line: str) -> None:
    print(line, flush=True)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _wait(worker):
    deadline = time.monotonic() + _START_SECONDS
    while not worker.is_ready:
        if worker.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(
                f"TFF's worker did not answer at {worker.address} within {_START_SECONDS} s (exit "
                f"code {worker.process.poll()}). Check that the machine has memory and a free port."
            )
        time.sleep(0.05)
