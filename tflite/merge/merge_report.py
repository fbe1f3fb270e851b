"""Report of a merge of device updates, as objects and as JSON."""

import dataclasses
from typing import Any, NamedTuple

from fedsup_tf.architecture import Architecture


class UsedUpdate(NamedTuple):
    """An update that is included in the mean.

    Attributes:
      name: Path of the update; for an update object, its client name or identity.
      identity: `DeviceUpdate.identity`.
      architecture: Architecture of the trained subnet.
      examples: Claimed number of training examples.
      norm: L2 norm of the delta before scaling.
      believed_examples: Number of examples that the update counted for.
      scale: Factor that scaled the delta down; 1 if the delta was used unchanged.
    """

    name: str
    identity: str
    architecture: Architecture
    examples: int
    norm: float
    believed_examples: int
    scale: float


class RejectedUpdate(NamedTuple):
    """An update that is not included in the mean.

    Attributes:
      name: Path of the update; for an update object, its client name or identity.
      reason: Explanation: what was expected, what was received and what to do.
    """

    name: str
    reason: str


class DuplicateUpdate(NamedTuple):
    """A repeated update, which is counted once.

    Attributes:
      name: Path of the update; for an update object, its client name or identity.
      of: Name of the first occurrence of the same update.
    """

    name: str
    of: str


class UnmergedError(ValueError):
    """Raised when updates cannot be merged; the supernet is unchanged.

    Attributes:
      rejected: Updates that cannot be used, with reasons.
      duplicates: Repeated updates.
    """

    def __init__(
        self,
        message: str,
        rejected: tuple[RejectedUpdate, ...],
        duplicates: tuple[DuplicateUpdate, ...],
    ):
        super().__init__(message)
        self.rejected = rejected
        self.duplicates = duplicates


class NothingToMergeError(UnmergedError):
    """Raised when no update can be merged."""


class TooFewUpdatesError(UnmergedError):
    """Raised when there are too few valid updates to merge any."""


class TensorCoverage(NamedTuple):
    """Coverage of a tensor of the supernet by the updates.

    Attributes:
      updates: Maximum number of updates that cover the same entry.
      share: Fraction of the entries that at least one update covers.
    """

    updates: int
    share: float


@dataclasses.dataclass(frozen=True)
class MergeReport:
    """Outcome of a merge for each update.

    Attributes:
      used: Updates that are included in the mean.
      rejected: Updates that are not included, with reasons.
      duplicates: Repeated updates.
      coverage: Coverage of each tensor of the supernet, by name.
    """

    used: tuple[UsedUpdate, ...]
    rejected: tuple[RejectedUpdate, ...]
    duplicates: tuple[DuplicateUpdate, ...]
    coverage: dict[str, TensorCoverage]

    def to_fields(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        used = [
            {**update._asdict(), "architecture": update.architecture.fields()}
            for update in self.used
        ]
        return {
            "used": used,
            "rejected": [update._asdict() for update in self.rejected],
            "duplicates": [update._asdict() for update in self.duplicates],
            "coverage": {name: reach._asdict() for name, reach in self.coverage.items()},
        }
