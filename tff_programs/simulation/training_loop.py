"""Training loop: rounds, their metrics, evaluation, and state that survives a killed process."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow_federated as tff

from fedsup_tf.divergence import guessing_loss, largest_sound_loss
from tff_programs.simulation.clients import ClientData
from tff_programs.simulation.round_plan import RoundReport

# Number of consecutive unsound rounds after which a training has diverged.
_DIVERGED_ROUNDS = 5


class DivergedError(ValueError):
    """Raised when a training's loss is not finite, or stays far above that of guessing."""


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
    """Trains up to `rounds` rounds, starting from the saved program state.

    Metrics are released before the state is saved: an interrupted round is repeated with the same
    clients, subnets and shuffles, and its metrics replace those released before.

    Args:
      process: The federated training.
      source: Source of the clients' data.
      rounds: Total number of rounds, including those before a resume.
      state_manager: Saves the state after each round.
      metrics_manager: Receives each round's flat metrics under the round's number.
      count_bytes: Maps an architecture to the bytes that its client receives and sends.
      evaluate: Maps weights to accuracies by name.
      evaluate_every: Number of rounds between evaluations; the last round is always evaluated.
      epsilon_after: Maps a number of rounds to their privacy cost, released as `epsilon`.
      on_start: Called with the number of rounds already done.
      on_round: Called after each round with its report.
      on_evaluated: Called after each evaluation with the number of rounds done and the weights.
      initial_weights: Initial value of every tensor of the supernet by name, such as
        `InitialWeights.values`; by default those of the process.

    Returns:
      The accuracies after the last round.

    Raises:
      DivergedError: If in `_DIVERGED_ROUNDS` consecutive rounds, or in the last round, all updates
        were left out because they were not finite, or the loss was above `largest_sound_loss`. The
        state saved before these rounds is kept.
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
        if iterator.round_number != version:
            raise ValueError(
                f"Expected the state of round {version} of the run, received that of round "
                f"{iterator.round_number} under its name. Give the file its own name back."
            )
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
            # A mean over no clients is not a loss.
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
    # No round was trained if the saved run had all its rounds.
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
