"""Distribution of the server's weights: a subnet for each client, or one net for all clients."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf import slicing
from fedsup_tf.architecture import Architecture
from fedsup_tf.sliced_net import AnyArchitecture
from fedsup_tf.supernet import Supernet
from tff_programs.types import client_data_type, tensors_type


class Received(NamedTuple):
    """Subnet received by a client.

    Attributes:
      weights: The subnet's weights by tensor name.
      architecture: Architecture of the subnet.
      index: `SearchSpace.index` of the subnet, int32.
    """

    weights: dict[str, tf.Tensor]
    architecture: AnyArchitecture
    index: tf.Tensor


class Distribution(NamedTuple):
    """Computations that send weights from the server to the clients.

    Attributes:
      shapes: Shapes of the tensors sent, by name; None is an unknown length.
      received_type: TFF type of what a client receives.
      send: Maps weights at the server and client data at the clients to what each client receives;
        used in a federated computation.
      open: Maps what a client received and its data element to `Received`; used in a client
        computation.
    """

    shapes: dict[str, tuple[int | None, ...]]
    received_type: tff.Type
    send: Callable
    open: Callable[..., Received]


def select_subnets(supernet: Supernet, nested: bool = False) -> Distribution:
    """Returns a distribution that sends each client only its subnet's slices (E-FedSup).

    The subnet is the one that the client's data specify. With `nested`, the slices also contain
    every subnet of that subnet (see `Supernet.slices`).
    """
    shapes = supernet.elastic_shapes(nested)
    sent_type = tensors_type(shapes)

    @tff.tensorflow.computation(tensors_type(supernet.weight_shapes), np.int32)
    def cut(weights, index):
        slices = supernet.slices(supernet.code_at(index), nested=nested)
        subnet = slicing.take(supernet.named(weights), slices)
        return tuple(tf.ensure_shape(subnet[name], shape) for name, shape in shapes.items())

    @tff.tensorflow.computation(client_data_type(supernet.space))
    def key(data):
        return tf.expand_dims(data.get_single_element()["architecture"], 0)

    def send(weights, client_data):
        size = tff.federated_value(supernet.space.size, tff.SERVER)
        return tff.federated_select(tff.federated_map(key, client_data), size, weights, cut)

    def open_selected(received, element):
        values = zip(shapes.items(), received.get_single_element(), strict=True)
        weights = {name: tf.ensure_shape(value, shape) for (name, shape), value in values}
        index = element["architecture"]
        return Received(weights, supernet.code_at(index), index)

    return Distribution(shapes, tff.SequenceType(sent_type), send, open_selected)


def broadcast_subnet(
    supernet: Supernet, architecture: Architecture, nested: bool = False
) -> Distribution:
    """Returns a distribution that sends one subnet to all clients.

    This is FedSup if the subnet is the largest one, otherwise FedAvg of that net.
    """
    slices = supernet.slices(architecture, nested=nested)
    shapes = {name: part.size for name, part in slices.items()}

    @tff.tensorflow.computation(tensors_type(supernet.weight_shapes))
    def cut(weights):
        return tuple(slicing.take(supernet.named(weights), slices).values())

    def send(weights, client_data):
        del client_data
        return tff.federated_broadcast(tff.federated_map(cut, weights))

    def open_broadcast(received, element):
        del element
        weights = supernet.named(received)
        return Received(weights, architecture, tf.constant(supernet.space.index(architecture)))

    return Distribution(shapes, tensors_type(shapes), send, open_broadcast)
