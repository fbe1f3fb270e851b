"""Number of bytes that a client receives and sends per round, as serialized by TFF."""

import functools
from collections.abc import Collection

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.architecture import Architecture
from fedsup_tf.frozen import is_frozen
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators.overlap_mean import Upload
from tff_programs.types import SubnetUpdate


def traffic_counter(
    supernet: Supernet,
    nested: bool = False,
    upload: Upload | None = None,
    frozen: Collection[str] = (),
):
    """Returns `count(architecture) -> (bytes down, bytes up)` for one client and round.

    Args:
      supernet: Supernet whose subnets are trained.
      nested: Whether messages also contain every subnet of a subnet, see `Supernet.slices`.
      upload: Encoding of uploads; by default updates are sent unchanged.
      frozen: Parts of the nets that are not sent back, as in `LocalTraining`.
    """
    upload = upload or Upload()

    @functools.cache
    def count(architecture: Architecture) -> tuple[int, int]:
        slices = supernet.slices(architecture, nested=nested)
        weights = tuple(np.zeros(part.size, np.float32) for part in slices.values())
        trained = tuple(
            np.zeros([0] * value.ndim, np.float32) if is_frozen(name, frozen) else value
            for name, value in zip(slices, weights, strict=True)
        )
        update = SubnetUpdate(trained, np.int32(0), np.int32(0), np.float32(0), np.float32(0))
        message = tf.nest.map_structure(np.asarray, upload.encode(update))
        return _serialized_bytes(weights), _serialized_bytes(message)

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
