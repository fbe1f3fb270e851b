"""Plans of rounds (the clients that take part, and the architecture that each trains) and reports.

Everything is a pure function of a seed, the round and the simulated time at which the previous
round ended, so a resumed run makes the same rounds.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.validation import check_choice, check_number, check_whole_number
from fedsup_tf.search.constraints import sample_within
from fedsup_tf.space import SearchSpace
from tff_programs.simulation.cohorts import COHORTS, cohort_of_pass, random_cohort
from tff_programs.simulation.round_clock import SimulatedTime
from tff_programs.simulation.tiers import TIERS_STREAM, Tier, check_tiers

# Independent streams of random numbers; `TIERS_STREAM` is another.
_COHORT, _ARCHITECTURES, _AVAILABILITY, _CLIENTS = range(1, 5)
# Version of the random draws: a run cannot be continued with another version.
RANDOM_STREAMS = 2


class RoundPlan(NamedTuple):
    """Plan of a round: the clients that take part and what they train.

    Attributes:
      asked: Number of clients that were asked.
      clients: Numbers of the clients that answered and, if time is simulated, finished.
      architectures: Architecture that each of these clients trains.
      seeds: Seed of each client's training, int32 `(answered, 2)`.
      begin_seconds: Simulated time at which the round begins.
      end_seconds: Simulated time at which it ends.
    """

    asked: int
    clients: tuple[int, ...]
    architectures: tuple[Architecture, ...]
    seeds: np.ndarray
    begin_seconds: float = 0.0
    end_seconds: float = 0.0


class RoundReport(NamedTuple):
    """Report of a completed round.

    Attributes:
      number: Number of rounds done, including this one.
      plan: Plan of the round, including the clients that took part.
      metrics: Flat metrics by name, as released; without `loss` if no update was used.
      rejected: Numbers of the clients whose updates were not finite.
    """

    number: int
    plan: RoundPlan
    metrics: Mapping[str, float]
    rejected: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Assignment of clients and architectures to rounds.

    Attributes:
      space: Search space of the architectures.
      tiers: Classes of devices; each client permanently belongs to one.
      clients: Total number of clients.
      clients_per_round: Number of clients asked per round, not counting those that `time` asks in
        addition.
      seed: Seed of all random choices.
      redraw: Whether a client of a tier with a limit gets a new architecture in each round, drawn
        from all that its device can train, instead of the tier's own.
      tier_net_share: With `redraw`, the probability of the tier's own architecture.
      cohorts: `"passes"` asks all clients once before any is asked again, with the clients of each
        tier spread evenly (see `cohorts.cohort_of_pass`). `"random"` draws clients uniformly and
        independently in each round. With an availability trace, both draw independently from the
        clients that are available.
      sandwich: Whether each round's first client trains the smallest and its second client the
        largest architecture, regardless of their tiers.
      availability: Probability that a client that was asked answers.
      architecture: If given, the one architecture that all clients train; clients whose tier cannot
        train it do not answer. This is exclusive training, the alternative to a supernet.
      time: Simulated timing of rounds; by default no time passes.
      cohort_seed: Seed of the choice of clients, instead of `seed`; must be secret if privacy
        relies on it.
    """

    space: SearchSpace
    tiers: tuple[Tier, ...]
    clients: int
    clients_per_round: int
    seed: int = 0
    redraw: bool = True
    tier_net_share: float = 0.0
    cohorts: str = "passes"
    sandwich: bool = False
    availability: float = 1.0
    architecture: Architecture | None = None
    time: SimulatedTime | None = None
    cohort_seed: int | None = None

    def __post_init__(self):
        check_tiers(self.tiers)
        fewer = "Ask fewer, or have more clients."
        for field, maximum in (("clients", None), ("clients_per_round", self.clients)):
            value = check_whole_number(getattr(self, field), field, 1, maximum, advice=fewer)
            object.__setattr__(self, field, value)
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
            # Refuses a trace in which a round would wait forever.
            self.time.trace.time_with(self.asked, 0.0)
        check_choice(self.cohorts, "cohorts", COHORTS)
        check_number(self.tier_net_share, "tier_net_share", minimum=0, maximum=1)
        check_number(self.availability, "availability", above=0, maximum=1)
        if self.sandwich and self.clients_per_round < 2:
            raise ValueError("A sandwich over the cohort needs at least 2 clients a round.")

    def tier_of_clients(self) -> np.ndarray:
        """Returns each client's index in `tiers`, `(clients,)`.

        The size of each tier matches its share to within one client.
        """
        shares = np.array([tier.share for tier in self.tiers])
        ends = np.round(np.cumsum(shares) / shares.sum() * self.clients).astype(int)
        tiers = np.searchsorted(ends, np.arange(self.clients), side="right")
        return np.random.default_rng([self.seed, TIERS_STREAM]).permutation(tiers)

    def _client_seed(self, round_number: int, client: int) -> np.ndarray:
        """Returns a seed, int32 `(2,)`, unique to `seed`, round and client except by chance."""
        sequence = np.random.SeedSequence([self.seed, _CLIENTS, round_number, client])
        return sequence.generate_state(2).view(np.int32)

    @property
    def has_secret_random_cohorts(self) -> bool:
        """True if each round asks a uniformly random subset of clients, drawn from a secret seed.

        Only then is privacy amplified by sampling. Neither a part of a pass nor a draw from the
        clients available in a trace is a uniformly random subset of all clients.
        """
        is_random = self.cohorts == "random" and (self.time is None or self.time.trace is None)
        return is_random and self.cohort_seed is not None

    @property
    def asked(self) -> int:
        """Number of clients asked per round, including those beyond `clients_per_round`."""
        return self.clients_per_round + (0 if self.time is None else self.time.over_asked)

    def plan(self, round_number: int, clock: float = 0.0) -> RoundPlan:
        """Plans one round.

        Args:
          round_number: Number of the round, from 0.
          clock: `end_seconds` of the previous round; 0 before the first.
        """
        begin = clock if self.time is None else self.time.begin(clock, self.asked)
        tier_of_clients = self.tier_of_clients()
        cohort = self._cohort(round_number, begin, tier_of_clients)
        rng = np.random.default_rng([self.seed, _ARCHITECTURES, round_number])
        architectures = []
        for place, client in enumerate(cohort):
            tier = self.tiers[tier_of_clients[client]]
            if self.architecture is not None:
                architectures.append(self.architecture)
            elif self.sandwich and place < 2:
                ends = (self.space.smallest, self.space.largest)
                architectures.append(ends[place]())
            elif self._draws_anew(tier, rng):
                architectures.append(
                    sample_within(self.space, rng, tier.cost, -math.inf, tier.limit)
                )
            else:
                architectures.append(tier.architecture)
        rng = np.random.default_rng([self.seed, _AVAILABILITY, round_number])
        answers = rng.random(len(cohort)) < self.availability
        if self.architecture is not None:
            carries = np.array([tier.carries(self.space, self.architecture) for tier in self.tiers])
            answers &= carries[tier_of_clients[cohort]]
        answered = np.flatnonzero(answers)
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
                [self._client_seed(round_number, int(cohort[place])) for place in answered],
                np.int32,
            ).reshape(-1, 2),
            begin_seconds=begin,
            end_seconds=end,
        )

    def _cohort(self, round_number: int, begin: float, tier_of_clients: np.ndarray) -> np.ndarray:
        seed = self.seed if self.cohort_seed is None else self.cohort_seed
        trace = None if self.time is None else self.time.trace
        if trace is None and self.cohorts == "passes":
            return cohort_of_pass((seed, _COHORT), round_number, tier_of_clients, self.asked)
        there = np.arange(self.clients) if trace is None else trace.available(begin)
        return random_cohort((seed, _COHORT, round_number), there, self.asked)

    def _draws_anew(self, tier: Tier, rng: np.random.Generator) -> bool:
        return self.redraw and tier.limit is not None and bool(rng.random() >= self.tier_net_share)
