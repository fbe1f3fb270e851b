"""Conversion of a federated dataset to TFF's `ClientData`, for TFF's own tools."""

from collections import OrderedDict

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.files.validation import check_choice

PARTS = ("train", "test")


def to_client_data(
    data: FederatedDataset, part: str = "train"
) -> tff.simulation.datasets.ClientData:
    """Converts the clients' training or test examples to a `ClientData`.

    `FederatedDataset.from_tff` is the inverse.

    Args:
      data: The clients and their examples.
      part: `"train"` or `"test"`.

    Returns:
      Clients by name, in the order of `data.client_names`. An element of a client's dataset has the
      fields `image` (uint8 `(height, width, channels)`) and `label` (int32).

    Raises:
      ValueError: If there is no such part.
    """
    check_choice(part, "part", PARTS)
    images = getattr(data.dataset, f"{part}_images")
    labels = getattr(data.dataset, f"{part}_labels")
    held = [getattr(client, part) for client in data.clients]
    # Concatenated indices of all clients, and the position at which each client's begin.
    indices = np.concatenate(held)
    begins = np.cumsum([0, *map(len, held)])
    names = list(data.client_names)

    def serializable_dataset_fn(client_id):
        # Computed in the graph: a client's name may be a tensor.
        number = tf.argmax(tf.equal(names, client_id), output_type=tf.int32)
        rows = tf.constant(indices)[tf.gather(begins, number) : tf.gather(begins, number + 1)]
        dataset = tf.data.Dataset.from_tensor_slices(rows)

        def example(row):
            return OrderedDict(image=tf.gather(images, row), label=tf.gather(labels, row))

        return dataset.map(example)

    return tff.simulation.datasets.ClientData.from_clients_and_tf_fn(names, serializable_dataset_fn)
