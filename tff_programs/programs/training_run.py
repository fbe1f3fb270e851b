"""A training kept in a folder: goes on after a kill, writes the supernet, metrics and curves."""

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
from tff_programs.simulation.round_plan import RANDOM_STREAMS, Assignment
from tff_programs.simulation.run_folder import hold_run, keep_settings
from tff_programs.simulation.run_state import RunStateManager
from tff_programs.simulation.tiers import tier_accuracies
from tff_programs.simulation.training_loop import RoundReport, train


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A federated training with its data, its assignment of clients and its settings.

    Attributes:
      name: Its name in reports, such as the algorithm.
      process: The federated training, as `build_fedsup_process` makes it.
      data: The clients and their examples.
      assignment: Who trains what in a round.
      rounds: Number of all rounds, those before a resume included.
      count_bytes: From an architecture to the bytes that its client receives and sends.
      settings: Anything that is JSON and must be the same when the run is continued; the search
        space is added. Programs that follow find the data (`DataSettings`) and the clients'
        hyper-parameters (`LocalTraining`) here by their names.
      architecture: The one net that all clients train; None where each trains its own.
      privacy: The account of a private training.
      epochs: How often each client goes through its examples, for the progress lines.
      evaluate_every: Rounds from one evaluation to the next.
      test_batch_size: Images normalized together in a test.
      random_subnets: Number of random subnets whose tenth percentile an evaluation adds.
      initial: What the supernet takes from another one before the first round.
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
        """The run's name, search space and data set."""
        return f"{self.name}, {self.assignment.space.name}, {self.data.name}"


async def train_run_async(
    run: TrainingRun, folder: str, on_progress: Callable[[str], None] = lambda line: None
) -> Mapping[str, float]:
    """Trains a run in the context that is set, from the last round that the folder holds.

    Args:
      run: What is trained.
      folder: Where the run is kept; one that is there is continued.
      on_progress: Called with a line of text about each thing that was done.

    Returns:
      The last evaluation's accuracies by tier.

    Raises:
      ValueError: If the folder is that of another run, or another program holds it.
    """
    with hold_run(folder):
        paths = report.run_paths(folder)
        settings = run_settings(run)
        state_manager = RunStateManager(paths["state"], on_progress)
        is_begun = await state_manager.get_versions() or os.path.lexists(paths["supernet"])
        keep_settings(paths["settings"], settings, bool(is_begun))
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
    """Calls `train_run_async`, and waits until it is done."""
    return run_blocking(train_run_async(*arguments, **options), "train_run_async")


def run_settings(run: TrainingRun) -> dict[str, Any]:
    """Returns the settings with which a run must be continued, as JSON gives them back."""
    settings = {
        **run.settings,
        "space": run.assignment.space.to_json(),
        "random_streams": RANDOM_STREAMS,
    }
    if run.initial is not None:
        # The content counts, wherever the file lies.
        settings["initial"] = run.initial.source_hash
    return json.loads(json.dumps(settings))


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
