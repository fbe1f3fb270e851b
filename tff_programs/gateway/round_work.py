"""Interface of the work of a round: merging updates and preparing models."""

import json
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol

from tff_programs.simulation.tiers import Tier


class Base(NamedTuple):
    """A supernet that a round trains.

    Attributes:
      number: Number of rounds that the supernet was trained for.
      hash: `checkpoint.fingerprint` of its weights.
      folder: Folder of the supernet, relative to the gateway's folder.
    """

    number: int
    hash: str
    folder: str


class Outcome(NamedTuple):
    """Outcome of an update in its round.

    Attributes:
      is_used: Whether the update is part of the mean.
      scale: Factor by which the update's delta was scaled down.
      reason: Reason for leaving the update out; empty if it is used.
      identity: `DeviceUpdate.identity` of a used update, so that it is not used again.
    """

    is_used: bool
    scale: float = 0.0
    reason: str = ""
    identity: str = ""


class Merged(NamedTuple):
    """Result of merging a round's updates.

    Attributes:
      base: The next supernet; the round's own if no update could be used.
      outcomes: Outcomes of the updates, by file path.
      waits_for_more: Whether the updates without an outcome are too few to be merged, and wait.
    """

    base: Base
    outcomes: Mapping[str, Outcome]
    waits_for_more: bool = False


class TierModel(NamedTuple):
    """The model of a tier in a round.

    Attributes:
      tier: The tier, with the architecture of the model.
      capacity: Value of the cost `tier.cost` that a device must be able to train.
      path: Path of the model, relative to the gateway's folder.
      parameters: Number of values that an update holds.
    """

    tier: Tier
    capacity: float
    path: str
    parameters: int

    def architecture(self) -> str:
        """Returns the architecture as JSON."""
        return self.tier.architecture.to_json()


class Prepared(NamedTuple):
    """Everything that a round needs before it is opened.

    Attributes:
      models: One model for each tier.
      accuracies: Accuracy of the supernet's subnets by tier, from 0 to 1; empty if nothing was
        evaluated.
    """

    models: list[TierModel]
    accuracies: Mapping[str, float]

    def accuracies_json(self) -> str:
        """Returns the accuracies as JSON."""
        return json.dumps(dict(self.accuracies))


class RoundWork(Protocol):
    """The server's part of training; repeating it after a kill gives the same result."""

    def begin(self) -> Base:
        """Writes the first supernet to the gateway's folder."""

    def merge(
        self,
        base: Base,
        paths: list[str],
        older: Mapping[str, float],
        already_merged: Collection[str],
        round_id: int,
    ) -> Merged:
        """Merges updates into a supernet, and writes the next one with a report.

        Args:
          base: The supernet that the round trained.
          paths: Paths of the update files.
          older: Factors of updates of earlier supernets, by the supernet's hash.
          already_merged: Identities of updates that were merged before.
          round_id: Identifier of the round in the database.
        """

    def prepare(self, base: Base, on_progress: Callable[[str], None]) -> Prepared:
        """Exports a model for each tier and evaluates the supernet."""

    def budget_exceeded_reason(self, round_id: int) -> str | None:
        """Returns why merging the round with this id would exceed the privacy budget, or None."""
