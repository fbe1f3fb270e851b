"""The work of the gateway's rounds on a supernet: merging, calibration, export, evaluation."""

import dataclasses
import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from fedsup_tf.accuracy import build_accuracy
from fedsup_tf.architecture import Architecture
from fedsup_tf.files.atomic_write import make_folder, write_bytes, write_json
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.search.constraints import sample_within
from fedsup_tf.search.costs import architecture_cost
from fedsup_tf.supernet import Supernet
from tff_programs.gateway.round_work import Base, Merged, Outcome, Prepared, TierModel
from tff_programs.programs.calibration_files import calibrate_tiers
from tff_programs.programs.checkpoint import TrainedSupernet
from tff_programs.programs.round_privacy import RoundPrivacy
from tff_programs.programs.stored_optimizer import StoredOptimizer
from tff_programs.simulation.tiers import Tier, tier_accuracies
from tflite.export.export import BatchSizes, Origin, export_tflite, refresh_tflite
from tflite.merge.cohort import CohortLimits
from tflite.merge.merge import merge_updates
from tflite.merge.merge_report import NothingToMergeError, TooFewUpdatesError

# Random number stream that draws the subnets of a round's tiers.
_ARCHITECTURES = 8
# Maximum numbers of subnets whose converted files and mean squares are cached for later rounds; if
# every round draws other subnets, an unbounded cache would fill disk and memory.
_MAX_TEMPLATES = 16
_MAX_CALIBRATED = 256
SUPERNET = "supernet.safetensors"
_OPTIMIZER = "optimizer.safetensors"


@dataclasses.dataclass(frozen=True)
class WorkSettings:
    """Settings of the server's part of a round.

    Attributes:
      tiers: The device tiers.
      training: Hyper-parameters of the devices' training.
      merging: Keyword arguments of `merge_updates`.
      redraw: Whether each round draws, for each tier with a limit, a new subnet within the limit.
      seed: Seed of these draws.
      images_per_client: Maximum number of images that each client of the server's data calibrates
        on.
      calibrate_every: Number of rounds after which a subnet is recalibrated.
      test_batch_size: Number of images normalized together in an evaluation; 0 for no evaluation.
      optimizer: Settings `server_optimizer`, `server_learning_rate` and `server_momentum`, as in a
        training.
      privacy: Noise and privacy account of the rounds; None for no privacy.
    """

    tiers: tuple[Tier, ...]
    training: LocalTraining
    merging: Mapping[str, Any]
    redraw: bool = True
    seed: int = 0
    images_per_client: int = 30
    calibrate_every: int = 1
    test_batch_size: int = 50
    optimizer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    privacy: RoundPrivacy | None = None


class SupernetRounds:
    """Merges updates into supernets and exports their subnets; see `round_work.RoundWork`.

    Attributes:
      optimizer: The server's optimizer.
    """

    def __init__(self, trained: TrainedSupernet, folder: str, settings: WorkSettings):
        """Creates the work.

        Args:
          trained: The first supernet, and the server's own data.
          folder: The gateway's folder.
          settings: Settings of the work.
        """
        self._trained = trained
        self._folder = folder
        self._settings = settings
        self._accuracy = build_accuracy(trained.supernet, trained.preprocessing)
        self.optimizer = StoredOptimizer(settings.optimizer, trained.supernet)
        self._templates: dict[Architecture, str] = {}
        self._calibrated: dict[Architecture, tuple[int, dict[str, np.ndarray]]] = {}
        # Created with the first model, so that unused work leaves nothing behind.
        self._scratch: tempfile.TemporaryDirectory | None = None

    def close(self) -> None:
        """Removes the temporary files."""
        if self._scratch is not None:
            self._scratch.cleanup()

    def begin(self) -> Base:
        """Puts the first supernet into the gateway's folder."""
        return self._keep(self._trained.supernet, self._trained.information)

    def _keep(self, supernet: Supernet, information: Mapping[str, Any]) -> Base:
        hash_ = fingerprint(supernet.weights_by_name())
        number = information["round"]
        # The name contains the hash: whoever writes to a folder writes the same content.
        folder = os.path.join("rounds", f"{number:06d}-{hash_[:16]}")
        supernet.save_checkpoint(os.path.join(self._folder, folder, SUPERNET), information)
        return Base(number, hash_, folder)

    def load(self, base: Base) -> tuple[Supernet, dict[str, Any]]:
        """Returns a supernet and the information saved with it."""
        path = os.path.join(self._folder, base.folder, SUPERNET)
        return Supernet.load_checkpoint(path, self._trained.supernet.space)

    def _ordered(self, base: Base, paths: list[str]) -> list[str]:
        """Returns the updates in merge order."""
        del base
        return paths

    def merge(
        self,
        base: Base,
        paths: list[str],
        older: Mapping[str, float],
        already_merged: Collection[str],
        round_id: int,
    ) -> Merged:
        """Merges updates into the base's supernet; see `RoundWork.merge`."""
        paths = self._ordered(base, paths)
        supernet, information = self.load(base)
        before = supernet.values_by_name()
        merging = {
            "limits": CohortLimits(),
            **self._settings.merging,
            "older": older,
            **self._private(base, round_id),
        }
        try:
            report = merge_updates(
                supernet,
                base.hash,
                paths,
                already_merged=already_merged,
                class_names=information.get("class_names"),
                **merging,
            )
        except TooFewUpdatesError as error:
            return Merged(base, _left_out(error.rejected, error.duplicates), waits_for_more=True)
        except NothingToMergeError as error:
            outcomes = _left_out(error.rejected, error.duplicates)
            return Merged(base, outcomes)
        except ValueError as error:
            return Merged(base, {path: Outcome(False, 0.0, str(error)) for path in paths})
        outcomes = _left_out(report.rejected, report.duplicates)
        outcomes |= {
            used.name: Outcome(True, used.scale, identity=used.identity) for used in report.used
        }
        self._step(base, supernet, before, [used.architecture for used in report.used])
        merged = [*already_merged, *(used.identity for used in report.used)]
        following = {**information, "round": base.number + 1, "merged": sorted(merged)}
        kept = self._keep(supernet, following)
        self.optimizer.write(os.path.join(self._folder, kept.folder, _OPTIMIZER))
        fields = {
            "base": {"hash": base.hash, "round": base.number},
            "supernet": {"hash": kept.hash, "round": kept.number},
            "older": dict(older),
            **self._settings.merging,
            "limits": None if merging["limits"] is None else dataclasses.asdict(merging["limits"]),
            **self._settings.optimizer,
            **self._privacy_fields(round_id, information),
            **report.to_fields(),
        }
        write_json(os.path.join(self._folder, kept.folder, "merge.json"), fields)
        return Merged(kept, outcomes)

    def _private(self, base: Base, round_id: int) -> dict[str, Any]:
        """Returns the additional arguments of `merge_updates` in a private round."""
        privacy = self._settings.privacy
        if privacy is None:
            return {}
        reason = privacy.budget_exceeded_reason(round_id)
        if reason is not None:
            raise ValueError(reason)
        # A device's update may influence nothing but its clipped part of the sum.
        noise = privacy.noise(round_id, base.hash)
        return {"limits": None, "older": {}, "clip_norm": privacy.clip_norm, "noise": noise}

    def budget_exceeded_reason(self, round_id: int) -> str | None:
        """Returns a message if the privacy budget does not suffice for a round; None if it does."""
        privacy = self._settings.privacy
        return None if privacy is None else privacy.budget_exceeded_reason(round_id)

    def _privacy_fields(self, round_id: int, information: Mapping[str, Any]) -> dict[str, Any]:
        privacy = self._settings.privacy
        if privacy is None:
            return {}
        return {
            "noise_multiplier": privacy.account.noise_multiplier,
            "delta": privacy.account.delta,
            "epsilon": privacy.account.epsilon_after(round_id),
            # Cost to the training's clients, which may be the same devices.
            "training_privacy": information.get("privacy"),
        }

    def _step(self, base: Base, supernet: Supernet, before, architectures) -> None:
        """Replaces the mean update, which the supernet contains, by the server optimizer's step."""
        state = os.path.join(self._folder, base.folder, _OPTIMIZER)
        # The first supernet has no state, nor does one that an earlier version wrote.
        if os.path.exists(state):
            self.optimizer.read(state)
        else:
            self.optimizer.reset()
        merged = supernet.values_by_name()
        supernet.assign_weights(self.optimizer.step(before, merged, architectures))

    def prepare(self, base: Base, on_progress: Callable[[str], None]) -> Prepared:
        """Exports a model for each tier and evaluates the supernet; see `RoundWork.prepare`."""
        supernet, information = self.load(base)
        drawn = self._draw(base.number)
        mean_squares = self._calibrate(supernet, information, drawn, base.number, on_progress)
        space = supernet.space
        names = tuple(self._trained.information["class_names"])
        origin = Origin(space, base.hash, base.number, names)
        models = []
        for tier in drawn:
            path = self._export(supernet.extract(tier.architecture), mean_squares, tier, origin)
            cost = architecture_cost(space, tier.architecture)
            capacity = getattr(cost, tier.cost) if tier.limit is None else tier.limit
            models.append(TierModel(tier, float(capacity), path, cost.parameters))
        return Prepared(models, self.evaluate(supernet))

    def _draw(self, number: int) -> list[Tier]:
        """Returns the tiers, each with the subnet that it trains in the given round."""
        space = self._trained.supernet.space
        rng = np.random.default_rng([self._settings.seed, _ARCHITECTURES, number])
        drawn = []
        for tier in self._settings.tiers:
            if self._settings.redraw and tier.limit is not None:
                architecture = sample_within(space, rng, tier.cost, -math.inf, tier.limit)
                tier = dataclasses.replace(tier, architecture=architecture)
            drawn.append(tier)
        return drawn

    def _calibrate(
        self, supernet: Supernet, information, tiers: list[Tier], number: int, on_progress
    ) -> dict[Architecture, dict[str, np.ndarray]]:
        interval = self._settings.calibrate_every
        due = [
            tier
            for tier in {tier.architecture: tier for tier in tiers}.values()
            if number - self._calibrated.get(tier.architecture, (-math.inf, {}))[0] >= interval
        ]
        if due:
            trained = self._trained._replace(
                supernet=supernet, weights=supernet.values_by_name(), information=information
            )
            images = self._settings.images_per_client
            # Devices train the supernet's own classifier, as in a federated round.
            calibrated = calibrate_tiers(trained, due, images, on_progress, classifier_penalty=None)
            for tier, found in zip(due, calibrated, strict=True):
                # Moved to the end, as the most recent one.
                self._calibrated.pop(tier.architecture, None)
                self._calibrated[tier.architecture] = number, found
        used = {tier.architecture: self._calibrated[tier.architecture][1] for tier in tiers}
        while len(self._calibrated) > _MAX_CALIBRATED:
            del self._calibrated[next(iter(self._calibrated))]
        return used

    def _export(self, subnet: Supernet, mean_squares, tier: Tier, origin: Origin) -> str:
        """Writes a model, named by its SHA-256; returns its path within the gateway's folder."""
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="fedsup-serve-")
        architecture = tier.architecture
        new = os.path.join(self._scratch.name, "new.tflite")
        if architecture not in self._templates:
            number = self._trained.supernet.space.index(architecture)
            template = os.path.join(self._scratch.name, f"{number}.tflite")
            training = self._settings.training
            export_tflite(
                template,
                subnet,
                mean_squares[architecture],
                self._trained.preprocessing,
                training,
                origin,
                BatchSizes(train=training.batch_size),
            )
            self._templates[architecture] = template
        template = self._templates[architecture] = self._templates.pop(architecture)
        while len(self._templates) > _MAX_TEMPLATES:
            os.remove(self._templates.pop(next(iter(self._templates))))
        refresh_tflite(
            new,
            template,
            subnet.values_by_name(),
            mean_squares[architecture],
            origin.supernet_hash,
            origin.round,
        )
        with open(new, "rb") as file:
            data = file.read()
        path = os.path.join("models", f"{hashlib.sha256(data).hexdigest()}.tflite")
        make_folder(os.path.join(self._folder, "models"))
        write_bytes(os.path.join(self._folder, path), data)
        return path

    def evaluate(self, supernet: Supernet) -> dict[str, float]:
        """Returns the test accuracy of each tier's own subnet."""
        dataset, batch_size = self._trained.data.dataset, self._settings.test_batch_size
        if not batch_size:
            return {}
        test = (dataset.test_images, dataset.test_labels, batch_size)
        weights = supernet.values_by_name()
        return tier_accuracies(self._accuracy, weights, self._settings.tiers, *test)


def _left_out(rejected, duplicates) -> dict[str, Outcome]:
    outcomes = {one.name: Outcome(False, 0.0, one.reason) for one in rejected}
    for one in duplicates:
        reason = f"Expected an update that is new, received the same as {os.path.basename(one.of)}."
        outcomes[one.name] = Outcome(False, 0.0, reason)
    return outcomes
