"""Availability traces, from a file or drawn from a seed: the times at which clients can train."""

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedsup_tf.files.json_schema import expect_keys, parse_json, quoted, read_json
from fedsup_tf.files.reading import parsing
from fedsup_tf.files.validation import check_whole_number

HOUR = 3600
DAY = 24 * HOUR
# A thousand years, all of whose seconds are exact in float64.
_LONGEST_PERIOD = 365_250 * DAY
# The time zones of one country, whose phones reach their server mostly at night.
DEFAULT_UTC_OFFSETS_HOURS = (-8.0, -7.0, -6.0, -5.0)


@dataclasses.dataclass(frozen=True)
class AvailabilityTrace:
    """Times at which each client can take part, such as while it is charging and on Wi-Fi.

    Its JSON form, in whole seconds, has one list of intervals per client, in the order of clients:

        {"period_seconds": 86400,
         "clients": [[[0, 21600], [79200, 86400]],     from 22:00 to 6:00, across midnight
                     [[3600, 28800]],
                     []]}                              never available

    An interval `[begin, end]` includes `begin` but not `end`. The trace repeats after the period.

    Attributes:
      period_seconds: Period after which the trace repeats, in seconds.
      clients: Intervals of each client, in order and not touching each other.
    """

    period_seconds: int
    clients: tuple[tuple[tuple[int, int], ...], ...]

    def __post_init__(self):
        bounds = (1, _LONGEST_PERIOD)
        period = check_whole_number(
            self.period_seconds, "period_seconds", *bounds, what="Availability trace"
        )
        object.__setattr__(self, "period_seconds", period)
        for client, intervals in enumerate(self.clients):
            last = -1
            for begin, end in intervals:
                if not last < begin < end <= self.period_seconds:
                    raise ValueError(
                        f"Availability trace, client {client}: expected intervals [begin, end] "
                        f"with 0 <= begin < end <= {self.period_seconds}, in order and apart from "
                        f"each other, received {quoted([list(pair) for pair in intervals])}. Join "
                        "intervals that touch; split one that passes the period's end."
                    )
                last = end

    @classmethod
    @parsing("Availability trace")
    def from_json(cls, text: str) -> "AvailabilityTrace":
        """Parses a trace that was written by `to_json` or by hand.

        Raises:
          ValueError: If a field is missing, unknown or invalid.
        """
        what = "Availability trace"
        fields = parse_json(text, what)
        names = {field.name for field in dataclasses.fields(cls)}
        expect_keys(fields, names, names, what)
        clients = fields["clients"]
        if not isinstance(clients, list) or not clients:
            raise ValueError(f"{what}: expected clients as a list with one entry or more.")
        return cls(
            fields["period_seconds"],
            tuple(_intervals(given, f"{what}, client {n}") for n, given in enumerate(clients)),
        )

    def to_json(self) -> str:
        """Returns JSON from which `from_json` makes an equal trace."""
        return json.dumps(dataclasses.asdict(self))

    def available(self, seconds: float) -> np.ndarray:
        """Returns the numbers of the clients that are available at a time, in increasing order."""
        phase = math.fmod(seconds, self.period_seconds)
        clients, begins, ends = self._flat
        return clients[(begins <= phase) & (phase < ends)]

    def available_until(self, client: int, seconds: float) -> float:
        """Returns when a client that is available at a time leaves; infinity if it never does.

        Raises:
          ValueError: If the client is not available.
        """
        # Exact, as is every sum with whole seconds: this agrees with `available`.
        phase = math.fmod(seconds, self.period_seconds)
        intervals = self.clients[client]
        for begin, end in intervals:
            if begin <= phase < end:
                if end < self.period_seconds or intervals[0][0] > 0:
                    return seconds - phase + end
                if begin == 0:
                    return math.inf
                return seconds - phase + end + intervals[0][1]
        raise ValueError(
            f"Expected a client that is available at {seconds} s, received client {client}, which "
            "is not."
        )

    def time_with(self, count: int, seconds: float) -> float:
        """Returns the first time, not before `seconds`, at which `count` clients are available.

        Raises:
          ValueError: If that many are never available at the same time.
        """
        if count > self.max_available:
            raise ValueError(
                f"Expected to ask no more clients than are ever available at once, which are "
                f"{self.max_available} of the trace's {len(self.clients)}; received {count}. Ask "
                "fewer, or give another trace."
            )
        phase = math.fmod(seconds, self.period_seconds)
        if len(self.available(seconds)) >= count:
            return seconds
        times, counts = self.changes
        enough = times[counts >= count]
        later = enough[enough > phase]
        start = seconds - phase
        return float(start + (later[0] if len(later) else self.period_seconds + enough[0]))

    @property
    def max_available(self) -> int:
        """Maximum number of clients that are available at the same time."""
        return int(self.changes[1].max(initial=0))

    @functools.cached_property
    def changes(self) -> tuple[np.ndarray, np.ndarray]:
        """Times in the period when clients come or leave, and the number available from then."""
        _, begins, ends = self._flat
        moments = np.concatenate([begins, ends])
        steps = np.repeat([1, -1], len(begins))
        times, places = np.unique(moments, return_inverse=True)
        return times, np.cumsum(np.bincount(places, steps, len(times))).astype(int)

    @functools.cached_property
    def _flat(self):
        rows = [
            (client, begin, end)
            for client, intervals in enumerate(self.clients)
            for begin, end in intervals
        ]
        return np.array(rows, np.int64).reshape(-1, 3).T


def load_trace(path: str) -> AvailabilityTrace:
    """Reads a trace from a JSON file; errors name the file."""
    what = "when clients are available (--availability_trace)"
    return read_json(path, what, AvailabilityTrace.from_json)


def diurnal_trace(
    clients: int,
    seed: int,
    utc_offsets_hours: Sequence[float] = DEFAULT_UTC_OFFSETS_HOURS,
    days: int = 7,
) -> AvailabilityTrace:
    """Draws a trace of phones that can take part while they charge at night.

    Production systems ask only phones that are idle, charging and on an unmetered network, so
    availability follows the night in the phones' time zones (arXiv 1902.01046, section 9; arXiv
    1812.02903, section 3). Here, each client lives in one time zone and has a bedtime; on nine out
    of ten nights it charges from about then for about eight hours. The numbers are assumptions.

    Args:
      clients: Number of clients.
      seed: Seed of the trace.
      utc_offsets_hours: Time zones, as local time minus UTC in hours; second 0 is midnight in UTC.
      days: Number of days after which the trace repeats.
    """
    if not utc_offsets_hours or not all(-12 <= offset <= 14 for offset in utc_offsets_hours):
        raise ValueError(
            "Expected time zones as hours from -12 to 14, one or more, received "
            f"{list(utc_offsets_hours)}."
        )
    period = days * DAY
    rng = np.random.default_rng([seed, clients])
    drawn = []
    for _ in range(clients):
        bedtime = rng.uniform(21.5, 24.5) - rng.choice(utc_offsets_hours)
        starts = bedtime + rng.normal(0, 0.5, days) + 24 * np.arange(days)
        hours = np.clip(rng.normal(8, 1, days), 4, 11)
        charges = rng.random(days) < 0.9
        nights = zip(starts[charges] * HOUR, hours[charges] * HOUR, strict=True)
        drawn.append(_within_period([(int(b), int(b + length)) for b, length in nights], period))
    return AvailabilityTrace(period, tuple(drawn))


def _within_period(intervals, period):
    """Moves intervals into the period, splits them at its end and joins those that meet."""
    parts = []
    for begin, end in intervals:
        length, begin = end - begin, begin % period
        parts.append((begin, min(begin + length, period)))
        if begin + length > period:
            parts.append((0, begin + length - period))
    joined = []
    for begin, end in sorted(parts):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return tuple(joined)


def _intervals(given: Any, what: str) -> tuple[tuple[int, int], ...]:
    if not isinstance(given, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(value) is int for value in pair)
        for pair in given
    ):
        raise ValueError(
            f"{what}: expected a list of intervals [begin, end] in whole seconds, received "
            f"{quoted(given)}."
        )
    return tuple((begin, end) for begin, end in given)
