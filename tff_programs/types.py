"""Types of client data, weights and updates, and of the mean update."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.space import SearchSpace


class SubnetUpdate(NamedTuple):
    """One client's update of its subnet.

    Attributes:
      delta: Trained minus received weights, one tensor per tensor of the supernet, with the
        subnet's shapes; empty for a tensor of a frozen part.
      architecture: `SearchSpace.index` of the subnet, int32.
      client: Number of the client, int32.
      examples: Number of the client's examples, float32.
      loss: The client's mean training loss, float32.
    """

    delta: tuple
    architecture: tf.Tensor
    client: tf.Tensor
    examples: tf.Tensor
    loss: tf.Tensor


class MeanUpdate(NamedTuple):
    """Mean of all clients' updates.

    Attributes:
      delta: Mean update of every entry of the supernet, one tensor per tensor of the supernet.
      covered: Whether at least one client trained each entry, bool tensors of the same shapes.
    """

    delta: tuple
    covered: tuple


def client_data_type(space: SearchSpace) -> tff.SequenceType:
    """Returns the type of a client's data for one round: a sequence of one element.

    The element's fields are `architecture` (`SearchSpace.index` of the client's subnet, int32),
    `client` (the client's number, int32), `seed` (seed of its training, int32 `(2,)`), `images`
    (uint8 `(examples, height, width, channels)`) and `labels` (int32 `(examples,)`). There is only
    one element because iterating over a dataset inside a worker is several times slower than
    slicing tensors.
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
    """Returns the type of a tuple of float32 tensors; None in a shape is an unknown length."""
    return tff.to_type(tuple(tff.TensorType(np.float32, shape) for shape in shapes.values()))
