"""Evaluation of a trained supernet's subnets, on the test part and on clients' own test data."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_federated as tff

from fedsup_tf.accuracy import build_accuracy
from tff_programs.blocking import run_blocking
from tff_programs.execution.contexts import local_execution
from tff_programs.learning.evaluation import build_federated_evaluation
from tff_programs.programs.checkpoint import TrainedSupernet
from tff_programs.simulation.clients import client_element
from tff_programs.simulation.tiers import Tier


class SubnetAccuracy(NamedTuple):
    """Accuracy of one subnet, shares from 0 to 1.

    Attributes:
      tier: The subnet and its name.
      central: On the test part, by the number of images normalized together.
      on_clients: On all clients' own test examples together.
    """

    tier: Tier
    central: Mapping[int, float]
    on_clients: float


async def evaluate_subnets_async(
    trained: TrainedSupernet,
    tiers: Sequence[Tier],
    batch_sizes: Sequence[int] = (32,),
    client_batch_size: int = 32,
) -> list[SubnetAccuracy]:
    """Evaluates subnets in worker processes of this machine.

    Args:
      trained: The supernet and its clients.
      tiers: The subnets.
      batch_sizes: Numbers of images normalized together, on the test part.
      client_batch_size: The same, on the clients.
    """
    supernet, data = trained.supernet, trained.data
    accuracy = build_accuracy(supernet, trained.preprocessing)
    federated = build_federated_evaluation(supernet.space, trained.preprocessing, client_batch_size)
    images, labels = data.dataset.test_images, data.dataset.test_labels
    evaluated = []
    with local_execution():
        for tier in tiers:
            central = {
                size: accuracy(trained.weights, tier.architecture, images, labels, size)
                for size in batch_sizes
            }
            client_data = [
                client_element(
                    supernet.space,
                    *data.test_examples(client),
                    tier.architecture,
                    client,
                    np.zeros(2),
                )
                for client in range(len(data))
            ]
            counts = await tff.program.materialize_value(
                federated(tuple(trained.weights.values()), client_data)
            )
            evaluated.append(SubnetAccuracy(tier, central, counts["correct"] / counts["examples"]))
    return evaluated


def evaluate_subnets(*arguments, **options) -> list[SubnetAccuracy]:
    """Calls `evaluate_subnets_async`, and waits until it is done."""
    return run_blocking(evaluate_subnets_async(*arguments, **options), "evaluate_subnets_async")
