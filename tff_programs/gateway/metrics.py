"""Counters of one process, in the Prometheus text format."""

import collections
from collections.abc import Mapping

_PREFIX = "fedsup_gateway"


class Metrics:
    """Counts the answers of this process since it started."""

    def __init__(self):
        """Sets all counters to zero."""
        self._answers = collections.Counter()
        self._seconds = collections.Counter()
        self._refusals = collections.Counter()
        self.received_bytes = 0
        self.sent_bytes = 0

    def answered(self, method: str, handler: str, status: int, seconds: float) -> None:
        """Counts an answer and adds up its duration."""
        self._answers[method, handler, status] += 1
        self._seconds[method, handler] += seconds

    def refused(self, code: str) -> None:
        """Counts a refusal."""
        self._refusals[code] += 1

    def received(self, count: int) -> None:
        """Adds to the bytes of received updates."""
        self.received_bytes += count

    def sent(self, count: int) -> None:
        """Adds to the bytes of sent models."""
        self.sent_bytes += count

    def text(self, gauges: Mapping[str, float]) -> str:
        """Returns the counters and the given gauges in the Prometheus text format."""
        lines = [f"# TYPE {_PREFIX}_answers_total counter"]
        for (method, handler, status), count in sorted(self._answers.items()):
            labels = f'method="{method}",request="{handler}",status="{status}"'
            lines.append(f"{_PREFIX}_answers_total{{{labels}}} {count}")
        lines.append(f"# TYPE {_PREFIX}_seconds_total counter")
        for (method, handler), seconds in sorted(self._seconds.items()):
            labels = f'method="{method}",request="{handler}"'
            lines.append(f"{_PREFIX}_seconds_total{{{labels}}} {seconds:.6f}")
        lines.append(f"# TYPE {_PREFIX}_refusals_total counter")
        for code, count in sorted(self._refusals.items()):
            lines.append(f'{_PREFIX}_refusals_total{{code="{code}"}} {count}')
        for name in ("received_bytes", "sent_bytes"):
            lines += [
                f"# TYPE {_PREFIX}_{name}_total counter",
                f"{_PREFIX}_{name}_total {getattr(self, name)}",
            ]
        kinds = dict.fromkeys(name.partition("{")[0] for name in gauges)
        for kind in kinds:
            lines.append(f"# TYPE {_PREFIX}_{kind} gauge")
            lines += [
                f"{_PREFIX}_{name} {value:g}"
                for name, value in gauges.items()
                if name.partition("{")[0] == kind
            ]
        return "\n".join(lines) + "\n"
