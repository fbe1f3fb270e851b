"""Sends arguments of federated computations to workers and makes clients' data on demand."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff
import tree
from tensorflow_federated.proto.v0 import executor_pb2
from tensorflow_federated.python.core.environments.tensorflow_frontend import (
    tensorflow_computation,
)
from tensorflow_federated.python.core.impl.executors.value_serialization import serialize_value
from tensorflow_federated.python.core.impl.types.type_serialization import serialize_type


class DeferredData:
    """Client data that are made only when they are sent to a worker.

    Attributes:
      make: Makes the data as a `tf.data.Dataset`.
      cost: Cost of the client's computation, relative to other clients.
    """

    def __init__(self, make: Callable[[], tf.data.Dataset], cost: float = 1.0):
        """Stores `make` without calling it."""
        self.make = make
        self.cost = cost


class Argument:
    """Argument of a computation, which each worker receives with some of the clients' data."""

    def __init__(self, value: Any, value_type: tff.Type):
        """Stores an argument and its type."""
        self._value, self._type = value, value_type
        # Serialized parts that belong to no client, by their path in the argument.
        self._serialized = {}

    async def ingest(
        self, executor: tff.framework.RemoteExecutor, clients: Sequence[int], shared: dict
    ):
        """Sends the argument to a worker.

        Args:
          executor: The worker's executor for this number of clients.
          clients: Numbers of the clients whose data to send.
          shared: Parts that belong to no client and were already sent to the executor, by their
            path; newly sent parts are added.

        Returns:
          The argument as a value of the executor.
        """
        return await self._ingest(executor, clients, shared, self._value, self._type, ())

    async def _ingest(self, executor, clients, shared, value, value_type, path):
        if not _has_clients(value_type):
            if path not in shared:
                if path not in self._serialized:
                    # Stored only once complete, since other workers' threads read it.
                    message = executor_pb2.Value()
                    _serialize(value, value_type, message)
                    self._serialized[path] = message
                shared[path] = await executor.create_value(self._serialized[path], value_type)
            return shared[path]
        if isinstance(value_type, tff.FederatedType):
            data = [value[client] for client in clients]
            made = [one.make() if isinstance(one, DeferredData) else one for one in data]
            return await executor.create_value(made, value_type)
        parts = tff.structure.to_elements(tff.structure.from_container(value))
        elements = []
        for place, ((_, part), (name, part_type)) in enumerate(
            zip(parts, tff.structure.to_elements(value_type), strict=True)
        ):
            sent = self._ingest(executor, clients, shared, part, part_type, (*path, place))
            elements.append((name, await sent))
        return await executor.create_struct(tff.structure.Struct(elements))

    @functools.cached_property
    def costs(self) -> list[float] | None:
        """Costs of the clients; None if their data are not `DeferredData`."""
        return _costs(self._value, self._type)


def _has_clients(value_type: tff.Type) -> bool:
    if isinstance(value_type, tff.FederatedType):
        return value_type.placement is tff.CLIENTS and not value_type.all_equal
    if isinstance(value_type, tff.StructType):
        return any(_has_clients(part) for _, part in tff.structure.iter_elements(value_type))
    return False


def _serialize(value, value_type, message):
    """Serializes a value into a TFF message.

    TFF's own function copies a tensor once for each structure that encloses it.
    """
    if isinstance(value_type, tff.StructType):
        parts = tff.structure.to_elements(tff.structure.from_container(value))
        message.struct.SetInParent()
        for (_, part), (name, part_type) in zip(
            parts, tff.structure.to_elements(value_type), strict=True
        ):
            element = message.struct.element.add(name=name or "")
            _serialize(part, part_type, element.value)
    elif isinstance(value_type, tff.FederatedType) and value_type.all_equal:
        message.federated.type.CopyFrom(serialize_type(value_type).federated)
        _serialize(value, value_type.member, message.federated.value.add())
    else:
        whole, _ = serialize_value(value, value_type)
        message.CopyFrom(whole)


def _costs(value, value_type):
    if isinstance(value_type, tff.StructType):
        parts = tff.structure.from_container(value)
        told = (_costs(part, t) for part, t in zip(parts, value_type, strict=True))
        return next((costs for costs in told if costs), None)
    if _has_clients(value_type) and all(isinstance(data, DeferredData) for data in value):
        return [data.cost for data in value]
    return None


def to_numpy(arg: Any) -> Any:
    """Converts the tensors in an argument to arrays, as TFF's contexts do."""

    def convert(value):
        is_structure = isinstance(value, tff.structure.Struct)
        return tff.structure.to_odict_or_tuple(value) if is_structure else None

    def whole(value):
        return tensorflow_computation.transform_args(tree.traverse(convert, value))

    if isinstance(arg, tff.structure.Struct):
        elements = tff.structure.iter_elements(arg)
        return tff.structure.Struct([(name, whole(value)) for name, value in elements])
    return whole(arg)
