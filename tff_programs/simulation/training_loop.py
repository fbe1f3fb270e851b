"""The training program: rounds, their metrics, evaluation, and state that survives a kill."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow_federated as tff

from fedsup_tf.divergence import guessing_loss, largest_sound_loss
from tff_programs.simulation.clients import ClientData
from tff_programs.simulation.round_plan import RoundPlan

# After this many unsound rounds, one after the other, a training has diverged.
_DIVERGED_ROUNDS = 5


class DivergedError(ValueError):
    """A training whose loss is not finite, or stays far above that of guessing."""


class RoundReport(NamedTuple):
    """Describes a round that was done.

    Attributes:
      number: Rounds done, from 1.
      plan: Who took part.
      metrics: Flat metrics by name, as released; without `loss` if no update was used.
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
    initial_weights: Mapping[str, np.ndarray] | None = None,
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
      initial_weights: Every tensor of the supernet by name, with which the first round begins, such
        as `InitialWeights.values`; by default those of the process.

    Returns:
      The accuracies after the last round.

    Raises:
      DivergedError: If in `_DIVERGED_ROUNDS` rounds, one after the other, or in the last round, all
        updates were left out because they were not finite, or the loss was above
        `largest_sound_loss`. What was saved before these rounds stays.
    """
    initial = await tff.program.materialize_value(process.initialize())
    iterator = source.iterator()
    saved, version = await state_manager.load_latest((initial, iterator))
    state = initial
    if saved is None and initial_weights is not None:
        given = tff.learning.models.ModelWeights(tuple(initial_weights.values()), ())
        state = await tff.program.materialize_value(process.set_model_weights(initial, given))
    if saved is not None:
        state, iterator = saved
        iterator.source = source
    done = 0 if version is None else version
    on_start(done)
    accuracies = None
    unsound_rounds = 0
    classes = source.assignment.space.classes

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
        used = int(trained.pop("clients", 0))
        flat = OrderedDict((name, float(value)) for name, value in trained.items())
        if not used:
            # The mean over no clients is no loss.
            flat.pop("loss", None)
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
        is_sound = flat["loss"] <= largest_sound_loss(classes) if used else not rejected
        unsound_rounds = 0 if is_sound else unsound_rounds + 1
        has_diverged = unsound_rounds == _DIVERGED_ROUNDS or (unsound_rounds and done == rounds)
        if is_sound and (done == rounds or done % evaluate_every == 0):
            accuracies = await evaluate_and_keep()
            flat.update((f"accuracy/{name}", value) for name, value in accuracies.items())
        await metrics_manager.release(flat, done)
        if is_sound:
            await state_manager.save((state, iterator), done)
        on_round(RoundReport(done, plan, flat, rejected))
        if has_diverged:
            raise DivergedError(_divergence(flat, unsound_rounds, classes))
    # Nothing was trained if the saved run had all its rounds.
    return await evaluate_and_keep() if accuracies is None else accuracies


def _divergence(metrics: Mapping[str, float], unsound_rounds: int, classes: int) -> str:
    rounds = "round" if unsound_rounds == 1 else f"{unsound_rounds} rounds"
    if "loss" in metrics:
        received = f"a loss far above it, {metrics['loss']:.1f} at last"
    else:
        received = "updates of which all were left out because they were not finite"
    return (
        "The training diverged: expected a loss below that of guessing, "
        f"{guessing_loss(classes):.2f}, in the last {rounds}, received {received}. "
        "What was saved before these rounds is kept. Start another run with a lower learning rate "
        "of the clients or the server."
    )
