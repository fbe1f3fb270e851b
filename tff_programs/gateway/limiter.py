"""Limits how often a device may ask, in the memory of each process."""

import collections
from collections.abc import Callable

from tff_programs.gateway.refusal import RefusalError

# Devices that are remembered; the one that asked longest ago is forgotten first.
_MOST_DEVICES = 100_000


class Limiter:
    """A bucket of requests for each device that fills by itself.

    A device may send `burst` requests at once, and `per_hour` over time. The limit protects a
    process from a device that runs wild; each process counts for itself.
    """

    def __init__(self, per_hour: float, burst: int, clock: Callable[[], float]):
        """Creates the limiter.

        Args:
          per_hour: Requests an hour.
          burst: Requests at once.
          clock: Returns seconds that never go back.
        """
        self._per_second = per_hour / 3600
        self._burst = burst
        self._clock = clock
        self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def take(self, device: str) -> None:
        """Counts a request.

        Raises:
          RefusalError: If the device asked too often.
        """
        now = self._clock()
        level, since = self._buckets.pop(device, (float(self._burst), now))
        level = min(self._burst, level + (now - since) * self._per_second)
        allowed = level >= 1
        self._buckets[device] = (level - 1 if allowed else level, now)
        if len(self._buckets) > _MOST_DEVICES:
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
