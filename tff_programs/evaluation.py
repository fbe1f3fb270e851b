"""Federated evaluation: clients count on their own test data, the server learns the sums."""

from collections import OrderedDict

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.accuracy import count_correct
from fedsup_tf.preprocessing import Preprocessing
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet
from tff_programs.distribution import client_data_type, select_subnets


def build_federated_evaluation(
    space: SearchSpace, preprocessing: Preprocessing, batch_size: int
) -> tff.Computation:
    """Builds the evaluation of subnets on clients' own data.

    Its type signature, with W the tuple of the supernet's weights and D* as in `client_data_type`
    (each client names the subnet that it evaluates, and receives only that):

        (<weights=W@SERVER, client_data={D*}@CLIENTS> ->
         <correct=int32, examples=int32>@SERVER)

    Args:
      space: The supernet's search space.
      preprocessing: Normalization of the images.
      batch_size: Images normalized together.
    """
    supernet = Supernet(space)
    distribution = select_subnets(supernet)
    data_type = client_data_type(space)
    weights_type = tff.to_type(
        tuple(tff.TensorType(np.float32, shape) for shape in supernet.weight_shapes.values())
    )

    @tff.tensorflow.computation(distribution.received_type, data_type)
    def count(received, data):
        element = data.get_single_element()
        subnet = distribution.open(received, element)
        correct = count_correct(
            supernet,
            subnet.weights,
            element["images"],
            element["labels"],
            batch_size,
            preprocessing,
        )
        return OrderedDict(correct=correct, examples=tf.shape(element["labels"])[0])

    @tff.federated_computation(
        tff.FederatedType(weights_type, tff.SERVER), tff.FederatedType(data_type, tff.CLIENTS)
    )
    def evaluate(weights, client_data):
        received = distribution.send(weights, client_data)
        return tff.federated_sum(tff.federated_map(count, (received, client_data)))

    return evaluate
