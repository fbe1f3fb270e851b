"""A fleet: a server that exports and merges, and clients that are processes of their own."""

import asyncio
import concurrent.futures
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from fedsup_tf.accuracy import build_accuracy
from fedsup_tf.architecture import Architecture
from fedsup_tf.files.atomic_write import replace_file
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.supernet import Supernet
from tff_programs.programs.calibration_files import calibrate_tiers
from tff_programs.programs.checkpoint import TrainedSupernet
from tff_programs.programs.cli import END_WITH
from tff_programs.programs.fleet_optimizer import FleetOptimizer
from tff_programs.programs.training_information import device_training, trained_tiers
from tff_programs.reports.device_report import SCORES_FILE, gain_line, read_scores
from tff_programs.simulation.round_plan import RANDOM_STREAMS, Assignment, RoundPlan
from tff_programs.simulation.run_folder import hold_run
from tff_programs.simulation.tiers import Tier, default_tiers
from tflite.export.export import BatchSizes, Origin, export_tflite, refresh_tflite
from tflite.merge.merge import merge_updates

_IMAGES_OF_CALIBRATION = 30


@dataclasses.dataclass(frozen=True)
class FleetSettings:
    """Settings of a fleet.

    Attributes:
      rounds: Number of all rounds.
      clients_per_round: Clients of a round.
      learning_rate: Of the clients; None for that of the training.
      processes: Clients computed side by side; 0 for one a core.
      test_batch_size: Images normalized together in a test.
      seed: Decides who takes part; None for the training's.
    """

    rounds: int
    clients_per_round: int
    learning_rate: float | None
    processes: int
    test_batch_size: int
    seed: int | None = None


class Fleet:
    """The server of a fleet, and the processes of its clients."""

    def __init__(
        self,
        trained: TrainedSupernet,
        folder: str,
        settings: FleetSettings,
        on_progress: Callable[[str], None] = lambda line: None,
    ):
        """Makes the fleet, or opens the one in `folder`.

        Args:
          trained: The supernet and its clients.
          folder: Where the fleet is kept.
          settings: How it runs.
          on_progress: Called with a line of text about each thing that was done.
        """
        self.trained = trained
        self._folder = folder
        self._settings = settings
        self._on_progress = on_progress
        of_training = trained.information["settings"]
        self.learning_rate = settings.learning_rate or of_training.get("learning_rate")
        if self.learning_rate is None:
            raise ValueError(
                "Expected a learning rate of the clients, since the supernet's file tells none. "
                "Give --learning_rate."
            )
        self.training = device_training(trained.information)
        space = trained.supernet.space
        self.aggregation = of_training.get("aggregation", "coverage")
        self.weighting = of_training.get("weighting", "examples")
        self.assignment = Assignment(
            space=space,
            tiers=trained_tiers(trained.information)
            or default_tiers(space, trained.data_settings.seed),
            clients=len(trained.data),
            clients_per_round=settings.clients_per_round,
            seed=trained.data_settings.seed if settings.seed is None else settings.seed,
            redraw=of_training.get("redraw", True),
            tier_net_share=of_training.get("tier_net_share", 0.0),
            cohorts=of_training.get("cohorts") or "passes",
            sandwich=of_training.get("cohort_sandwich", False) and settings.clients_per_round > 1,
        )
        self.optimizer = FleetOptimizer(of_training, trained.supernet, folder)
        self._left_out = left_out_flags(of_training, apart_from=("server_optimizer",))
        self._accuracy = build_accuracy(trained.supernet, trained.preprocessing)
        self._templates = {}
        self._base = fingerprint(trained.weights)
        # The trained one stays as it is, for the comparison.
        self.supernet, information = trained.supernet, trained.information
        self._done = 0
        path = self._path("supernet.safetensors")
        if os.path.exists(path):
            self.supernet, information = Supernet.load_checkpoint(path, space)
            if information["fleet"].get("random_streams") != RANDOM_STREAMS:
                raise ValueError(
                    f"The fleet in {folder!r} was started by a version that drew other random "
                    "numbers from a seed. Give another --out."
                )
            if information["fleet"]["base"] != self._base:
                raise ValueError(
                    f"The fleet in {folder!r} began with another supernet. Give that one to "
                    "continue it, or another --out."
                )
            if self.optimizer.optimizer is not None and "optimizer" not in information["fleet"]:
                raise ValueError(
                    f"The fleet in {folder!r} was started by a version that did without the "
                    "training's server optimizer. Give another --out."
                )
            self._done = information["fleet"]["rounds"]
            self.optimizer.load(self._done)
            on_progress(f"Continuing after round {self._done}.")
        else:
            self.supernet = Supernet(space)
            self.supernet.assign_weights(trained.weights)
        self._information = information

    def run(self) -> None:
        """Runs all rounds that were not run before.

        Raises:
          ValueError: If another program runs in the same folder.
        """
        if self._left_out:
            self._on_progress(
                f"Of the training, a fleet's server does without {', '.join(self._left_out)}: it "
                f"takes the mean update as it is ({self.aggregation}, weighted by "
                f"{self.weighting})."
            )
        with hold_run(self._folder):
            self._tell_accuracies("before")
            for number in range(1, self._settings.rounds + 1):
                self.run_round(number)

    async def run_async(self) -> None:
        """Runs `run` beside a running event loop, in a thread of its own."""
        await asyncio.to_thread(self.run)

    def run_round(self, number: int) -> None:
        """Runs one round, counted from 1; nothing if it was run before."""
        if number <= self._done:
            return
        start = time.monotonic()
        plan = self.plan(number)
        folder = self._path(f"round_{number:03d}")
        supernet_hash = fingerprint(self.supernet.weights_by_name())
        models = self._export(folder, plan, supernet_hash)
        workers = self._settings.processes or len(os.sched_getaffinity(0))
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            jobs = [
                pool.submit(
                    self._train_client, folder, models[architecture], client, _client_seed(seed)
                )
                for client, architecture, seed in zip(
                    plan.clients, plan.architectures, plan.seeds, strict=True
                )
            ]
            updates = [job.result() for job in jobs]
        before = self.supernet.values_by_name()
        merged = merge_updates(
            self.supernet,
            supernet_hash,
            updates,
            aggregation=self.aggregation,
            weighting=self.weighting,
            # Its own processes wrote them.
            limits=None,
            class_names=self.trained.information["class_names"],
        )
        for rejected in merged.rejected:
            self._on_progress(f"  left out {rejected.name}: {rejected.reason}")
        trained_nets = [update.architecture for update in merged.used]
        self.supernet.assign_weights(
            self.optimizer.step(before, self.supernet.values_by_name(), trained_nets)
        )
        self.optimizer.save(number)
        self._information = {
            **self._information,
            "round": self.trained.information["round"] + number,
            "fleet": {
                "base": self._base,
                "rounds": number,
                "random_streams": RANDOM_STREAMS,
                "optimizer": self.optimizer.optimizer is not None,
            },
        }
        self.supernet.save_checkpoint(self._path("supernet.safetensors"), self._information)
        self.optimizer.forget_before(number)
        seconds = time.monotonic() - start
        self._tell_accuracies(
            f"round {number}/{self._settings.rounds} | {len(updates)} clients", seconds
        )

    def accuracies(self, supernet: Supernet) -> dict[str, float]:
        """Test accuracy of each tier's subnet."""
        weights = supernet.values_by_name()
        dataset = self.trained.data.dataset
        return {
            tier.name: self._accuracy(
                weights,
                tier.architecture,
                dataset.test_images,
                dataset.test_labels,
                self._settings.test_batch_size,
            )
            for tier in self.assignment.tiers
        }

    def _tell_accuracies(self, label: str, seconds: float | None = None) -> None:
        shares = self.accuracies(self.supernet)
        shown = "  ".join(f"{name} {100 * share:.1f}" for name, share in shares.items())
        took = "" if seconds is None else f" | {seconds:.0f} s"
        self._on_progress(f"{label}{took} | accuracy % {shown}")

    def plan(self, number: int) -> RoundPlan:
        """Returns the plan of a round; the fleet's rounds count on from those of the training."""
        return self.assignment.plan(self.trained.information["round"] + number)

    def _export(self, folder: str, plan: RoundPlan, supernet_hash: str) -> dict[Architecture, str]:
        """Writes a model for each architecture of the round; returns their paths."""
        trained = self.trained
        number = self._information["round"]
        names = {tier.architecture: tier.name for tier in self.assignment.tiers}
        tiers = [
            Tier(names.get(one, f"subnet_{trained.supernet.space.index(one)}"), one)
            for one in dict.fromkeys(plan.architectures)
        ]
        new = [tier for tier in tiers if tier.architecture not in self._templates]
        mean_squares = (
            calibrate_tiers(
                trained,
                new,
                _IMAGES_OF_CALIBRATION,
                on_progress=self._on_progress,
                # Clients train the supernet's own, as they do in a federated round.
                classifier_penalty=None,
            )
            if new
            else []
        )
        calibrated = dict(zip((tier.architecture for tier in new), mean_squares, strict=True))
        origin = Origin(
            trained.supernet.space, supernet_hash, number, trained.information["class_names"]
        )
        models = {}
        for tier in tiers:
            architecture = tier.architecture
            subnet = self.supernet.extract(architecture)
            path = os.path.join(folder, f"{tier.name}.tflite")
            if architecture in calibrated:
                export_tflite(
                    path,
                    subnet,
                    calibrated[architecture],
                    trained.preprocessing,
                    self.training,
                    origin,
                    BatchSizes(train=self.training.batch_size),
                )
                self._templates[architecture] = path, calibrated[architecture]
            else:
                template, mean_squares = self._templates[architecture]
                weights = subnet.values_by_name()
                refresh_tflite(path, template, weights, mean_squares, supernet_hash, number)
            models[architecture] = path
        return models

    def _train_client(self, folder: str, model: str, client: int, seed: int) -> str:
        """Runs one client's process, and returns the path of its update."""
        own = os.path.join(folder, f"client_{client:04d}")
        os.makedirs(own, exist_ok=True)
        train = self.trained.data.train_examples(client)
        test = self.trained.data.test_examples(client)
        examples = os.path.join(own, "examples.npz")
        names = ("images", "labels", "test_images", "test_labels")
        arrays = dict(zip(names, (*train, *test), strict=True))
        replace_file(examples, lambda temporary: np.savez(temporary, **arrays))
        command = [
            *(sys.executable, "-c", "from tff_programs.programs.cli import main; main()"),
            *("device", model),
            f"--data={examples}",
            f"--out={own}",
            f"--epochs={self.training.epochs}",
            f"--learning_rate={self.learning_rate}",
            f"--seed={seed}",
            # This process exported it.
            "--trusted",
        ]
        environment = {**os.environ, END_WITH: str(os.getpid())}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError(f"Client {client} ended with an error: {done.stderr[-500:]}")
        scores = read_scores(os.path.join(own, SCORES_FILE))
        gain = gain_line(scores["before"], scores["after"], len(test[1]))
        self._on_progress(f"  client {client}, {os.path.basename(model)}: {gain}")
        return os.path.join(own, "update.safetensors")

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)


def left_out_flags(of_training: Mapping[str, Any], apart_from: Collection[str] = ()) -> list[str]:
    """Returns the flags of the training's server that a server of files does not have.

    Args:
      of_training: Settings of the training.
      apart_from: Flags that this server has.
    """
    neutral = {
        "server_optimizer": "none",
        "averaging": 0.0,
        "clipping": "none",
        "zeroing": "none",
        "compression": "none",
        "poisoned": 0.0,
        "noise_multiplier": 0.0,
    }
    return [
        f"--{name}={of_training[name]}"
        for name, value in neutral.items()
        if name not in apart_from and of_training.get(name, value) != value
    ]


def _client_seed(seed: np.ndarray) -> int:
    """Returns a whole number from 0 that the plan's int32 `(2,)` decides, of round and client."""
    first, second = (int(part) for part in np.asarray(seed, np.int32).view(np.uint32))
    return (first << 32) | second
