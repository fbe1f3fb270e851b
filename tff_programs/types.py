"""Types of what travels between server and clients: data, weights, updates and their mean."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.space import SearchSpace


class SubnetUpdate(NamedTuple):
    """Update of a subnet by one client, for the server.

    Attributes:
      delta: Trained minus received weights, one tensor per tensor of the supernet, of the subnet's
        sizes; empty for a tensor of a frozen part.
      architecture: The subnet's `SearchSpace.index`, int32.
      client: The client's number, int32.
      examples: Number of its examples, float32.
      loss: Its mean training loss, float32.
    """

    delta: tuple
    architecture: tf.Tensor
    client: tf.Tensor
    examples: tf.Tensor
    loss: tf.Tensor


class MeanUpdate(NamedTuple):
    """Mean of all clients' updates.

    Attributes:
      delta: Mean update of every entry of the supernet, one tensor per tensor.
      covered: Whether any client trained the entry, bool, likewise.
    """

    delta: tuple
    covered: tuple


def client_data_type(space: SearchSpace) -> tff.SequenceType:
    """Returns the type of a client's data of a round: a sequence of one element.

    Its fields are `architecture` (the `SearchSpace.index` of the subnet it trains, int32), `client`
    (its number, int32), `seed` (int32 `(2,)`, of its shuffles), `images` (uint8 `(examples, height,
    width, channels)`) and `labels` (int32 `(examples,)`). One element, because iterating over a
    data set inside a worker is several times slower than slicing tensors.
    """
    return tff.SequenceType(
        OrderedDict(
            architecture=tff.TensorType(np.int32),
            client=tff.TensorType(np.int32),
            seed=tff.TensorType(np.int32, [2]),
            images=tff.TensorType(np.uint8, [None, *space.image_shape]),
            labels=tff.TensorType(np.int32, [None]),
        )
    )


def tensors_type(shapes: Mapping[str, Sequence[int | None]]) -> tff.Type:
    """Type of a tuple of float32 tensors of the given shapes; None is an unknown length."""
    return tff.to_type(tuple(tff.TensorType(np.float32, shape) for shape in shapes.values()))
