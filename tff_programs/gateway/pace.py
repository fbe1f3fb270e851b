"""Pace steering: spreads the check-ins of devices over time.

As in Bonawitz et al., Towards Federated Learning at Scale (2019), section 2.3: the mean wait is
fixed for a small fleet and grows with the size of a large one; each device's wait is random.
"""

import dataclasses
import random

# One year. Twice this value, the longest wait, fits in a signed 32-bit integer.
MAX_SECONDS = 365 * 24 * 3600.0


@dataclasses.dataclass(frozen=True)
class Pace:
    """Chooses the time until a device's next check-in.

    Attributes:
      seconds: Mean wait of a small fleet, in seconds.
      max_per_second: Maximum check-ins per second that the server aims for. The mean wait grows
        with the number of devices accordingly, up to `MAX_SECONDS`.
      min_share: Minimum wait as a share of the mean; the maximum share is `2 - min_share`.
    """

    seconds: float = 300.0
    max_per_second: float = 100.0
    min_share: float = 0.5

    def wait_seconds(self, devices: int, rng: random.Random) -> int:
        """Draws the wait of one of `devices` devices, in whole seconds, at least 1."""
        mean = min(MAX_SECONDS, max(self.seconds, devices / self.max_per_second))
        return max(1, round(mean * rng.uniform(self.min_share, 2 - self.min_share)))
