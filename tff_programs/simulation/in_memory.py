"""Training kept only in memory, for notebooks: `training_loop.train` without a folder."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_federated as tff

from fedsup_tf.architecture import Architecture
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.supernet import Supernet
from tff_programs.blocking import run_blocking
from tff_programs.simulation.clients import ClientData
from tff_programs.simulation.round_plan import RoundReport
from tff_programs.simulation.training_loop import train


class Simulation(NamedTuple):
    """Result of a simulated training.

    Attributes:
      metrics: Each round's flat metrics by name, as `training_loop.train` releases them.
      accuracies: Accuracies of the last evaluation, by name.
      weights: The supernet's weights after the last round, by tensor name.
    """

    metrics: tuple[Mapping[str, float], ...]
    accuracies: Mapping[str, float]
    weights: dict[str, np.ndarray]


async def simulate_async(
    process: tff.learning.templates.LearningProcess,
    source: ClientData,
    rounds: int,
    *,
    count_bytes: Callable,
    evaluate: Callable[[Mapping[str, np.ndarray]], Mapping[str, float]],
    evaluate_every: int,
    on_round: Callable[[RoundReport], None] = lambda report: None,
    initial_weights: Mapping[str, np.ndarray] | None = None,
) -> Simulation:
    """Trains from the first round to the last in the current TFF context.

    Args:
      process: The federated training.
      source: Source of the clients' data.
      rounds: Number of rounds.
      count_bytes: Maps an architecture to the bytes that its client receives and sends.
      evaluate: Maps the supernet's weights by tensor name to accuracies by name.
      evaluate_every: Number of rounds between evaluations; the last round is always evaluated.
      on_round: Called after each round with its report.
      initial_weights: Initial value of every tensor of the supernet by name; by default those of
        the process.
    """
    names = tuple(Supernet(source.assignment.space).weight_shapes)
    released, latest = tff.program.MemoryReleaseManager(), {}

    def keep(done, weights):
        del done
        latest.update(zip(names, weights, strict=True))

    accuracies = await train(
        process,
        source,
        rounds,
        state_manager=_NoState(),
        metrics_manager=released,
        count_bytes=count_bytes,
        evaluate=lambda weights: evaluate(dict(zip(names, weights, strict=True))),
        evaluate_every=evaluate_every,
        on_start=lambda done: None,
        on_round=on_round,
        on_evaluated=keep,
        initial_weights=initial_weights,
    )
    return Simulation(tuple(released.values().values()), accuracies, latest)


def simulate(*arguments, **options) -> Simulation:
    """Calls `simulate_async` and waits for its result."""
    return run_blocking(simulate_async(*arguments, **options), "simulate_async")


def client_accuracies(
    accuracy: Callable,
    weights: Mapping[str, np.ndarray],
    data: FederatedDataset,
    architectures: Sequence[Architecture],
    batch_size: int | None = None,
) -> list[float]:
    """Computes the accuracy of each client's net on the client's own test images.

    Only a simulation can compute it; a real server learns only sums over clients (`evaluation`).

    Args:
      accuracy: Function made by `build_accuracy`, or, without a batch size, by
        `build_calibrated_accuracy`.
      weights: The supernet's weights by tensor name.
      data: The clients and their examples.
      architectures: The net of each client.
      batch_size: Number of images normalized together.

    Returns:
      Accuracies from 0 to 1; NaN for a client without test images.
    """
    batch = () if batch_size is None else (batch_size,)
    return [
        accuracy(weights, architecture, *data.test_examples(client), *batch)
        if data.test_sizes[client]
        else math.nan
        for client, architecture in enumerate(architectures)
    ]


class _NoState(tff.program.ProgramStateManager):
    """Saves nothing, so every training starts with its first round."""

    async def get_versions(self):
        return None

    async def load(self, version, structure):
        raise tff.program.ProgramStateNotFoundError(version)

    async def save(self, program_state, version):
        pass
