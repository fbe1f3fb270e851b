"""The worker process in which client computations run."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import grpc
import portpicker
import tensorflow_federated as tff
from tensorflow_federated.python.core.environments.tensorflow_frontend import (
    tensorflow_computation,
)

_MESSAGE_BYTES = 2**31 - 1
_START_SECONDS = 60
_PARENT_DEATH_SIGNAL = 1


@contextlib.contextmanager
def local_execution(clients_at_once: int | None = None) -> Iterator[None]:
    """Runs TFF computations of the `with` block in a worker process that ends with it.

    The worker computes `clients_at_once` clients (by default one a core) with one thread each,
    which on a CPU is faster than one client after the other with all threads. It ends with this
    process even if that is killed.
    """
    clients_at_once = clients_at_once or len(os.sched_getaffinity(0))
    port = portpicker.pick_unused_port()
    binary = os.path.join(os.path.dirname(tff.__file__), "data", "worker_binary")
    environment = {
        **os.environ,
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": str(max(2, clients_at_once)),
        "MALLOC_ARENA_MAX": "2",
    }
    # A worker that held this program's pipes would keep a reader of its output waiting.
    worker = subprocess.Popen(
        [binary, f"--port={port}", f"--max_concurrent_computation_calls={clients_at_once}"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_die_with_parent,
    )
    try:
        tff.framework.set_default_context(
            tff.program.NativeFederatedContext(_context(_stub(worker, port)))
        )
        yield
    finally:
        worker.kill()
        worker.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _stub(worker: subprocess.Popen, port: int):
    options = [
        ("grpc.max_receive_message_length", _MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ]
    stub = tff.framework.RemoteExecutorGrpcStub(grpc.insecure_channel(f"localhost:{port}", options))
    deadline = time.monotonic() + _START_SECONDS
    while not stub.is_ready:
        if worker.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(
                f"TFF's worker did not answer on port {port} within {_START_SECONDS} s (exit code "
                f"{worker.poll()}). Check that the machine has memory and a free port."
            )
        time.sleep(0.05)
    return stub


def _context(stub) -> tff.framework.AsyncExecutionContext:
    def stack(cardinalities):
        cardinalities.setdefault(tff.CLIENTS, 0)
        executor = tff.framework.RemoteExecutor(stub)
        executor.set_cardinalities(cardinalities)
        return executor

    return tff.framework.AsyncExecutionContext(
        executor_fn=tff.framework.ResourceManagingExecutorFactory(stack),
        compiler_fn=tff.backends.native.desugar_and_transform_to_native,
        transform_args=tensorflow_computation.transform_args,
        transform_result=tensorflow_computation.transform_result,
    )
