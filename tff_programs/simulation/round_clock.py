"""Simulated time of a round: when it begins, whose updates arrive, when it ends."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.validation import check_number, check_whole_number
from tff_programs.simulation.availability import AvailabilityTrace


class Outcome(NamedTuple):
    """Outcome of a round: the updates that count and the time at which it ended.

    Attributes:
      reported: Positions, among the clients that trained, of those whose updates count.
      end_seconds: Time at which the server stopped waiting.
    """

    reported: tuple[int, ...]
    end_seconds: float


@dataclasses.dataclass(frozen=True)
class SimulatedTime:
    """Clock of a synchronous server.

    Like production systems (arXiv 1902.01046, section 2.2), the server waits until enough clients
    are available, may ask more clients than it needs, and may end a round at a deadline. A client
    whose availability ends before it finishes is lost for the round.

    Attributes:
      client_seconds: Maps a client's number, its tier's index and an architecture to the duration
        of the client's round in seconds.
      trace: Availability of the clients; None if they are always available.
      over_asked: Number of clients asked beyond those needed. The first to finish are used.
      deadline_seconds: Maximum duration of a round; infinity for no deadline.
    """

    client_seconds: Callable[[int, int, Architecture], float]
    trace: AvailabilityTrace | None = None
    over_asked: int = 0
    deadline_seconds: float = math.inf

    def __post_init__(self):
        check_whole_number(self.over_asked, "over_asked", 0)
        check_number(self.deadline_seconds, "deadline_seconds", above=0, allow_infinity=True)

    def begin(self, clock: float, asked: int) -> float:
        """Returns when a round that asks `asked` clients begins if the last ended at `clock`."""
        return clock if self.trace is None else self.trace.time_with(asked, clock)

    def outcome(
        self, begin: float, clients: Sequence[int], seconds: Sequence[float], needed: int
    ) -> Outcome:
        """Computes whose updates arrive in a round, and when it ends.

        Args:
          begin: Time at which the round begins.
          clients: Numbers of the clients that answered.
          seconds: Duration of each client's round.
          needed: Number of updates that end the round.
        """
        done, ends = [], [begin]
        for place, (client, duration) in enumerate(zip(clients, seconds, strict=True)):
            finish = begin + duration
            leaves = begin + self.deadline_seconds
            if self.trace is not None:
                leaves = min(leaves, self.trace.available_until(client, begin))
            if finish <= leaves:
                done.append((finish, place))
            # The server learns immediately that a client has left.
            ends.append(min(finish, leaves))
        done = sorted(done)[:needed]
        end = done[-1][0] if len(done) == needed else max(ends)
        return Outcome(tuple(sorted(place for _, place in done)), end)
