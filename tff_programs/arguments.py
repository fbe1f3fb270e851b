"""Arguments of federated computations on their way to workers; clients' data are made then."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff
import tree
from tensorflow_federated.python.core.environments.tensorflow_frontend import (
    tensorflow_computation,
)


class DeferredData:
    """A client's data that are made only when a worker is to have them.

    Attributes:
      make: Makes them, as a `tf.data.Dataset`.
      cost: What the client's round computes, relative to other clients.
    """

    def __init__(self, make: Callable[[], tf.data.Dataset], cost: float = 1.0):
        """Makes a client's data known."""
        self.make = make
        self.cost = cost


async def ingest(
    executor: tff.framework.RemoteExecutor,
    value: Any,
    value_type: tff.Type,
    clients: Sequence[int],
    shared: dict,
    path: tuple[int, ...],
):
    """Sends an argument with the data of some of its clients.

    Args:
      executor: Of the worker.
      value: The argument, or a part of it.
      value_type: Its TFF type.
      clients: Numbers of the clients.
      shared: What was sent to the executor before and is no client's, by its path.
      path: Where the part is in the argument, behind what names the executor.

    Returns:
      The argument, embedded in the executor.
    """
    if not _has_clients(value_type):
        if path not in shared:
            shared[path] = await executor.create_value(value, value_type)
        return shared[path]
    if isinstance(value_type, tff.FederatedType):
        data = [value[client] for client in clients]
        made = [one.make() if isinstance(one, DeferredData) else one for one in data]
        return await executor.create_value(made, value_type)
    parts = tff.structure.to_elements(tff.structure.from_container(value))
    elements = [
        (name, await ingest(executor, part, part_type, clients, shared, (*path, place)))
        for place, ((_, part), (name, part_type)) in enumerate(
            zip(parts, tff.structure.to_elements(value_type), strict=True)
        )
    ]
    return await executor.create_struct(tff.structure.Struct(elements))


def _has_clients(value_type: tff.Type) -> bool:
    if isinstance(value_type, tff.FederatedType):
        return value_type.placement is tff.CLIENTS and not value_type.all_equal
    if isinstance(value_type, tff.StructType):
        return any(_has_clients(part) for _, part in tff.structure.iter_elements(value_type))
    return False


def costs_of(value: Any, value_type: tff.Type) -> list[float] | None:
    """The clients' costs, if their data tell."""
    if isinstance(value_type, tff.StructType):
        parts = tff.structure.from_container(value)
        told = (costs_of(part, t) for part, t in zip(parts, value_type, strict=True))
        return next((costs for costs in told if costs), None)
    if _has_clients(value_type) and all(isinstance(data, DeferredData) for data in value):
        return [data.cost for data in value]
    return None


def to_numpy(arg: Any) -> Any:
    """TensorFlow's tensors in an argument as arrays, as TFF's contexts do it."""

    def convert(value):
        is_structure = isinstance(value, tff.structure.Struct)
        return tff.structure.to_odict_or_tuple(value) if is_structure else None

    def whole(value):
        return tensorflow_computation.transform_args(tree.traverse(convert, value))

    if isinstance(arg, tff.structure.Struct):
        elements = tff.structure.iter_elements(arg)
        return tff.structure.Struct([(name, whole(value)) for name, value in elements])
    return whole(arg)
