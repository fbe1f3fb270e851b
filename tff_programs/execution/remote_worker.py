"""Connections to workers: their executors, their versions, and whether they still answer."""

import asyncio
import collections
import concurrent.futures
import subprocess
import threading
from collections.abc import Awaitable, Callable

import grpc
import tensorflow as tf
import tensorflow_federated as tff

from tff_programs.execution import worker_command, worker_stub

# Maximum number of executors of a worker, one for each number of clients per subround.
_EXECUTORS = 8
_CHECK_SECONDS = 120.0


class WorkerLostError(RuntimeError):
    """Raised when a worker no longer answers."""


class RemoteWorker:
    """Worker and the connection to it.

    Attributes:
      address: `host:port`, or `unix:path` of a process that this program started.
      capacity: Number of clients that the worker computes concurrently, known after `check`.
      identity: Text that is unique to the worker, known after `check`.
      process: The worker's process if this program started it, otherwise None.
    """

    def __init__(
        self,
        address: str,
        *,
        process: subprocess.Popen | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ):
        """Starts connecting, and keeps trying until `disconnect` is called.

        Args:
          address: Address of the worker.
          process: The worker's process if this program started it.
          credentials: TLS credentials; None for a channel without TLS.
        """
        self.address = address
        self.capacity = 1
        self.identity = ""
        self.process = process
        self._credentials = credentials
        self.connect()

    @property
    def name(self) -> str:
        """Name of the worker in messages, which can begin a sentence."""
        if self.process is not None:
            return f"TFF's worker process {self.process.pid}"
        return f"Worker {self.address}"

    def connect(self) -> None:
        """Starts connecting; `is_ready` reports when the worker is connected."""
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self.address, worker_stub.CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(
                self.address, self._credentials, worker_stub.CHANNEL_OPTIONS
            )
        self._stub = worker_stub.WorkerStub(self._channel)
        self._executors = collections.OrderedDict()
        self._making = threading.Lock()
        self._is_connected = True

    def disconnect(self) -> None:
        """Closes the connection; pending calls raise an error."""
        self._is_connected = False
        self._channel.close()

    @property
    def is_ready(self) -> bool:
        """True once the worker can be called."""
        return self._is_connected and self._stub.is_ready

    def answers(self, seconds: float) -> bool:
        """Returns whether the worker answers within `seconds`, even while it computes."""
        return self._stub.answers(seconds)

    def executor(self, clients: int) -> worker_stub.WorkerExecutor:
        """Returns the worker's executor for computations with `clients` clients."""
        # One thread sends other workers' accumulators while another sends clients.
        with self._making:
            if clients not in self._executors:
                # Values are freed one by one, since each is as large as the supernet.
                executor = worker_stub.WorkerExecutor(self._stub, dispose_batch_size=1)
                executor.set_cardinalities({tff.CLIENTS: clients})
                self._executors[clients] = (executor, {})
                if len(self._executors) > _EXECUTORS:
                    _, (oldest, computations) = self._executors.popitem(last=False)
                    computations.clear()
                    oldest.close()
            self._executors.move_to_end(clients)
            return self._executors[clients][0]

    async def call(self, clients: int, computation, argument=None):
        """Starts a compiled computation on values of the executor for `clients` clients.

        Returns:
          The result, a value that stays on the worker until its `compute()` is awaited.
        """
        executor = self.executor(clients)
        computations = self._executors[clients][1]
        if computation not in computations:
            computations[computation] = await executor.create_value(
                computation, computation.type_signature
            )
        return await executor.create_call(computations[computation], argument)

    def explain(self, error: Exception) -> Exception:
        """Returns a `WorkerLostError` if the worker is lost, otherwise the call's error."""
        if isinstance(error, tff.framework.RetryableError):
            lost = True
        elif isinstance(error, grpc.RpcError):
            lost = error.code() == grpc.StatusCode.CANCELLED or not self.answers(
                worker_stub.PROBE_SECONDS
            )
        else:
            lost = not self._is_connected
        if lost:
            return WorkerLostError(self._last_words(error))
        if isinstance(error, grpc.RpcError):
            return RuntimeError(f"{self.name}: a computation failed: {error.details()}")
        return error

    def _last_words(self, error) -> str:
        if self.process is not None:
            try:
                code = self.process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                code = None
            if code is not None:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                return f"its process ended with {how}" + (
                    ", as the system ends one for want of memory" if code == -9 else ""
                )
        if not self._is_connected:
            return f"no answer within {worker_stub.PROBE_SECONDS:.0f} s"
        details = error.details() if hasattr(error, "details") else str(error)
        return details.splitlines()[0] if details else "the connection broke"

    def check(self) -> None:
        """Checks that the worker has this program's version; reads its capacity and identity.

        Raises:
          RuntimeError: If it has another version, or is not a `fedsup worker`.
        """
        expected = worker_command.versions()
        try:
            future = start(self._read_command_line)
            described = worker_command.read_arguments(future.result(_CHECK_SECONDS))
        except (grpc.RpcError, tff.framework.RetryableError, TimeoutError) as error:
            raise RuntimeError(
                f"Worker {self.address}: expected a `fedsup worker`, received from what listens "
                f"there: {self._last_words(error)}. Start `fedsup worker --port=PORT` there."
            ) from error
        versions, self.identity, self.capacity = described
        if versions != expected:
            received = "a worker that `fedsup worker` did not start"
            if versions is not None:
                received = _versions_text(versions)
            raise RuntimeError(
                f"Worker {self.address}: expected {_versions_text(expected)} as here, received "
                f"{received}. Install the same version on both machines and start `fedsup worker` "
                "there."
            )

    async def _read_command_line(self) -> bytes:
        compiled = tff.backends.native.desugar_and_transform_to_native(_command_line())
        return await (await self.call(0, compiled)).compute()


def _versions_text(versions) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items())


def _command_line() -> tff.Computation:
    @tff.tensorflow.computation
    def command_line():
        # tf.io.read_file would read only as many bytes as the reported file size, which is 0 here.
        return tf.data.TextLineDataset("/proc/self/cmdline").take(1).get_single_element()

    return command_line


def start(make: Callable[[], Awaitable]) -> concurrent.futures.Future:
    """Runs a coroutine in its own daemon thread.

    TFF's executors block while they wait for a worker. Separate threads let several workers compute
    concurrently and keep the program interruptible, since it does not wait for them when it ends.
    """
    future = concurrent.futures.Future()
    future.set_running_or_notify_cancel()

    def run():
        try:
            result = asyncio.run(make())
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, daemon=True).start()
    return future
