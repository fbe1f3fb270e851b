"""Connections to workers: their executors, their versions, and whether they still answer."""

import asyncio
import collections
import concurrent.futures
import pathlib
import ssl
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import grpc
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import executor_pb2, executor_pb2_grpc
from tensorflow_federated.python.core.impl.executors import remote_executor

from tff_programs.execution import worker_command
from tff_programs.execution.forwarder import TlsFiles

_MESSAGE_BYTES = 2**31 - 1
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A channel that is not used for long stays connected.
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
    # Channels of one process to one address would share a connection, and its failure.
    ("grpc.use_local_subchannel_pool", 1),
)
# Number of executors that a worker keeps, one for each number of clients of a subround.
_EXECUTORS = 8
_TELL_AFTER_SECONDS = 2.0
_CHECK_SECONDS = 120.0
# A worker answers at once even while it computes on all cores.
PROBE_EVERY_SECONDS = 10.0
PROBE_SECONDS = 30.0


class WorkerLostError(RuntimeError):
    """A worker does not answer any more."""


class _Stub(tff.framework.RemoteExecutorGrpcStub):
    """TFF's stub, which frees values of a worker with a timeout and ignores if that fails.

    gRPC watches a channel's state in a thread, which may crash the process if it forks meanwhile,
    as it does to start a worker. TFF's stub watches the channel for as long as it exists, this one
    until it is ready.
    """

    def __init__(self, channel: grpc.Channel):
        self._channel = channel
        self._stub = executor_pb2_grpc.ExecutorGroupStub(channel)
        self._ready = grpc.channel_ready_future(channel)

    @property
    def is_ready(self):
        return self._ready.done()

    def dispose(self, request):
        self._free(self._stub.Dispose, request)

    def dispose_executor(self, request):
        self._free(self._stub.DisposeExecutor, request)

    def _free(self, call, request):
        try:
            call(request, timeout=PROBE_SECONDS)
        except (grpc.RpcError, ValueError):  # A closed channel raises a ValueError.
            pass

    def answers(self, seconds: float) -> bool:
        """Returns whether the worker answers a request within some seconds."""
        # No executor has this name: the worker answers with an error, which is an answer.
        request = executor_pb2.DisposeExecutorRequest(executor=executor_pb2.ExecutorId(id="none"))
        try:
            self._stub.DisposeExecutor(request, timeout=seconds)
        except grpc.RpcError as error:
            lost = (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.CANCELLED,
            )
            return error.code() not in lost
        except ValueError:
            return False
        return True


class _Executor(tff.framework.RemoteExecutor):
    """TFF's remote executor, which also takes and returns serialized values."""

    async def create_value(self, value, type_spec=None):
        """Sends a value, which may be a serialized one; returns it as a value of the executor."""
        if not isinstance(value, executor_pb2.Value):
            return await super().create_value(value, type_spec)
        request = executor_pb2.CreateValueRequest(executor=self._executor_id, value=value)
        response = self._stub.create_value(request)
        return remote_executor.RemoteValue(response.value_ref, type_spec, self)

    async def fetch(self, value) -> executor_pb2.Value:
        """Waits for a value of the executor; returns it serialized."""
        request = executor_pb2.ComputeRequest(executor=self._executor_id, value_ref=value.reference)
        return self._stub.compute(request).value


class RemoteWorker:
    """A worker and the connection to it.

    Attributes:
      address: `host:port`, or `unix:path` of a process that this program started.
      capacity: Clients that it computes at once.
      identity: A text that no two workers share, known after `check`.
      process: The worker's process if this program started it, else None.
    """

    def __init__(
        self,
        address: str,
        *,
        process: subprocess.Popen | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ):
        """Starts to connect, and goes on trying until `disconnect`.

        Args:
          address: Where the worker is.
          process: The worker's process if this program started it.
          credentials: What to show and to expect; None for a channel without TLS.
        """
        self.address = address
        self.capacity = 1
        self.identity = ""
        self.process = process
        self._credentials = credentials
        self.connect()

    @property
    def name(self) -> str:
        """The worker's name for the user, which can begin a sentence."""
        if self.process is not None:
            return f"TFF's worker process {self.process.pid}"
        return f"Worker {self.address}"

    def connect(self) -> None:
        """Starts to connect; `is_ready` says when it is connected."""
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self.address, _CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(self.address, self._credentials, _CHANNEL_OPTIONS)
        self._stub = _Stub(self._channel)
        self._executors = collections.OrderedDict()
        self._making = threading.Lock()
        self._is_connected = True

    def disconnect(self) -> None:
        """Closes the connection: calls that wait for an answer raise an error."""
        self._is_connected = False
        self._channel.close()

    @property
    def is_ready(self) -> bool:
        """Returns whether the worker can be called."""
        return self._is_connected and self._stub.is_ready

    def answers(self, seconds: float) -> bool:
        """Returns whether the worker answers within some seconds, also while it computes."""
        return self._stub.answers(seconds)

    def executor(self, clients: int) -> _Executor:
        """Returns the worker's executor for computations with that number of clients."""
        # One thread sends other workers' accumulators while another sends clients.
        with self._making:
            if clients not in self._executors:
                # Values are freed one by one, since each is as large as the supernet.
                executor = _Executor(self._stub, dispose_batch_size=1)
                executor.set_cardinalities({tff.CLIENTS: clients})
                self._executors[clients] = (executor, {})
                if len(self._executors) > _EXECUTORS:
                    _, (oldest, computations) = self._executors.popitem(last=False)
                    computations.clear()
                    oldest.close()
            self._executors.move_to_end(clients)
            return self._executors[clients][0]

    async def call(self, clients: int, computation, argument=None):
        """Starts a compiled computation on values of the executor for `clients`.

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
        """Returns a `WorkerLostError` if a call failed with its worker, else the call's error."""
        if isinstance(error, tff.framework.RetryableError):
            lost = True
        elif isinstance(error, grpc.RpcError):
            lost = error.code() == grpc.StatusCode.CANCELLED or not self.answers(PROBE_SECONDS)
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
            return f"no answer within {PROBE_SECONDS:.0f} s"
        details = error.details() if hasattr(error, "details") else str(error)
        return details.splitlines()[0] if details else "the connection broke"

    def check(self) -> None:
        """Checks that the worker is one of this program's version; learns capacity and identity.

        Raises:
          RuntimeError: If it is something else.
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
        # Not tf.io.read_file, which reads as many bytes as the system says a file has: here 0.
        return tf.data.TextLineDataset("/proc/self/cmdline").take(1).get_single_element()

    return command_line


def start(make: Callable[[], Awaitable]) -> concurrent.futures.Future:
    """Runs a coroutine in a thread of its own, for which the program does not wait when it ends.

    TFF's executors block while they wait for a worker, so that work on several workers, and a
    program that can be interrupted, need a thread for each.
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


def connect(
    addresses: Sequence[str],
    deadline_seconds: float,
    on_message: Callable[[str], None],
    tls: TlsFiles | None = None,
) -> list[RemoteWorker]:
    """Connects to workers, waits for those that are not up yet, and checks their versions.

    Args:
      addresses: `host:port` of each.
      deadline_seconds: Seconds to wait for them all.
      on_message: Called with a line of text if the workers are not up at once.
      tls: Files for mutual TLS if the workers ask for a certificate.

    Raises:
      ValueError: If an address is not valid, two lead to the same worker, or a file cannot be used.
      RuntimeError: If a worker is not up in time or not of this version.
    """
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"Expected workers as host:port, received {address!r}.")
    if len(set(addresses)) != len(addresses):
        raise ValueError(f"Expected each worker once, received {', '.join(addresses)}.")
    credentials = None if tls is None else _credentials(tls)
    workers = [RemoteWorker(address, credentials=credentials) for address in addresses]
    try:
        _wait(workers, deadline_seconds, on_message)
        by_identity = {}
        for worker in workers:
            worker.check()
            first = by_identity.setdefault(worker.identity, worker)
            if first is not worker:
                raise ValueError(
                    f"Expected each worker once, received one under two names: {first.address} "
                    f"and {worker.address}. Leave one of them out of --workers."
                )
    except BaseException:
        for worker in workers:
            worker.disconnect()
        raise
    return workers


def _credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Reads the files, after a check that they can be used."""
    tls.context(ssl.Purpose.SERVER_AUTH)
    certificate, key, authority = (pathlib.Path(path).read_bytes() for path in tls)
    return grpc.ssl_channel_credentials(authority, key, certificate)


def _wait(workers, deadline_seconds, on_message):
    begin = time.monotonic()
    is_said = False
    while missing := [worker.address for worker in workers if not worker.is_ready]:
        seconds = time.monotonic() - begin
        if seconds > deadline_seconds:
            raise RuntimeError(
                f"Expected workers at {', '.join(missing)}, received no answer within "
                f"{deadline_seconds:.0f} s. Start `fedsup worker --port=PORT` there, check names, "
                "ports, firewalls and, with --tls_certificate on one side, that both sides have "
                "certificates of one authority and that a worker's is for the name in --workers; "
                "or wait longer with --workers_deadline."
            )
        if seconds > _TELL_AFTER_SECONDS and not is_said:
            on_message(
                f"Waiting up to {deadline_seconds:.0f} s for workers at {', '.join(missing)}."
            )
            is_said = True
        time.sleep(0.05)
