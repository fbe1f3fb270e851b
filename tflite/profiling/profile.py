"""Measures a `LatencyTable`: the latency of each part of a space's subnets in the stock runtime.

Each part is converted like a whole subnet. The overhead of a runtime call is subtracted from each
part and added to the row of the stem, which every subnet has once. The remaining difference between
sums of parts and whole subnets, for example due to the state of the caches, is corrected by one
factor for inference and one for training, fitted on some subnets. The errors that the table states
are measured on other subnets.
"""

import dataclasses
import json
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.atomic_write import write_text
from fedsup_tf.files.json_schema import parse_json
from fedsup_tf.files.reading import read_text, reading
from fedsup_tf.search.cost_parts import Part, parts_of_space, resolutions_of
from fedsup_tf.search.latency import Latency, LatencyTable, Measurement
from fedsup_tf.space import SearchSpace
from tflite.format import signatures
from tflite.profiling.part_models import PARTS_IN_A_FILE, Conditions, ModelConverter
from tflite.profiling.timing import min_milliseconds, prepare_calls


@dataclasses.dataclass
class Profile:
    """Measurements so far, in milliseconds.

    Attributes:
      space: Search space of the measured parts.
      conditions: Conditions of the measurement.
      parts: Latency of each part, without the overhead of a call.
      calls: Overhead of a call, measured once per file of parts.
      subnets: Latency of whole subnets.
      loads: Load average of the machine after each file, for information only.
    """

    space: SearchSpace
    conditions: Conditions
    parts: dict[Part, Latency] = dataclasses.field(default_factory=dict)
    calls: list[Latency] = dataclasses.field(default_factory=list)
    subnets: dict[Architecture, Latency] = dataclasses.field(default_factory=dict)
    loads: list[float] = dataclasses.field(default_factory=list)

    def save(self, path: str | os.PathLike) -> None:
        """Atomically writes the measurements as JSON."""
        fields = {
            **self._identity(),
            "parts": [[*part, *latency] for part, latency in self.parts.items()],
            "calls": self.calls,
            "subnets": [
                [json.loads(architecture.to_json()), *latency]
                for architecture, latency in self.subnets.items()
            ],
            "loads": self.loads,
        }
        write_text(path, json.dumps(fields))

    def load(self, path: str | os.PathLike) -> None:
        """Restores the measurements that `save` wrote.

        Raises:
          ValueError: If the file is damaged or belongs to another space or other conditions.
        """
        what = "measurements of a profile that was interrupted"
        with reading(path, what, "Remove the file to begin anew."):
            fields = parse_json(read_text(path, what), what.capitalize())
            identity = {name: fields[name] for name in self._identity()}
            parts = {Part(*row[:-2]): Latency(*row[-2:]) for row in fields["parts"]}
            subnets = {
                Architecture.from_fields(row[0]): Latency(*row[1:]) for row in fields["subnets"]
            }
            calls = [Latency(*call) for call in fields["calls"]]
            loads = list(fields["loads"])
        if identity != self._identity():
            raise ValueError(
                f"{str(path)!r} holds measurements of {identity}, expected {self._identity()}. "
                "Give the same flags to go on, or remove the file to begin anew."
            )
        self.parts, self.calls, self.subnets, self.loads = parts, calls, subnets, loads

    def _identity(self) -> dict[str, Any]:
        conditions = dataclasses.asdict(self.conditions)
        return {"space": json.loads(self.space.to_json()), "conditions": conditions}


class Profiler:
    """Measures parts and subnets and adds the results to a `Profile`."""

    def __init__(
        self,
        profile: Profile,
        converter: ModelConverter,
        on_file: Callable[[Sequence[Part | Architecture]], None],
    ):
        """Creates the profiler.

        Args:
          profile: Profile to add measurements to.
          converter: Converter of the models, with the profile's space and conditions.
          on_file: Called with the parts or architectures that were measured together.
        """
        self._profile = profile
        self._converter = converter
        self._on_file = on_file

    def measure_parts(self) -> None:
        """Measures every part that is not in the profile."""
        left = [p for p in parts_of_space(self._profile.space) if p not in self._profile.parts]
        for start in range(0, len(left), PARTS_IN_A_FILE):
            parts = left[start : start + PARTS_IN_A_FILE]
            call, *latencies = self._time(self._converter.convert_parts(parts), len(parts) + 1)
            for part, latency in zip(parts, latencies, strict=True):
                # Due to noise, a cheap part may be faster than a call that computes nothing.
                own = (max(0.0, value - idle) for value, idle in zip(latency, call, strict=True))
                self._profile.parts[part] = Latency(*own)
            self._profile.calls.append(call)
            self._profile.loads.append(os.getloadavg()[0])
            self._on_file(parts)

    def measure_subnets(self, architectures: Sequence[Architecture]) -> None:
        """Measures exported subnets that are not in the profile.

        The subnets take turns, so that each starts with a cold cache, as a part does.
        """
        left = [a for a in architectures if a not in self._profile.subnets]
        if not left:
            return
        conditions, calls = self._profile.conditions, {}
        for architecture in left:
            model = self._converter.export_subnet(architecture)
            kinds = prepare_calls(model, (signatures.INFER, signatures.TRAIN), conditions.threads)
            calls |= {(architecture, kind): call for kind, call in kinds.items()}
        taken = min_milliseconds(calls, conditions.repetitions, conditions.threads)
        for architecture in left:
            self._profile.subnets[architecture] = Latency(
                taken[architecture, signatures.INFER], taken[architecture, signatures.TRAIN]
            )
        self._profile.loads.append(os.getloadavg()[0])
        self._on_file(left)

    def _time(self, model: bytes, parts: int) -> list[Latency]:
        kinds = ("infer", "train")
        names = [f"{kind}_{number}" for number in range(parts) for kind in kinds]
        conditions = self._profile.conditions
        calls = prepare_calls(model, names, conditions.threads)
        taken = min_milliseconds(calls, conditions.repetitions, conditions.threads)
        return [Latency(*(taken[f"{k}_{number}"] for k in kinds)) for number in range(parts)]


def fit_table(
    profile: Profile,
    fitted_on: Sequence[Architecture],
    checked_on: Sequence[Architecture],
    machine: str,
) -> LatencyTable:
    """Creates the table from a profile that has all parts and the given subnets.

    Args:
      profile: Profile with the measurements.
      fitted_on: Subnets that the two factors are fitted on; if empty, the factors are 1.
      checked_on: Other subnets that the errors are measured on.
      machine: Description of the machine; the factors and loads are appended to it.
    """
    call = Latency(*(statistics.median(column) for column in zip(*profile.calls, strict=True)))
    rows = dict(profile.parts)
    for stem in map(Part.of_stem, resolutions_of(profile.space)):
        rows[stem] = Latency(*(sum(pair) for pair in zip(rows[stem], call, strict=True)))
    idle = {"batch_size": 1, "threads": 1, "subnets": 0, "median_error": 0.0, "largest_error": 0.0}
    sums = LatencyTable(profile.space, rows, machine, Measurement(**idle), Measurement(**idle))
    factors = [_factor(sums, profile.subnets, fitted_on, kind) for kind in Latency._fields]
    scaled = {
        part: Latency(*(f * value for f, value in zip(factors, latency, strict=True)))
        for part, latency in rows.items()
    }
    lines = [machine]
    if fitted_on:
        lines.append(
            f"sums of parts times {factors[0]:.3f} (infer) and {factors[1]:.3f} (train), fitted on "
            f"{len(fitted_on)} subnets other than those of the errors"
        )
    if profile.loads:
        lines.append(f"load average {min(profile.loads):.1f} to {max(profile.loads):.1f}")
    table = LatencyTable(profile.space, scaled, "; ".join(lines), sums.infer, sums.train)
    conditions = profile.conditions
    batches = (conditions.infer_batch_size, conditions.train_batch_size)
    measurements = []
    for kind, batch in zip(Latency._fields, batches, strict=True):
        errors = relative_errors(table, profile.subnets, checked_on, kind)
        measurements.append(
            Measurement(
                batch_size=batch,
                threads=conditions.threads,
                subnets=len(errors),
                median_error=statistics.median(map(abs, errors)),
                largest_error=max(map(abs, errors)),
            )
        )
    return LatencyTable(profile.space, scaled, table.machine, *measurements)


def relative_errors(
    table: LatencyTable,
    measured: Mapping[Architecture, Latency],
    architectures: Sequence[Architecture],
    kind: str,
) -> list[float]:
    """Computes `(table - measured) / measured` per subnet; `kind` is a field of `Latency`."""
    pairs = [(table.latency(a), measured[a]) for a in architectures]
    return [getattr(said, kind) / getattr(true, kind) - 1 for said, true in pairs]


def _factor(
    sums: LatencyTable,
    measured: Mapping[Architecture, Latency],
    architectures: Sequence[Architecture],
    kind: str,
) -> float:
    """Computes the geometric mean of the ratios of measured latency to the sum of parts."""
    errors = relative_errors(sums, measured, architectures, kind)
    return math.exp(-math.fsum(map(math.log1p, errors)) / max(1, len(errors)))
