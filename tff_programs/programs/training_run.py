"""A training kept in a folder: resumes after a kill; writes the supernet, metrics and curves."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_federated as tff

from fedsup_tf.accuracy import build_accuracy, random_subnet_accuracies
from fedsup_tf.architecture import Architecture
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.initial_weights import InitialWeights
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators.privacy import PrivacyAccount
from tff_programs.blocking import run_blocking
from tff_programs.programs.training_information import training_information
from tff_programs.reports import report
from tff_programs.simulation import run_metrics
from tff_programs.simulation.clients import ClientData
from tff_programs.simulation.round_plan import RANDOM_STREAMS, Assignment, RoundReport
from tff_programs.simulation.run_folder import hold_run, keep_settings
from tff_programs.simulation.run_state import RunStateManager
from tff_programs.simulation.tiers import tier_accuracies
from tff_programs.simulation.training_loop import train


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A federated training with its data, its assignment of clients and its settings.

    Attributes:
      name: Name of the run in reports, such as the algorithm.
      process: The federated training process, as returned by `build_fedsup_process`.
      data: The clients and their examples.
      assignment: Plan of which clients train which subnets in each round.
      rounds: Total number of rounds, including those before a resume.
      count_bytes: Function from an architecture to the bytes that its client receives and sends.
      settings: JSON values that must not change when the run is continued; the search space is
        added. Later programs look up the data (`DataSettings`) and the clients' hyper-parameters
        (`LocalTraining`) here by field name.
      architecture: The one net that all clients train; None if each trains its own.
      privacy: Privacy account of a private training; None otherwise.
      epochs: Number of local epochs, for the progress lines.
      evaluate_every: Number of rounds from one evaluation to the next.
      test_batch_size: Number of images normalized together in an evaluation.
      random_subnets: Number of random subnets in an evaluation, which reports the 10th percentile
        of their accuracies; 0 for none.
      initial: Initial weights taken from another supernet; None to use those of `process`.
    """

    name: str
    process: tff.learning.templates.LearningProcess
    data: FederatedDataset
    assignment: Assignment
    rounds: int
    count_bytes: Callable[[Architecture], tuple[int, int]]
    settings: Mapping[str, Any]
    architecture: Architecture | None = None
    privacy: PrivacyAccount | None = None
    epochs: int = 1
    evaluate_every: int = 10
    test_batch_size: int = 50
    random_subnets: int = 0
    initial: InitialWeights | None = None

    @property
    def title(self) -> str:
        """Name, search space and data set of the run."""
        return f"{self.name}, {self.assignment.space.name}, {self.data.name}"


async def train_run_async(
    run: TrainingRun, folder: str, on_progress: Callable[[str], None] = lambda line: None
) -> Mapping[str, float]:
    """Trains a run in the current TFF context, from the last round that the folder holds.

    Args:
      run: The run to train.
      folder: Folder of the run; an existing run is continued.
      on_progress: Called with a line of text after each step of progress.

    Returns:
      The accuracies of the last evaluation, by tier.

    Raises:
      ValueError: If the folder belongs to another run, or another program is using it.
    """
    with hold_run(folder):
        paths = report.run_paths(folder)
        settings = run_settings(run)
        state_manager = RunStateManager(paths["state"], on_progress)
        has_state = bool(await state_manager.get_versions())
        keep_settings(paths["settings"], settings, has_state or os.path.lexists(paths["supernet"]))
        if not has_state:
            _check_not_trained(paths["supernet"], paths["state"])
        space = run.assignment.space
        on_progress(
            f"{run.name} of {space.name} ({space.size:,} subnets) on {run.data.name}: "
            f"{len(run.data)} clients, {run.assignment.clients_per_round} a round, {run.rounds} "
            f"rounds. Run folder: {folder}"
        )
        if run.privacy is not None:
            on_progress(str(run.privacy))
        mended = run_metrics.mend_table(paths["metrics"])
        if mended is not None:
            on_progress(mended)
        callbacks = _Callbacks(run, paths, settings, on_progress)
        accuracies = await train(
            run.process,
            ClientData(run.data, run.assignment, run.architecture),
            run.rounds,
            state_manager=state_manager,
            metrics_manager=run_metrics.RunMetricsManager(paths["metrics"], paths["tensorboard"]),
            count_bytes=run.count_bytes,
            evaluate=callbacks.evaluate,
            evaluate_every=run.evaluate_every,
            epsilon_after=None if run.privacy is None else run.privacy.epsilon_after,
            on_start=callbacks.on_start,
            on_round=callbacks.on_round,
            on_evaluated=callbacks.save,
            initial_weights=None if run.initial is None else run.initial.values,
        )
        report.draw_curves(paths["metrics"], paths["curves"], run.title, run.assignment.tiers)
        return accuracies


def train_run(*arguments, **options) -> Mapping[str, float]:
    """Runs `train_run_async` to completion."""
    return run_blocking(train_run_async(*arguments, **options), "train_run_async")


def run_settings(run: TrainingRun) -> dict[str, Any]:
    """Returns the settings that must not change when a run is continued, as decoded from JSON."""
    settings = {
        **run.settings,
        "space": run.assignment.space.to_json(),
        "random_streams": RANDOM_STREAMS,
    }
    if run.initial is not None:
        # The content of the file matters, not its location.
        settings["initial"] = run.initial.source_hash
    return json.loads(json.dumps(settings))


def _check_not_trained(supernet: str, state: str) -> None:
    """Refuses to train a run from the start over a supernet whose state was lost.

    A supernet of one round may stand there alone: it is saved before the round's state.
    """
    if not os.path.isfile(supernet):
        return
    _, information = Supernet.load_checkpoint(supernet)
    if information.get("round", 0) > 1:
        raise ValueError(
            f"{state!r}: expected the state of the run whose supernet, of round "
            f"{information['round']}, is beside it, received none. Put the folder back, or give "
            "another --out."
        )


class _Callbacks:
    """Callbacks of the training loop: at the start, after a round and at an evaluation."""

    def __init__(self, run: TrainingRun, paths, settings, on_progress):
        self._run = run
        self._paths = paths
        self._settings = settings
        self._on_progress = on_progress
        self._supernet = Supernet(run.assignment.space)
        self._accuracy = build_accuracy(self._supernet, run.data.preprocessing)

    def on_start(self, done: int) -> None:
        missing = run_metrics.missing_rounds(self._paths["metrics"], done)
        if missing is not None:
            self._on_progress(missing)
        if done >= self._run.rounds:
            self._on_progress(f"All {done} rounds were done before.")
        elif done:
            self._on_progress(f"Continuing after round {done}.")
        elif self._run.initial is not None:
            self._on_progress(str(self._run.initial))

    def on_round(self, done: RoundReport) -> None:
        self._on_progress(report.progress_line(done, self._run.rounds, self._run.epochs))

    def evaluate(self, weights: tuple[np.ndarray, ...]) -> dict[str, float]:
        run, named = self._run, self._supernet.named(weights)
        test = (run.data.dataset.test_images, run.data.dataset.test_labels, run.test_batch_size)
        accuracies = tier_accuracies(self._accuracy, named, run.assignment.tiers, *test)
        if run.random_subnets:
            drawn = random_subnet_accuracies(
                lambda *arguments: self._accuracy(*arguments, run.test_batch_size),
                run.assignment.space,
                named,
                *test[:2],
                subnets=run.random_subnets,
            )
            accuracies["random p10"] = float(np.percentile([share for _, share in drawn], 10))
        return accuracies

    def save(self, done: int, weights: tuple[np.ndarray, ...]) -> None:
        self._supernet.assign_weights(self._supernet.named(weights))
        information = training_information(
            self._run.data,
            rounds=done,
            tiers=self._run.assignment.tiers,
            settings=self._settings,
        )
        privacy = self._run.privacy
        if privacy is not None:
            cost = {"epsilon": privacy.epsilon_after(done), "delta": privacy.delta}
            information["privacy"] = cost
        self._supernet.save_checkpoint(self._paths["supernet"], information)
