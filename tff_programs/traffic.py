"""Bytes that a client receives and sends in a round, as TFF serializes them."""

import functools

import numpy as np
import tensorflow_federated as tff

from fedsup_tf.architecture import Architecture
from fedsup_tf.supernet import Supernet
from tff_programs.aggregation import SubnetUpdate


def traffic_counter(supernet: Supernet, with_subnets: bool = False):
    """Returns `count(architecture) -> (bytes down, bytes up)` of one client."""

    @functools.cache
    def count(architecture: Architecture) -> tuple[int, int]:
        slices = supernet.slices(architecture, with_subnets=with_subnets)
        weights = tuple(np.zeros(part.size, np.float32) for part in slices.values())
        update = SubnetUpdate(weights, np.int32(0), np.int32(0), np.float32(0), np.float32(0))
        return _serialized_bytes(weights), _serialized_bytes(update)

    return count


def _serialized_bytes(value) -> int:
    def type_of(part):
        if isinstance(part, np.ndarray | np.generic):
            return tff.TensorType(part.dtype, part.shape)
        return (
            type(part)(*map(type_of, part))
            if hasattr(part, "_fields")
            else tuple(map(type_of, part))
        )

    message, _ = tff.framework.serialize_value(value, tff.to_type(type_of(value)))
    return message.ByteSize()
