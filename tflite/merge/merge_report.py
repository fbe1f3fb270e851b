"""The report of a merge of devices' updates, for people and for JSON."""

import dataclasses
from typing import Any, NamedTuple

from fedsup_tf.architecture import Architecture


class UsedUpdate(NamedTuple):
    """An update that is in the mean.

    Attributes:
      name: Its path, or its client or identity if it came as an object.
      identity: `DeviceUpdate.identity`.
      architecture: The subnet that it trained.
      examples: Number of examples that it claims.
      norm: L2 norm of its delta as it came.
      believed_examples: Number of examples that it counted for.
      scale: Factor by which its delta was scaled down; 1 if it was taken as it came.
    """

    name: str
    identity: str
    architecture: Architecture
    examples: int
    norm: float
    believed_examples: int
    scale: float


class RejectedUpdate(NamedTuple):
    """An update that is not in the mean.

    Attributes:
      name: Its path, or its client or identity if it came as an object.
      reason: A sentence: what was expected, what was received and what to do.
    """

    name: str
    reason: str


class DuplicateUpdate(NamedTuple):
    """An update that came again, counted once.

    Attributes:
      name: Its path, or its client or identity if it came as an object.
      of: The name under which it came first.
    """

    name: str
    of: str


class UnmergedError(ValueError):
    """Updates are not merged; the supernet is unchanged.

    Attributes:
      rejected: The updates that cannot be used, and why.
      duplicates: Those that came more than once.
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
    """No update can be merged."""


class TooFewUpdatesError(UnmergedError):
    """More valid updates are needed before any is merged."""


class TensorCoverage(NamedTuple):
    """Coverage of a tensor of the supernet by the updates.

    Attributes:
      updates: The greatest number of updates that cover one entry.
      share: Share of the entries that any update covers.
    """

    updates: int
    share: float


@dataclasses.dataclass(frozen=True)
class MergeReport:
    """Lists what a merge did with each update.

    Attributes:
      used: The updates in the mean.
      rejected: Those that are not, and why.
      duplicates: Those that came more than once.
      coverage: Of each tensor of the supernet.
    """

    used: tuple[UsedUpdate, ...]
    rejected: tuple[RejectedUpdate, ...]
    duplicates: tuple[DuplicateUpdate, ...]
    coverage: dict[str, TensorCoverage]

    def to_fields(self) -> dict[str, Any]:
        """Returns the report as objects, lists and numbers that JSON knows."""
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
