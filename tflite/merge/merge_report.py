"""What a merge of devices' updates did, for people and for JSON."""

import dataclasses
from typing import Any, NamedTuple

from fedsup_tf.architecture import Architecture


class UsedUpdate(NamedTuple):
    """An update that is in the mean.

    Attributes:
      name: Its path, or its client or identity if it came as an object.
      identity: `DeviceUpdate.identity`.
      architecture: The subnet that it trained.
      examples: Number of its examples.
      norm: L2 norm of its delta before clipping.
    """

    name: str
    identity: str
    architecture: Architecture
    examples: int
    norm: float


class RejectedUpdate(NamedTuple):
    """An update that is not in the mean.

    Attributes:
      name: As of `UsedUpdate`.
      reason: What was expected, what was received and what to do.
    """

    name: str
    reason: str


class DuplicateUpdate(NamedTuple):
    """An update that came again, counted once.

    Attributes:
      name: As of `UsedUpdate`.
      of: The name under which it came first.
    """

    name: str
    of: str


class TensorCoverage(NamedTuple):
    """How far the updates reach into a tensor of the supernet.

    Attributes:
      updates: The greatest number of updates that cover one entry.
      share: Share of the entries that any update covers.
    """

    updates: int
    share: float


@dataclasses.dataclass(frozen=True)
class MergeReport:
    """What a merge did.

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
        """The report as objects, lists and numbers that JSON knows."""
        used = [
            {**update._asdict(), "architecture": dataclasses.asdict(update.architecture)}
            for update in self.used
        ]
        return {
            "used": used,
            "rejected": [update._asdict() for update in self.rejected],
            "duplicates": [update._asdict() for update in self.duplicates],
            "coverage": {name: reach._asdict() for name, reach in self.coverage.items()},
        }
