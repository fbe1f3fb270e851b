"""Evaluates a trained supernet's subnets, on the test part and on clients' own test examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_federated as tff

from fedsup_tf.accuracy import build_accuracy
from fedsup_tf.calibrated_accuracy import build_calibrated_accuracy
from fedsup_tf.logistic_regression import CHOSEN, is_held_out
from tff_programs.blocking import run_blocking
from tff_programs.execution.contexts import local_execution
from tff_programs.learning.evaluation import build_federated_evaluation
from tff_programs.programs.calibration_files import (
    calibration_examples,
    default_images,
    is_private,
)
from tff_programs.programs.checkpoint import TrainedSupernet
from tff_programs.simulation.clients import client_element
from tff_programs.simulation.tiers import Tier


class SubnetAccuracy(NamedTuple):
    """Accuracies of one subnet, from 0 to 1.

    Attributes:
      tier: The subnet and its name.
      central: Accuracy on the test part, by the number of images normalized together.
      calibrated: Accuracy on the test part as deployed: calibrated, with each image normalized
        independently.
      on_clients: Accuracy on the test examples of all clients together.
      by_client: Accuracy on each client's own test examples, for clients that have any, as
        deployed.
    """

    tier: Tier
    central: Mapping[int, float]
    calibrated: float
    on_clients: float
    by_client: tuple[float, ...]


async def evaluate_subnets_async(
    trained: TrainedSupernet,
    tiers: Sequence[Tier],
    batch_sizes: Sequence[int] = (32,),
    client_batch_size: int = 32,
    *,
    images_per_client: int | None = None,
    classifier_penalty: float | str | None = CHOSEN,
) -> list[SubnetAccuracy]:
    """Evaluates subnets in worker processes on this machine.

    Args:
      trained: The supernet and its clients.
      tiers: The subnets.
      batch_sizes: Numbers of images normalized together on the test part.
      client_batch_size: Number of images normalized together on the clients.
      images_per_client: Maximum number of images that each client calibrates on; `default_images`
        by default.
      classifier_penalty: Penalty of the classifiers fitted by the calibration, as in
        `calibrate_federated_async`; None keeps the trained classifiers.
    """
    supernet, data = trained.supernet, trained.data
    accuracy = build_accuracy(supernet, trained.preprocessing)
    federated = build_federated_evaluation(supernet.space, trained.preprocessing, client_batch_size)
    deployed = calibrated_accuracy(trained, images_per_client, classifier_penalty)
    images, labels = data.dataset.test_images, data.dataset.test_labels
    tested = [client for client, size in enumerate(data.test_sizes) if size]
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
            by_client = [
                deployed(trained.weights, tier.architecture, *data.test_examples(client))
                for client in tested
            ]
            evaluated.append(
                SubnetAccuracy(
                    tier,
                    central,
                    deployed(trained.weights, tier.architecture, images, labels),
                    counts["correct"] / counts["examples"],
                    tuple(by_client),
                )
            )
    return evaluated


def calibrated_accuracy(
    trained: TrainedSupernet,
    images_per_client: int | None = None,
    classifier_penalty: float | str | None = CHOSEN,
    clients: Sequence[int] | None = None,
) -> Callable:
    """Builds a function that computes the accuracy of any subnet as it is deployed.

    Args:
      trained: The supernet and its clients.
      images_per_client: Maximum number of images that each client calibrates on; `default_images`
        by default.
      classifier_penalty: Penalty of the classifiers fitted by the calibration, as in
        `build_calibrated_accuracy`. Like `calibrate_tiers`, it keeps those of a private training.
      clients: Numbers of the clients that calibrate; all by default.

    Returns:
      The function that `build_calibrated_accuracy` describes. It calibrates on the same images as
      `calibrate_tiers`.
    """
    if images_per_client is None:
        images_per_client = default_images(len(trained.data))
    if is_private(trained):
        classifier_penalty = None
    of_clients = [
        calibration_examples(trained, client, images_per_client)
        for client in (range(len(trained.data)) if clients is None else clients)
    ]
    images, labels = (np.concatenate(part) for part in zip(*of_clients, strict=True))
    held_out = np.concatenate([is_held_out(np.arange(len(own))).numpy() for _, own in of_clients])
    # Shuffled, so that the first batches' mean squares do not cover only a few classes.
    order = np.random.default_rng(0).permutation(len(labels))
    return build_calibrated_accuracy(
        trained.supernet,
        trained.preprocessing,
        images[order],
        labels[order],
        classifier_penalty,
        held_out[order],
    )


def evaluate_subnets(*arguments, **options) -> list[SubnetAccuracy]:
    """Runs `evaluate_subnets_async` to completion."""
    return run_blocking(evaluate_subnets_async(*arguments, **options), "evaluate_subnets_async")
