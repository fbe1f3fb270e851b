"""Device tiers: classes of devices that train a subnet of their own, and reading them from text."""

import dataclasses
import math
import os
from collections.abc import Sequence

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.json_schema import read_json
from fedsup_tf.search.constraints import feasible_range, sample_within
from fedsup_tf.space import SearchSpace

# Of all streams of random numbers of a simulation, the one of tiers.
TIERS_STREAM = 0


@dataclasses.dataclass(frozen=True)
class Tier:
    """A class of devices.

    Attributes:
      name: What reports call it.
      architecture: The subnet its devices train, and by which the tier is evaluated.
      share: Its part of all clients, relative to those of the other tiers.
      bounds: Least and greatest number of parameters its devices can hold; None for devices that
        train `architecture` alone.
    """

    name: str
    architecture: Architecture
    share: float = 1.0
    bounds: tuple[int, int] | None = None


def default_tiers(space: SearchSpace, seed: int) -> tuple[Tier, ...]:
    """Four equal tiers: smallest, two between, largest."""
    if space.size == 1:
        return (Tier("only", space.smallest()),)
    least, greatest = feasible_range(space, "parameters")
    between = []
    for name, low, high in (("middle", 0.2, 0.45), ("middle-large", 0.65, 0.9)):
        bounds = tuple(round(least + (greatest - least) * part) for part in (low, high))
        between.append(_bounded_tier(space, name, bounds, 1.0, seed))
    return (
        Tier("smallest", space.smallest()),
        *between,
        Tier("largest", space.largest()),
    )


def parse_tiers(space: SearchSpace, entries: Sequence[str], seed: int) -> tuple[Tier, ...]:
    """Reads tiers from text.

    Args:
      space: Where architectures come from.
      entries: Each `WHAT` or `WHAT@SHARE`, WHAT being `smallest`, `largest`, the path of an
        architecture's JSON file, or bounds of parameters such as `500000-900000`.
      seed: Decides the architecture that stands for bounds.

    Raises:
      ValueError: If an entry is none of these.
    """
    tiers = []
    for entry in entries:
        what, _, share_text = entry.partition("@")
        try:
            share = float(share_text) if share_text else 1.0
        except ValueError:
            share = 0.0
        if not 0 < share < math.inf:
            raise ValueError(
                f"Tier {entry!r}: expected a finite share above 0 behind the @, such as @2."
            )
        low, dash, high = what.partition("-")
        if what in ("smallest", "largest"):
            tiers.append(Tier(what, getattr(space, what)(), share))
        elif os.path.exists(what):
            architecture = read_json(what, "an architecture", Architecture.from_json)
            space.check(architecture)
            name = os.path.splitext(os.path.basename(what))[0]
            tiers.append(Tier(name, architecture, share))
        elif dash and low.isdigit() and high.isdigit():
            tiers.append(_bounded_tier(space, what, (int(low), int(high)), share, seed))
        else:
            raise ValueError(
                f"Tier {entry!r}: expected smallest, largest, an architecture's JSON file or "
                "bounds of parameters such as 500000-900000, with a share such as @2 behind it if "
                "wanted."
            )
    if tiers:
        check_tiers(tiers)
    return tuple(tiers)


def check_tiers(tiers: Sequence[Tier]) -> None:
    """Refuses tiers that reports and files could not tell apart, or without a share of the clients.

    Raises:
      ValueError: If there is no tier, two have one name, or a share is no finite number above 0.
    """
    if not tiers:
        raise ValueError("Expected at least one tier, received none.")
    for tier in tiers:
        if not 0 < tier.share < math.inf:
            raise ValueError(
                f"Tier {tier.name!r}: expected a finite share above 0, received {tier.share}."
            )
    names = [tier.name for tier in tiers]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(
            f"Expected tiers of different names, received {names.count(repeated)} called "
            f"{repeated!r}: metrics and files go by the name. An architecture's JSON file gives "
            "its tier its own name: rename one."
        )


def _bounded_tier(space, name, bounds, share, seed):
    rng = np.random.default_rng([seed, TIERS_STREAM, *bounds])
    return Tier(name, sample_within(space, rng, "parameters", *bounds), share, bounds)
