"""Measured latencies of the parts of a search space's subnets on one machine.

The latency of an architecture is the sum over its parts (`cost_parts.parts_of`).
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.atomic_write import write_text
from fedsup_tf.files.json_schema import expect_keys, parse_json, quoted, read_json
from fedsup_tf.files.reading import parsing
from fedsup_tf.files.validation import check_number, check_whole_number
from fedsup_tf.search.cost_parts import Part, parts_of, parts_of_space
from fedsup_tf.space import SearchSpace

_WHAT = "A latency table"


class Latency(NamedTuple):
    """Latency of a part or of a whole subnet.

    Attributes:
      infer_ms: Latency of an inference in milliseconds.
      train_ms: Latency of a training step in milliseconds.
    """

    infer_ms: float
    train_ms: float


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Conditions under which one of the two latencies was measured, and the table's errors for it.

    Attributes:
      batch_size: Number of images in an inference or a training step.
      threads: Number of interpreter threads.
      subnets: Number of whole subnets that were timed to check the table.
      median_error: Median over these subnets of |sum of rows - measured| / measured.
      largest_error: Maximum of these errors.
    """

    batch_size: int
    threads: int
    subnets: int
    median_error: float
    largest_error: float

    def __post_init__(self):
        for field, minimum in (("batch_size", 1), ("threads", 1), ("subnets", 0)):
            check_whole_number(getattr(self, field), field, minimum, what=f"{_WHAT}'s measurement")
        for field in ("median_error", "largest_error"):
            check_number(getattr(self, field), field, minimum=0, what=f"{_WHAT}'s measurement")


class LatencyTable:
    """Latencies of all parts of a search space's subnets.

    The JSON form, with one row for each part in `parts_of_space`:

        {"space": {...},                    as SearchSpace.to_json writes it
         "machine": "text for people",
         "infer": {"batch_size": 1, "threads": 1, "subnets": 20,
                   "median_error": 0.02, "largest_error": 0.07},
         "train": {...},                    the same fields
         "rows": [
          {"kind": "stem", "infer_ms": 0.1, "train_ms": 0.4},
          {"kind": "stage", "stage": 0, "in_width": 32, "width": 64, "depth": 1, "kernel": 3,
           "infer_ms": 0.2, "train_ms": 0.9},
          {"kind": "head", "in_width": 512, "infer_ms": 0.1, "train_ms": 0.2}]}

    In a space with several resolutions, each row also has a `resolution`.
    """

    def __init__(
        self,
        space: SearchSpace,
        rows: Mapping[Part, Latency],
        machine: str,
        infer: Measurement,
        train: Measurement,
    ):
        """Creates a table.

        Args:
          space: Search space whose parts were measured.
          rows: Latency of each part in `parts_of_space(space)`.
          machine: Human-readable description of the machine.
          infer: Conditions and errors of the inference measurements.
          train: Conditions and errors of the training-step measurements.

        Raises:
          ValueError: If a part has no row, a row's part is not in the space, or a latency is not a
            number >= 0.
        """
        parts = parts_of_space(space)
        missing = [part for part in parts if part not in rows]
        unknown = sorted(set(rows) - set(parts))
        if missing or unknown:
            lines = [
                f"{len(found)} {what}, such as {_describe(found[0])}"
                for found, what in ((missing, "missing"), (unknown, "of no such part"))
                if found
            ]
            raise ValueError(
                f"{_WHAT} of search space {space.name!r}: expected one row for each of its "
                f"{len(parts)} parts, received {'; '.join(lines)}. Measure the table anew."
            )
        for part, latency in rows.items():
            for field, value in zip(Latency._fields, latency, strict=True):
                check_number(value, field, minimum=0, what=f"{_WHAT}, row of {_describe(part)}")
        self.space = space
        self.rows = {part: Latency(*map(float, rows[part])) for part in parts}
        self.machine = machine
        self.infer = infer
        self.train = train

    def latency(self, architecture: Architecture) -> Latency:
        """Computes the latency of an architecture as the sum of the rows of its parts."""
        parts = [self.rows[part] for part in parts_of(self.space, architecture)]
        return Latency(*(math.fsum(column) for column in zip(*parts, strict=True)))

    def check_space(self, space: SearchSpace) -> None:
        """Raises a ValueError unless the table was measured for `space`."""
        if self.space == space:
            return
        expected, received = space.differences(self.space)
        raise ValueError(
            f"{_WHAT}: expected one of search space {space.name!r} with {expected}, received one "
            f"with {received}. Measure a table for this space."
        )

    def to_json(self) -> str:
        """Returns the table in the JSON form of the class, with one row per line."""
        rows = [{**part_fields(part), **found._asdict()} for part, found in self.rows.items()]
        fields = {
            "space": self.space.fields(),
            "machine": self.machine,
            "infer": dataclasses.asdict(self.infer),
            "train": dataclasses.asdict(self.train),
        }
        head = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]
        lines = ",\n ".join(map(json.dumps, rows))
        return "{" + ",\n ".join([*head, f'"rows": [\n {lines}]']) + "}\n"

    @classmethod
    @parsing(_WHAT)
    def from_json(cls, text: str) -> "LatencyTable":
        """Parses the JSON that `to_json` returns.

        Raises:
          ValueError: If the text is not such JSON; the message names the field or row.
        """
        fields = parse_json(text, _WHAT)
        names = {"space", "machine", "infer", "train", "rows"}
        expect_keys(fields, names, names, _WHAT)
        measurements = {}
        known = {field.name for field in dataclasses.fields(Measurement)}
        for name in ("infer", "train"):
            expect_keys(fields[name], known, known, f"{_WHAT}'s {name}")
            measurements[name] = Measurement(**fields[name])
        if not isinstance(fields["machine"], str) or not isinstance(fields["rows"], list):
            raise ValueError(f"{_WHAT}: expected machine to be text and rows to be a list.")
        space = SearchSpace.from_fields(fields["space"])
        rows = {}
        for number, row in enumerate(fields["rows"]):
            part, latency = _read_row(row, f"{_WHAT}, row {number + 1}")
            if part in rows:
                raise ValueError(
                    f"{_WHAT}, row {number + 1}: {_describe(part)} has a row before. Drop one."
                )
            rows[part] = latency
        return cls(space, rows, fields["machine"], **measurements)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the table's JSON atomically."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "LatencyTable":
        """Reads a table that `save` wrote.

        Raises:
          ValueError: If the file does not exist or is not a complete table; the message names the
            file.
        """
        return read_json(path, "a latency table", cls.from_json)


_KEYS = {
    "stem": (),
    "stage": ("stage", "in_width", "width", "depth", "kernel"),
    "head": ("in_width",),
}


def part_fields(part: Part) -> dict[str, Any]:
    """Returns the fields of a part in a row of a latency table, without the latencies."""
    keys = {key: getattr(part, key) for key in _KEYS[part.kind]}
    if part.resolution:
        keys["resolution"] = part.resolution
    return {"kind": part.kind, **keys}


def _describe(part: Part) -> str:
    fields = part_fields(part)
    # A stage already has a field with the name of its kind, its index.
    kind = fields.pop("kind")
    texts = [f"{name} {value}" for name, value in fields.items()]
    return ", ".join(texts if kind in fields else [kind, *texts])


def _read_row(row: Any, what: str) -> tuple[Part, Latency]:
    kind = row.get("kind") if isinstance(row, dict) else None
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ValueError(f"{what}: expected a kind of {', '.join(_KEYS)}, received {quoted(row)}.")
    names = {"kind", *_KEYS[kind], *Latency._fields}
    expect_keys(row, names | {"resolution"}, names, what)
    keys = [key for key in (*_KEYS[kind], "resolution") if key in row]
    if any(type(row[key]) is not int for key in keys):
        raise ValueError(f"{what}: expected {', '.join(keys)} as whole numbers, got {quoted(row)}.")
    part = Part(kind, **{key: row[key] for key in keys})
    return part, Latency(row["infer_ms"], row["train_ms"])
