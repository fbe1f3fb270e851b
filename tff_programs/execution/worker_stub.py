"""TFF's gRPC stub and remote executor, extended with timeouts and serialized values."""

import grpc
import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import executor_pb2, executor_pb2_grpc
from tensorflow_federated.python.core.impl.executors import remote_executor

_MESSAGE_BYTES = 2**31 - 1
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Keep idle channels connected.
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
    # Otherwise, channels of a process to the same address share a connection and its failure.
    ("grpc.use_local_subchannel_pool", 1),
)
# A worker answers immediately, even while it computes on all cores.
PROBE_EVERY_SECONDS = 10.0
PROBE_SECONDS = 30.0


class WorkerStub(tff.framework.RemoteExecutorGrpcStub):
    """TFF's stub, but frees a worker's values with a timeout and ignores failures to do so.

    gRPC watches a channel's state in a thread, which may crash the process if it forks at the same
    time, as it does to start a worker. TFF's stub watches the channel for its whole lifetime, this
    one only until the channel is ready.
    """

    def __init__(self, channel: grpc.Channel):
        self._channel = channel
        self._stub = executor_pb2_grpc.ExecutorGroupStub(channel)
        self._ready = grpc.channel_ready_future(channel)

    @property
    def is_ready(self) -> bool:
        """True once the worker can be called."""
        return self._ready.done()

    def dispose(self, request):
        """Frees values on the worker."""
        self._free(self._stub.Dispose, request)

    def dispose_executor(self, request):
        """Frees an executor on the worker."""
        self._free(self._stub.DisposeExecutor, request)

    def _free(self, call, request):
        try:
            call(request, timeout=PROBE_SECONDS)
        except (grpc.RpcError, ValueError):  # A closed channel raises a ValueError.
            pass

    def answers(self, seconds: float) -> bool:
        """Returns whether the worker answers a request within `seconds`."""
        # No executor has this name, so the worker answers with an error, which is also an answer.
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


class WorkerExecutor(tff.framework.RemoteExecutor):
    """TFF's remote executor, which also takes and returns serialized values."""

    async def create_value(self, value, type_spec=None):
        """Sends a value, which may be serialized, and returns it as a value of the executor."""
        if not isinstance(value, executor_pb2.Value):
            return await super().create_value(value, type_spec)
        request = executor_pb2.CreateValueRequest(executor=self._executor_id, value=value)
        response = self._stub.create_value(request)
        return remote_executor.RemoteValue(response.value_ref, type_spec, self)

    async def fetch(self, value) -> executor_pb2.Value:
        """Waits for a value of the executor and returns it serialized."""
        request = executor_pb2.ComputeRequest(executor=self._executor_id, value_ref=value.reference)
        return self._stub.compute(request).value
