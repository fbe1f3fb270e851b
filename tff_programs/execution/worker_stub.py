"""TFF's gRPC stub and executor of a worker, which end calls that a worker does not answer."""

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
    # A channel that is not used for long stays connected.
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
    # Channels of one process to one address would share a connection, and its failure.
    ("grpc.use_local_subchannel_pool", 1),
)
# A worker answers at once even while it computes on all cores.
PROBE_EVERY_SECONDS = 10.0
PROBE_SECONDS = 30.0


class WorkerStub(tff.framework.RemoteExecutorGrpcStub):
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
    def is_ready(self) -> bool:
        """True once the worker can be called."""
        return self._ready.done()

    def dispose(self, request):
        """Frees values of the worker."""
        self._free(self._stub.Dispose, request)

    def dispose_executor(self, request):
        """Frees an executor of the worker."""
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


class WorkerExecutor(tff.framework.RemoteExecutor):
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
