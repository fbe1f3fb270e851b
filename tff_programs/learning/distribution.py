"""Distribution of the server's weights: to each client its own subnet, or one net to all."""

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
    """Subnet that a client received.

    Attributes:
      weights: The subnet's weights by tensor name.
      architecture: Which subnet it is.
      index: Its `SearchSpace.index`, int32.
    """

    weights: dict[str, tf.Tensor]
    architecture: AnyArchitecture
    index: tf.Tensor


class Distribution(NamedTuple):
    """A way from server to clients.

    Attributes:
      shapes: What is known of the shapes of the tensors sent, by name.
      received_type: TFF type of what a client receives.
      send: In a federated computation: weights at the server and client data at the clients ->
        what each client receives.
      open: In a client computation: what was received and the client's element of data ->
        `Received`.
    """

    shapes: dict[str, tuple[int | None, ...]]
    received_type: tff.Type
    send: Callable
    open: Callable[..., Received]


def select_subnets(supernet: Supernet, nested: bool = False) -> Distribution:
    """Sends each client only the slices of the subnet that its data names (E-FedSup).

    With `nested`, what is sent holds that subnet's own subnets (see `Supernet.slices`).
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
    """Sends all clients the one subnet: FedSup if it is the largest, else FedAvg of that net."""
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
