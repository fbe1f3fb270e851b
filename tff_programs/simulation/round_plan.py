"""Who trains which architecture in a round: availability, the sandwich of a cohort.

Everything is a pure function of a seed, a round and the simulated time at which the last one ended,
so that a resumed run makes the same rounds.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.search.constraints import sample_within
from fedsup_tf.space import SearchSpace
from tff_programs.simulation.round_clock import SimulatedTime
from tff_programs.simulation.tiers import TIERS_STREAM, Tier, check_tiers

# Streams of random numbers that do not depend on each other; `TIERS_STREAM` is another.
_COHORT, _ARCHITECTURES, _AVAILABILITY, _CLIENTS = range(1, 5)
# Counts the changes of what seeds decide: a run of one number cannot go on under another.
RANDOM_STREAMS = 2


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
      cohort_seed: Decides who is asked in a round, instead of `seed`; secret where privacy counts
        on it.
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
    cohort_seed: int | None = None

    def __post_init__(self):
        check_tiers(self.tiers)
        if not 1 <= self.clients_per_round <= self.clients:
            raise ValueError(
                f"Expected 1 to {self.clients} clients a round, received {self.clients_per_round}."
            )
        if type(self.clients) is not int or type(self.clients_per_round) is not int:
            raise ValueError(
                "Expected whole numbers of clients and clients a round, received "
                f"{self.clients!r} and {self.clients_per_round!r}."
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
        return np.random.default_rng([self.seed, TIERS_STREAM]).permutation(tiers)

    def _client_seed(self, round_number: int, client: int) -> np.ndarray:
        """Returns int32 `(2,)` that no other round, client or seed has but by chance."""
        sequence = np.random.SeedSequence([self.seed, _CLIENTS, round_number, client])
        return sequence.generate_state(2).view(np.int32)

    @property
    def has_secret_random_cohorts(self) -> bool:
        """Whether each round asks a uniformly random subset that a secret seed alone decides.

        Only then is privacy amplified by sampling. Who is asked among those that an availability
        trace lets be there is no random subset of all clients.
        """
        return self.cohort_seed is not None and (self.time is None or self.time.trace is None)

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
        cohort_seed = self.seed if self.cohort_seed is None else self.cohort_seed
        cohort_rng = np.random.default_rng([cohort_seed, _COHORT, round_number])
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
                [self._client_seed(round_number, int(cohort[place])) for place in answered],
                np.int32,
            ).reshape(-1, 2),
            begin_seconds=begin,
            end_seconds=end,
        )
