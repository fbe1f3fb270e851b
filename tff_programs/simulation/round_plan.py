"""Who trains which architecture in a round: device tiers, availability, the sandwich of a cohort.

Everything is a pure function of a seed, a round and the simulated time at which the last one ended,
so that a resumed run makes the same rounds.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.search.bounds import feasible_range, sample_within
from fedsup_tf.space import SearchSpace
from tff_programs.simulation.round_clock import SimulatedTime

# Streams of random numbers that do not depend on each other.
_TIERS, _COHORT, _ARCHITECTURES, _AVAILABILITY = range(4)


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


class RoundPlan(NamedTuple):
    """Who takes part in a round.

    Attributes:
      asked: Number of clients that were asked.
      clients: Numbers of those that answered, and finished if time is simulated.
      architectures: What each of them trained.
      seeds: int32 `(answered, 2)`, the seed of each one's training.
      begin_seconds: Simulated time at which the round begins.
      end_seconds: Simulated time at which it ends.
    """

    asked: int
    clients: tuple[int, ...]
    architectures: tuple[Architecture, ...]
    seeds: np.ndarray
    begin_seconds: float = 0.0
    end_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Plans rounds.

    Attributes:
      space: Where architectures come from.
      tiers: The classes of devices; each client belongs to one for good.
      clients: Number of all clients.
      clients_per_round: Number of clients asked in a round, but for those asked beyond it by
        `time`.
      seed: Decides all that is random.
      redraw: Whether a client of a tier with bounds gets another architecture within them in each
        round, instead of the tier's one.
      sandwich: Whether each round's first client trains the smallest and its second the largest
        architecture, whatever their tiers.
      availability: Chance that a client that was asked answers.
      time: What rounds do with simulated time; by default none passes.
    """

    space: SearchSpace
    tiers: tuple[Tier, ...]
    clients: int
    clients_per_round: int
    seed: int = 0
    redraw: bool = False
    sandwich: bool = False
    availability: float = 1.0
    time: SimulatedTime | None = None

    def __post_init__(self):
        if not 1 <= self.clients_per_round <= self.clients:
            raise ValueError(
                f"Expected 1 to {self.clients} clients a round, received {self.clients_per_round}."
            )
        if self.asked > self.clients:
            raise ValueError(
                f"Expected to ask at most all {self.clients} clients, received "
                f"{self.clients_per_round} a round and {self.time.over_asked} beyond them."
            )
        if self.time is not None and self.time.trace is not None:
            described = len(self.time.trace.clients)
            if described != self.clients:
                raise ValueError(
                    f"Expected an availability trace of {self.clients} clients, received one of "
                    f"{described}."
                )
            # Refuses a trace in which a round would wait for ever.
            self.time.trace.time_with(self.asked, 0.0)
        if self.sandwich and self.clients_per_round < 2:
            raise ValueError("A sandwich over the cohort needs at least 2 clients a round.")
        if not 0 < self.availability <= 1:
            raise ValueError(
                f"Expected an availability above 0 and up to 1, received {self.availability}."
            )

    def tier_of_clients(self) -> np.ndarray:
        """Index in `tiers` of each client, `(clients,)`; each tier has its share to within one."""
        shares = np.array([tier.share for tier in self.tiers])
        ends = np.round(np.cumsum(shares) / shares.sum() * self.clients).astype(int)
        tiers = np.searchsorted(ends, np.arange(self.clients), side="right")
        return np.random.default_rng([self.seed, _TIERS]).permutation(tiers)

    @property
    def asked(self) -> int:
        """Number of clients asked in a round."""
        return self.clients_per_round + (0 if self.time is None else self.time.over_asked)

    def plan(self, round_number: int, clock: float = 0.0) -> RoundPlan:
        """Plans one round.

        Args:
          round_number: Counted from 0.
          clock: `end_seconds` of the round before; 0 before the first.
        """
        begin, there = clock, self.clients
        if self.time is not None:
            begin = self.time.begin(clock, self.asked)
            if self.time.trace is not None:
                there = self.time.trace.available(begin)
        cohort_rng = np.random.default_rng([self.seed, _COHORT, round_number])
        cohort = cohort_rng.choice(there, self.asked, replace=False)
        tier_of_clients = self.tier_of_clients()
        rng = np.random.default_rng([self.seed, _ARCHITECTURES, round_number])
        architectures = []
        for place, client in enumerate(cohort):
            tier = self.tiers[tier_of_clients[client]]
            if self.sandwich and place < 2:
                ends = (self.space.smallest, self.space.largest)
                architectures.append(ends[place]())
            elif self.redraw and tier.bounds is not None:
                architectures.append(sample_within(self.space, rng, "parameters", *tier.bounds))
            else:
                architectures.append(tier.architecture)
        rng = np.random.default_rng([self.seed, _AVAILABILITY, round_number])
        answered = np.flatnonzero(rng.random(len(cohort)) < self.availability)
        end = begin
        if self.time is not None:
            clients = [int(cohort[place]) for place in answered]
            seconds = [
                self.time.client_seconds(client, int(tier_of_clients[client]), architectures[place])
                for client, place in zip(clients, answered, strict=True)
            ]
            reported, end = self.time.outcome(begin, clients, seconds, self.clients_per_round)
            answered = answered[list(reported)]
        return RoundPlan(
            asked=len(cohort),
            clients=tuple(int(cohort[place]) for place in answered),
            architectures=tuple(architectures[place] for place in answered),
            seeds=np.array(
                [[self.seed + round_number, cohort[place]] for place in answered], np.int32
            ).reshape(-1, 2),
            begin_seconds=begin,
            end_seconds=end,
        )


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
        if share <= 0:
            raise ValueError(f"Tier {entry!r}: expected a share above 0 behind the @.")
        low, dash, high = what.partition("-")
        if what in ("smallest", "largest"):
            tiers.append(Tier(what, getattr(space, what)(), share))
        elif os.path.isfile(what):
            with open(what, encoding="utf-8") as file:
                architecture = Architecture.from_json(file.read())
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
    return tuple(tiers)


def _bounded_tier(space, name, bounds, share, seed):
    rng = np.random.default_rng([seed, _TIERS, *bounds])
    return Tier(name, sample_within(space, rng, "parameters", *bounds), share, bounds)
