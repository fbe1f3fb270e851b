"""The training program: rounds, their metrics, evaluation, and state that survives a kill."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow_federated as tff

from tff_programs.simulation.clients import ClientData
from tff_programs.simulation.round_plan import RoundPlan


class RoundReport(NamedTuple):
    """What the program tells of a round.

    Attributes:
      number: Rounds done, from 1.
      plan: Who took part.
      metrics: Flat metrics by name, as released.
      rejected: Numbers of the clients whose updates were not finite.
    """

    number: int
    plan: RoundPlan
    metrics: Mapping[str, float]
    rejected: tuple[int, ...]


async def train(
    process: tff.learning.templates.LearningProcess,
    source: ClientData,
    rounds: int,
    *,
    state_manager: tff.program.ProgramStateManager,
    metrics_manager: tff.program.ReleaseManager,
    count_bytes: Callable,
    evaluate: Callable[[tuple[np.ndarray, ...]], Mapping[str, float]],
    evaluate_every: int,
    epsilon_after: Callable[[int], float] | None = None,
    on_start: Callable[[int], None],
    on_round: Callable[[RoundReport], None],
    on_evaluated: Callable[[int, tuple[np.ndarray, ...]], None],
) -> Mapping[str, float]:
    """Trains up to `rounds` rounds, from where the saved program state stands.

    Metrics are released before the state is saved: a round that a kill cuts off is made again, with
    the same clients, subnets and shuffles, and its metrics replace those released.

    Args:
      process: The federated training.
      source: The clients.
      rounds: Number of all rounds, those before a resume included.
      state_manager: Keeps the state after each round.
      metrics_manager: Takes each round's flat metrics under the round's number.
      count_bytes: From an architecture to the bytes that its client receives and sends.
      evaluate: From weights to accuracies by name.
      evaluate_every: Rounds from one evaluation to the next; the last round is always evaluated.
      epsilon_after: From a number of rounds to what they cost of privacy, released as `epsilon`.
      on_start: Called with the number of rounds already done.
      on_round: Called after each round with its report.
      on_evaluated: Called after each evaluation with the number of rounds done and the weights.

    Returns:
      The accuracies after the last round.
    """
    initial = await tff.program.materialize_value(process.initialize())
    iterator = source.iterator()
    saved, version = await state_manager.load_latest((initial, iterator))
    state = initial
    if saved is not None:
        state, iterator = saved
        iterator.source = source
    done = 0 if version is None else version
    on_start(done)
    accuracies = None

    async def evaluate_and_keep():
        weights = await tff.program.materialize_value(process.get_model_weights(state))
        weights = tuple(np.asarray(value) for value in weights.trainable)
        accuracies = evaluate(weights)
        on_evaluated(done, weights)
        return accuracies

    while done < rounds:
        start = time.monotonic()
        plan = iterator.plan()
        client_data = iterator.follow(plan)
        trained = OrderedDict()
        rejected = ()
        if plan.clients:
            output = process.next(state, client_data)
            state, metrics = await asyncio.gather(
                tff.program.materialize_value(output.state),
                tff.program.materialize_value(output.metrics),
            )
            trained = OrderedDict(metrics["client_work"]["train"])
            rejected = tuple(int(client) for client in trained.pop("rejected"))
        seconds = time.monotonic() - start
        done += 1
        traffic = [count_bytes(architecture) for architecture in plan.architectures]
        flat = OrderedDict(
            (name, float(value)) for name, value in trained.items() if name != "clients"
        )
        flat.update(
            asked=plan.asked,
            answered=len(plan.clients),
            rejected=len(rejected),
            seconds=seconds,
            simulated_seconds=plan.end_seconds,
            bytes_down_per_client=float(np.mean([down for down, _ in traffic] or [0])),
            bytes_up_per_client=float(np.mean([up for _, up in traffic] or [0])),
        )
        if epsilon_after is not None:
            flat["epsilon"] = epsilon_after(done)
        if done % evaluate_every == 0 or done == rounds:
            accuracies = await evaluate_and_keep()
            flat.update((f"accuracy/{name}", value) for name, value in accuracies.items())
        await metrics_manager.release(flat, done)
        await state_manager.save((state, iterator), done)
        on_round(RoundReport(done, plan, flat, rejected))
    # Nothing was trained if the saved run had all its rounds.
    return await evaluate_and_keep() if accuracies is None else accuracies
