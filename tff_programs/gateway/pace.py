"""Pace steering: when a device comes back, so that all of them spread over time.

As in Bonawitz et al., Towards Federated Learning at Scale (2019), section 2.3: a small fleet comes
back after a fixed time, a large one the later the larger it is, and no two at once.
"""

import dataclasses
import random

# A year. Twice as long is a number of seconds that a phone counts in 32 bits.
MOST_SECONDS = 365 * 24 * 3600.0


@dataclasses.dataclass(frozen=True)
class Pace:
    """Chooses the seconds until devices' next check-ins.

    Attributes:
      seconds: Mean of the seconds where there are few devices.
      most_per_second: Check-ins a second that the server wants to bear; the more devices there are,
        the longer each waits, up to a mean of `MOST_SECONDS`.
      least_share: Least part of the mean that a device waits; the most is 2 minus it.
    """

    seconds: float = 300.0
    most_per_second: float = 100.0
    least_share: float = 0.5

    def wait_seconds(self, devices: int, rng: random.Random) -> int:
        """Draws the whole seconds, from 1, until a device of so many comes back."""
        mean = min(MOST_SECONDS, max(self.seconds, devices / self.most_per_second))
        return max(1, round(mean * rng.uniform(self.least_share, 2 - self.least_share)))
