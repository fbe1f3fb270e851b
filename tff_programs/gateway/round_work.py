"""The work of a round as the gateway asks for it: merging updates, preparing models."""

import json
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol

from tff_programs.simulation.tiers import Tier


class Base(NamedTuple):
    """A supernet that a round trains.

    Attributes:
      number: Rounds that it was trained for.
      hash: `checkpoint.fingerprint` of its weights.
      folder: Where it and its models are, relative to the gateway's folder.
    """

    number: int
    hash: str
    folder: str


class Outcome(NamedTuple):
    """Result of an update in its round.

    Attributes:
      is_used: Whether it is in the mean.
      scale: Factor by which its delta was scaled down.
      reason: Reason for which it is left out; empty if it is used.
      identity: `DeviceUpdate.identity` of one that is used, so that it is not used again.
    """

    is_used: bool
    scale: float = 0.0
    reason: str = ""
    identity: str = ""


class Merged(NamedTuple):
    """The result of a round's updates.

    Attributes:
      base: The next supernet; that of the round if no update could be used.
      outcomes: What came of each update, by its file's path.
      waits_for_more: Whether the updates without an outcome are too few to be merged, and wait.
    """

    base: Base
    outcomes: Mapping[str, Outcome]
    waits_for_more: bool = False


class TierModel(NamedTuple):
    """The model of a tier in a round.

    Attributes:
      tier: The tier; its architecture is that of the model.
      capacity: Cost that a device must carry.
      path: The file, relative to the gateway's folder.
      parameters: Number of values that an update holds.
    """

    tier: Tier
    capacity: float
    path: str
    parameters: int

    def architecture(self) -> str:
        """Returns the architecture in JSON."""
        return self.tier.architecture.to_json()


class Prepared(NamedTuple):
    """All that a round needs before it is opened.

    Attributes:
      models: One for each tier.
      accuracies: Of the supernet's subnets by tier, from 0 to 1; empty if nothing was evaluated.
    """

    models: list[TierModel]
    accuracies: Mapping[str, float]

    def accuracies_json(self) -> str:
        """Returns the accuracies in JSON."""
        return json.dumps(dict(self.accuracies))


class RoundWork(Protocol):
    """Trains, as far as a server does; repeated after a kill it makes the same."""

    def begin(self) -> Base:
        """Puts the first supernet into the gateway's folder."""

    def merge(
        self,
        base: Base,
        paths: list[str],
        older: Mapping[str, float],
        already_merged: Collection[str],
        round_id: int,
    ) -> Merged:
        """Merges updates into a base's supernet, and keeps the next one with a report.

        Args:
          base: What the round trained.
          paths: The updates' files.
          older: Factors of updates of earlier supernets, by the supernet's hash.
          already_merged: Identities of updates that are merged.
          round_id: The round's number in the database.
        """

    def prepare(self, base: Base, on_progress: Callable[[str], None]) -> Prepared:
        """Exports a model for each tier and evaluates the supernet."""

    def reason_to_rest(self, round_id: int) -> str | None:
        """Returns why the round with that number in the database must not be merged, if so."""
