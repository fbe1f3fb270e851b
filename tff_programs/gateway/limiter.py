"""Rate limit for each device, in the memory of each process."""

import collections
from collections.abc import Callable

from tff_programs.gateway.refusal import RefusalError

# Maximum number of tracked devices; the one that asked longest ago is dropped first.
_MAX_DEVICES = 100_000


class Limiter:
    """A token bucket for each device.

    A device may send `burst` requests at once, and `per_hour` over time. The limit protects a
    process from a runaway device; each process counts separately.
    """

    def __init__(self, per_hour: float, burst: int, clock: Callable[[], float]):
        """Creates the limiter.

        Args:
          per_hour: Number of requests per hour that a device may send over time.
          burst: Number of requests that a device may send at once.
          clock: Returns a monotonic time in seconds.
        """
        self._per_second = per_hour / 3600
        self._burst = burst
        self._clock = clock
        self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def take(self, device: str) -> None:
        """Counts a request of a device.

        Raises:
          RefusalError: If the device exceeded its limit.
        """
        now = self._clock()
        level, since = self._buckets.pop(device, (float(self._burst), now))
        level = min(self._burst, level + (now - since) * self._per_second)
        allowed = level >= 1
        self._buckets[device] = (level - 1 if allowed else level, now)
        if len(self._buckets) > _MAX_DEVICES:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = max(1, round((1 - level) / self._per_second))
            raise RefusalError(
                429,
                "limit",
                f"Expected at most {self._per_second * 3600:g} requests an hour of a device, "
                f"received more. Come back in {wait} seconds.",
                wait,
            )
