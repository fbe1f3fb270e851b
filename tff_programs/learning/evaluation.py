"""Federated evaluation on clients' own data; the server learns only sums of counts."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf import slicing
from fedsup_tf.accuracy import count_correct
from fedsup_tf.architecture import Architecture
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet
from tff_programs.blocking import run_blocking
from tff_programs.learning.distribution import select_subnets
from tff_programs.types import client_data_type, tensors_type

# Maximum size of the subnets that clients hold in a simulated round, to bound worker memory.
BYTES_OF_SUBNETS = 2**29


def build_federated_evaluation(
    space: SearchSpace, preprocessing: Preprocessing, batch_size: int
) -> tff.Computation:
    """Builds the computation that evaluates subnets on clients' own data.

    Its type signature, with W the tuple of the supernet's weights and D* as in `client_data_type`
    (each client names the subnet that it evaluates and receives only that one):

        (<weights=W@SERVER, client_data={D*}@CLIENTS> ->
         <correct=int32, examples=int32>@SERVER)

    Args:
      space: The supernet's search space.
      preprocessing: Normalization of the images.
      batch_size: Number of images normalized together.
    """
    supernet = Supernet(space)
    distribution = select_subnets(supernet)
    data_type = client_data_type(space)

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
            subnet.architecture,
        )
        return OrderedDict(correct=correct, examples=tf.shape(element["labels"])[0])

    @tff.federated_computation(
        tff.FederatedType(tensors_type(supernet.weight_shapes), tff.SERVER),
        tff.FederatedType(data_type, tff.CLIENTS),
    )
    def evaluate(weights, client_data):
        received = distribution.send(weights, client_data)
        return tff.federated_sum(tff.federated_map(count, (received, client_data)))

    return evaluate


def candidate_data_type(space: SearchSpace, candidates: int) -> tff.SequenceType:
    """Returns the type of a client's data for scoring candidates: a sequence of one element.

    Its fields are `architectures` (`SearchSpace.index` of each candidate, int32 `(candidates,)`),
    `images` (uint8 `(examples, height, width, channels)`) and `labels` (int32 `(examples,)`).
    """
    return tff.SequenceType(
        OrderedDict(
            architectures=tff.TensorType(np.int32, [candidates]),
            images=tff.TensorType(np.uint8, [None, *space.image_shape]),
            labels=tff.TensorType(np.int32, [None]),
        )
    )


def build_candidate_evaluation(
    space: SearchSpace, preprocessing: Preprocessing, batch_size: int, candidates: int
) -> tff.Computation:
    """Builds the computation that evaluates several subnets on every client's data in one round.

    Some clients' data are easier to classify than others', above all if each client holds only a
    few classes. Every client therefore evaluates every candidate, so the server, which learns only
    the sums over clients, compares candidates on the same images.

    Its type signature, with W the tuple of the supernet's weights, K the number of candidates and
    D* as in `candidate_data_type` (each client receives the K subnets that its data specify, one
    after another):

        (<weights=W@SERVER, client_data={D*}@CLIENTS> ->
         <correct=int32[K], examples=int32>@SERVER)

    Args:
      space: The supernet's search space.
      preprocessing: Normalization of the images.
      batch_size: Number of images normalized together.
      candidates: Number of subnets per round.
    """
    supernet = Supernet(space)
    shapes = supernet.elastic_shapes()
    weights_type = tensors_type(supernet.weight_shapes)
    data_type = candidate_data_type(space, candidates)

    # Server computation.

    @tff.tensorflow.computation(weights_type, np.int32)
    def cut(weights, index):
        slices = supernet.slices(supernet.code_at(index))
        subnet = slicing.take(supernet.named(weights), slices)
        # Serialized, since tensors must have the same shape in all elements of a sequence.
        return tuple(tf.io.serialize_tensor(subnet[name]) for name in shapes)

    # Client computations.

    @tff.tensorflow.computation(data_type)
    def keys(data):
        return data.get_single_element()["architectures"]

    @tff.tensorflow.computation(tff.SequenceType(cut.type_signature.result), data_type)
    def count(received, data):
        element = data.get_single_element()

        def candidate(number, correct):
            subnet = received.skip(tf.cast(number, tf.int64)).take(1).get_single_element()
            weights = {
                name: tf.ensure_shape(tf.io.parse_tensor(value, tf.float32), shape)
                for (name, shape), value in zip(shapes.items(), subnet, strict=True)
            }
            right = count_correct(
                supernet,
                weights,
                element["images"],
                element["labels"],
                batch_size,
                preprocessing,
                supernet.code_at(element["architectures"][number]),
            )
            return number + 1, tf.tensor_scatter_nd_update(correct, [[number]], [right])

        _, correct = tf.while_loop(
            lambda number, _: number < candidates,
            candidate,
            (0, tf.zeros([candidates], tf.int32)),
            parallel_iterations=1,
        )
        return OrderedDict(correct=correct, examples=tf.shape(element["labels"])[0])

    @tff.federated_computation(
        tff.FederatedType(weights_type, tff.SERVER), tff.FederatedType(data_type, tff.CLIENTS)
    )
    def evaluate(weights, client_data):
        size = tff.federated_value(space.size, tff.SERVER)
        wanted = tff.federated_map(keys, client_data)
        received = tff.federated_select(wanted, size, weights, cut)
        return tff.federated_sum(tff.federated_map(count, (received, client_data)))

    return evaluate


class Examples(NamedTuple):
    """Images and labels for a client's evaluation.

    Attributes:
      images: Images, uint8 `(examples, height, width, channels)`.
      labels: Labels, int32 `(examples,)`.
    """

    images: np.ndarray
    labels: np.ndarray


class CandidateEvaluation:
    """Scores architectures in rounds of `build_candidate_evaluation`."""

    def __init__(
        self,
        space: SearchSpace,
        preprocessing: Preprocessing,
        weights: Mapping[str, np.ndarray],
        batch_size: int,
        candidates_per_round: int,
    ):
        """Builds the computation; it runs in the TFF context that is current when it is called.

        Args:
          space: The supernet's search space.
          preprocessing: Normalization of the images.
          weights: The supernet's weights by tensor name.
          batch_size: Number of images normalized together.
          candidates_per_round: Number of subnets that each client receives per round.
        """
        self._space = space
        self._weights = tuple(weights[name] for name in Supernet(space).weight_shapes)
        self._candidates = candidates_per_round
        self._evaluate = build_candidate_evaluation(
            space, preprocessing, batch_size, candidates_per_round
        )
        size = candidates_per_round * sum(weight.nbytes for weight in self._weights)
        self._clients_at_once = max(1, BYTES_OF_SUBNETS // size)

    def accuracies(
        self, architectures: Sequence[Architecture], clients: Sequence[Examples]
    ) -> list[float]:
        """Calls `accuracies_async` and waits for its result."""
        return run_blocking(self.accuracies_async(architectures, clients), "accuracies_async")

    async def accuracies_async(
        self, architectures: Sequence[Architecture], clients: Sequence[Examples]
    ) -> list[float]:
        """Computes each architecture's accuracy, from 0 to 1, over the examples of all clients.

        Args:
          architectures: Subnets to score.
          clients: Examples of each client.

        Raises:
          ValueError: If the clients have no examples.
        """
        examples = sum(len(client.labels) for client in clients)
        if not examples:
            raise ValueError("Expected clients with examples to evaluate on, received none.")
        shares = []
        for begin in range(0, len(architectures), self._candidates):
            keys = [self._space.index(a) for a in architectures[begin : begin + self._candidates]]
            # The smallest subnet, index 0, fills the remaining places.
            filled = np.array(keys + [0] * (self._candidates - len(keys)), np.int32)
            correct = np.zeros(self._candidates, np.int64)
            # Sums over clients are additive, so a round may be computed in parts.
            for first in range(0, len(clients), self._clients_at_once):
                data = [
                    tf.data.Dataset.from_tensors(
                        OrderedDict(architectures=filled, images=images, labels=labels)
                    )
                    for images, labels in clients[first : first + self._clients_at_once]
                ]
                counts = await tff.program.materialize_value(self._evaluate(self._weights, data))
                correct += counts["correct"]
            shares += [int(count) / examples for count in correct[: len(keys)]]
        return shares


def halve_held_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """Chooses half of the held-out images for a search; the other half is for its report.

    A search overestimates the accuracy of its choice on the images that it used. Images are split,
    not clients, since clients of a partition may share test images. Each class is split separately,
    so that neither half lacks a client's classes.

    Args:
      labels: Labels of the test split, `(examples,)`.
      seed: Seed of the split.

    Returns:
      Bool `(examples,)`, True for the images of the search.
    """
    rng = np.random.default_rng([seed, len(labels)])
    is_for_search = np.zeros(len(labels), bool)
    for number, label in enumerate(np.unique(labels)):
        shuffled = rng.permutation(np.flatnonzero(labels == label))
        # The halves take turns in getting the extra image of a class.
        is_for_search[shuffled[number % 2 :: 2]] = True
    return is_for_search
