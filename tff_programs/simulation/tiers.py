"""Device tiers: classes of devices that train their own subnet, and their text form."""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.json_schema import read_json
from fedsup_tf.files.validation import check_file_name, check_number
from fedsup_tf.search.constraints import draw_within, feasible_range, sample_within
from fedsup_tf.search.costs import Cost, architecture_cost
from fedsup_tf.space import SearchSpace

# Maximum share of a tier relative to the others.
_MAX_SHARE = 1_000_000
# Random stream of tiers, one of the streams of a simulation.
TIERS_STREAM = 0
# An optional cost and two numbers whose digits every program can represent.
_BOUNDS = re.compile(rf"(?:({'|'.join(Cost._fields)}):)?([0-9]{{1,15}})-([0-9]{{1,15}})")


@dataclasses.dataclass(frozen=True)
class Tier:
    """A class of devices.

    Attributes:
      name: Name of the tier in reports.
      architecture: Subnet with which the tier is evaluated, and which its devices train unless
        rounds draw others.
      share: Share of all clients, relative to the shares of the other tiers.
      limit: Maximum `cost` of a subnet that the tier's devices can train; None for devices that
        only train `architecture`.
      cost: Cost that `limit` bounds, `"parameters"` or `"macs"`.
    """

    name: str
    architecture: Architecture
    share: float = 1.0
    limit: float | None = None
    cost: str = "parameters"

    def carries(self, space: SearchSpace, architecture: Architecture) -> bool:
        """Returns whether a device of the tier can train a subnet of `space`."""
        if self.limit is None:
            return architecture == self.architecture
        return getattr(architecture_cost(space, architecture), self.cost) <= self.limit


def default_tiers(
    space: SearchSpace, seed: int, on_progress: Callable[[str], None] = lambda line: None
) -> tuple[Tier, ...]:
    """Makes up to four tiers of equal share, from the smallest subnet to the largest.

    Args:
      space: Search space of the architectures.
      seed: Seed of the architectures of the tiers in between.
      on_progress: Called with a line of text about tiers that a small space cannot fill: if no
        subnet lies between the bounds of a tier, its clients go to the other tiers.
    """
    if space.size == 1:
        return (Tier("only", space.smallest()),)
    cost = _default_cost(space)
    minimum, maximum = feasible_range(space, cost)
    ends = [_end_tier(space, end) for end in ("smallest", "largest")]
    between, missing = [], []
    for name, low, high in (("middle", 0.2, 0.45), ("middle-large", 0.65, 0.9)):
        bounds = tuple(round(minimum + (maximum - minimum) * part) for part in (low, high))
        architecture = draw_within(space, _random(seed, bounds), cost, *bounds)
        if architecture in (None, *(end.architecture for end in ends)):
            missing.append(f"{name!r} ({bounds[0]:,} to {bounds[1]:,} {cost})")
        else:
            between.append(Tier(name, architecture, limit=bounds[1], cost=cost))
    tiers = (ends[0], *between, ends[1])
    if missing:
        on_progress(
            f"{space.name}: {len(tiers)} device tiers, since no subnet is of the size of "
            f"{' or '.join(missing)}."
        )
    return tiers


def parse_tiers(space: SearchSpace, entries: Sequence[str], seed: int) -> tuple[Tier, ...]:
    """Parses tiers from text.

    Args:
      space: Search space of the architectures.
      entries: Each `WHAT` or `WHAT@SHARE`, where WHAT is `smallest`, `largest`, the path of an
        architecture's JSON file, or bounds such as `500000-900000` (parameters) or
        `macs:1000000-5000000`. Devices of a tier with bounds can train any subnet up to the upper
        bound; the tier's own subnet lies between the bounds.
      seed: Seed of the architectures of tiers with bounds.

    Raises:
      ValueError: If an entry is invalid.
    """
    tiers = []
    for entry in entries:
        # A path may hold an @ too.
        what, _, share_text = (entry, "", "") if os.path.exists(entry) else _split_share(entry)
        try:
            share = float(share_text) if share_text else 1.0
        except ValueError:
            share = 0.0
        if not 0 < share <= _MAX_SHARE:
            raise ValueError(
                f"Tier {entry!r}: expected a share above 0, of at most {_MAX_SHARE:,}, behind the "
                "@, such as @2."
            )
        bounded = _BOUNDS.fullmatch(what)
        if what in ("smallest", "largest"):
            tiers.append(_end_tier(space, what, share))
        elif os.path.exists(what):
            architecture = read_json(what, "an architecture", Architecture.from_json)
            space.check(architecture)
            name = os.path.splitext(os.path.basename(what))[0]
            tiers.append(Tier(name, architecture, share))
        elif bounded:
            cost, low, high = bounded.groups()
            bounds = (int(low), int(high))
            tiers.append(_bounded_tier(space, what, cost or "parameters", bounds, share, seed))
        else:
            raise ValueError(
                f"Tier {entry!r}: expected smallest, largest, an architecture's JSON file or "
                "bounds such as 500000-900000 (parameters) or macs:1000000-5000000, with a share "
                "such as @2 behind it if wanted."
            )
    if tiers:
        check_tiers(tiers)
    return tuple(tiers)


def _split_share(entry: str) -> tuple[str, str, str]:
    what, mark, share = entry.rpartition("@")
    return (what, mark, share) if mark else (entry, "", "")


def check_tiers(tiers: Sequence[Tier]) -> None:
    """Checks that tiers have different names and valid shares of the clients.

    Raises:
      ValueError: If there is no tier, two have the same name, a name is not that of a file, or a
        share is not a number above 0 of at most a million.
    """
    if not tiers:
        raise ValueError("Expected at least one tier, received none.")
    for tier in tiers:
        check_number(
            tier.share, "the share", above=0, maximum=_MAX_SHARE, what=f"Tier {tier.name!r}"
        )
        check_file_name(tier.name, "a tier's name")
    names = [tier.name for tier in tiers]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(
            f"Expected tiers of different names, received {names.count(repeated)} called "
            f"{repeated!r}: metrics and files go by the name. An architecture's JSON file gives "
            "its tier its own name: rename one."
        )


def tier_accuracies(
    accuracy: Callable, weights: Mapping[str, np.ndarray], tiers: Sequence[Tier], *test: Any
) -> dict[str, float]:
    """Computes the accuracy of each tier's own subnet, from 0 to 1, by tier name.

    Args:
      accuracy: Function made by `build_accuracy`.
      weights: The supernet's weights by tensor name.
      tiers: The tiers.
      *test: Images, labels and, if `accuracy` takes one, a batch size.
    """
    return {tier.name: accuracy(weights, tier.architecture, *test) for tier in tiers}


def format_accuracies(accuracies: Mapping[str, float]) -> str:
    """Formats accuracies from 0 to 1, given by name, as one line in percent."""
    shares = "  ".join(f"{name} {100 * value:.1f}" for name, value in accuracies.items())
    return f"accuracy % {shares}"


def _end_tier(space: SearchSpace, end: str, share: float = 1.0) -> Tier:
    """Makes the tier of devices that can train only the smallest subnet, or any (`"largest"`)."""
    architecture, cost = getattr(space, end)(), _default_cost(space)
    limit = feasible_range(space, cost)[end == "largest"]
    return Tier(end, architecture, share, limit, cost)


def _default_cost(space: SearchSpace) -> str:
    """Returns the cost that limits tiers without bounds: MACs if there are several resolutions."""
    return "macs" if space.resolutions else "parameters"


def _bounded_tier(space, name, cost, bounds, share, seed):
    """Makes a tier of devices limited by the upper bound; its subnet lies between the bounds."""
    architecture = sample_within(space, _random(seed, bounds), cost, *bounds)
    return Tier(name, architecture, share, bounds[1], cost)


def _random(seed, bounds) -> np.random.Generator:
    return np.random.default_rng([seed, TIERS_STREAM, *bounds])
