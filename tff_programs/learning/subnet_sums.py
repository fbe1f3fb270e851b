"""Sums over clients of values that a subnet computes on their images."""

from collections.abc import Callable

import tensorflow_federated as tff

from fedsup_tf.architecture import Architecture
from fedsup_tf.calibration import mean_square_shapes
from fedsup_tf.resizing import resize_in_graph
from fedsup_tf.supernet import Supernet
from tff_programs.learning.distribution import broadcast_subnet
from tff_programs.types import client_data_type, tensors_type


def build_subnet_sum(
    supernet: Supernet, architecture: Architecture, count: Callable, sent_type: tff.Type
) -> tff.Computation:
    """Builds the computation of the sum over clients of `count(weights, sent, element)`.

    Its type signature, with W the tuple of the supernet's weights, S the type of the other values
    sent, D* as in `types.client_data_type` and R the structure that `count` returns:

        (<weights=W@SERVER, sent=S@SERVER, client_data={D*}@CLIENTS> -> R@SERVER)

    Args:
      supernet: The supernet.
      architecture: Subnet whose weights `count` receives by name.
      count: Computes a client's term of the sum in a TensorFlow graph. The images in `element` have
        the subnet's resolution.
      sent_type: Type of the values that the server sends in addition to the weights.
    """
    distribution = broadcast_subnet(supernet, architecture)
    data_type = client_data_type(supernet.space)
    height, width, _ = supernet.space.image_shape_of(architecture)

    @tff.tensorflow.computation(distribution.received_type, sent_type, data_type)
    def on_client(received, sent, data):
        element = data.get_single_element()
        element = {**element, "images": resize_in_graph(element["images"], height, width)}
        return count(distribution.open(received, element).weights, sent, element)

    @tff.federated_computation(
        tff.FederatedType(tensors_type(supernet.weight_shapes), tff.SERVER),
        tff.FederatedType(sent_type, tff.SERVER),
        tff.FederatedType(data_type, tff.CLIENTS),
    )
    def sum_over_clients(weights, sent, client_data):
        received = distribution.send(weights, client_data)
        return tff.federated_sum(
            tff.federated_map(on_client, (received, tff.federated_broadcast(sent), client_data))
        )

    return sum_over_clients


def subnet_mean_square_shapes(
    supernet: Supernet, architecture: Architecture
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a subnet's mean squares by name."""
    slices = supernet.slices(architecture)
    return mean_square_shapes({name: part.size for name, part in slices.items()})
