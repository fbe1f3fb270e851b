"""Federated computation of the mean and standard deviation of each channel of clients' images."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.data.channel_statistics import ChannelSums, mean_and_deviation
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.space import SearchSpace
from tff_programs.blocking import run_blocking
from tff_programs.types import client_data_type


def build_channel_sums(space: SearchSpace) -> tff.Computation:
    """Builds the computation of the sums that input normalization needs.

    Its type signature, with D* as in `types.client_data_type` and C the number of channels:

        ({D*}@CLIENTS -> <pixels=int64, totals=int64[C], squares=int64[C]>@SERVER)

    The server learns only sums over all clients. They are integers, so a secure sum can replace the
    plain one.

    Args:
      space: Search space that defines the shape of the clients' images.
    """
    data_type = client_data_type(space)

    @tff.tensorflow.computation(data_type)
    def count(data):
        # Client computation.
        images = tf.cast(data.get_single_element()["images"], tf.int64)
        return OrderedDict(
            pixels=tf.size(images[..., 0], tf.int64),
            totals=tf.reduce_sum(images, [0, 1, 2]),
            squares=tf.reduce_sum(images * images, [0, 1, 2]),
        )

    @tff.federated_computation(tff.FederatedType(data_type, tff.CLIENTS))
    def sum_channels(client_data):
        return tff.federated_sum(tff.federated_map(count, client_data))

    return sum_channels


async def federated_preprocessing_async(
    space: SearchSpace,
    client_data: Sequence[tf.data.Dataset],
    greatest_pixel: int | None = None,
) -> Preprocessing:
    """Computes the normalization of clients' images in the current TFF context.

    Args:
      space: Search space that defines the shape of the clients' images.
      client_data: One dataset per client, as `clients.client_element` makes it.
      greatest_pixel: Maximum value that a pixel may have; None if unknown.

    Returns:
      The same preprocessing that `FederatedDataset.from_arrays` gives these clients.

    Raises:
      ValueError: If no client has images.
    """
    sums = await tff.program.materialize_value(build_channel_sums(space)(client_data))
    total = ChannelSums(*(np.asarray(sums[field]) for field in ChannelSums._fields))
    return Preprocessing(*mean_and_deviation([total]), greatest_pixel=greatest_pixel)


def federated_preprocessing(*arguments, **options) -> Preprocessing:
    """Calls `federated_preprocessing_async` and waits for its result."""
    return run_blocking(
        federated_preprocessing_async(*arguments, **options), "federated_preprocessing_async"
    )
