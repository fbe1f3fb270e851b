"""An `Architecture` describes one subnet by the width, depth and kernel of each of its stages.

In a space with several resolutions, it also has the resolution of the subnet's input images.

It is immutable, hashable and serialized as JSON.
"""

import dataclasses
import json
import operator
from typing import Any

from fedsup_tf.files.json_schema import expect_keys, parse_json, whole_numbers
from fedsup_tf.files.reading import parsing

# The fields of an architecture that have one value per stage, in the order of the encoding.
DIMENSIONS = ("widths", "depths", "kernels")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One subnet: the width, depth and kernel of every stage.

    Attributes:
      widths: Output channels of each stage.
      depths: Number of blocks of each stage.
      kernels: Side of the square depthwise kernels of each stage.
      resolution: Height of the input images in pixels if the space has
        `SearchSpace.resolutions`; otherwise None.

    Example:
      >>> from fedsup_tf import Architecture
      >>> architecture = Architecture(widths=(16, 64), depths=(1, 2), kernels=(3, 5))
      >>> print(architecture)
      16x1k3 64x2k5
      >>> Architecture.from_json(architecture.to_json()) == architecture
      True
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    resolution: int | None = None

    def __post_init__(self):
        for dimension in DIMENSIONS:
            # operator.index accepts NumPy integers and rejects fractions.
            values = tuple(operator.index(value) for value in getattr(self, dimension))
            object.__setattr__(self, dimension, values)
        lengths = {dimension: len(getattr(self, dimension)) for dimension in DIMENSIONS}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                "An architecture needs one width, one depth and one kernel per stage, received "
                f"{lengths}. Give three lists of the same length."
            )
        if self.resolution is not None:
            object.__setattr__(self, "resolution", operator.index(self.resolution))

    def fields(self) -> dict[str, Any]:
        """Returns the JSON values by field name, with the resolution only if there is one."""
        fields = {dimension: list(getattr(self, dimension)) for dimension in DIMENSIONS}
        return fields if self.resolution is None else {**fields, "resolution": self.resolution}

    def to_json(self) -> str:
        """Returns the architecture as one line of JSON."""
        return json.dumps(self.fields())

    @classmethod
    @parsing("An architecture")
    def from_json(cls, text: str) -> "Architecture":
        """Parses the output of `to_json`.

        Raises:
          ValueError: If the text is not JSON or its fields are not lists of integers.
        """
        return cls.from_fields(parse_json(text, "An architecture"))

    @classmethod
    def from_fields(cls, fields: Any) -> "Architecture":
        """Makes an architecture from a JSON object, such as one nested in another document.

        Raises:
          ValueError: If the object does not describe an architecture.
        """
        if not isinstance(fields, dict):
            raise ValueError(
                f"An architecture: expected a JSON object, received {type(fields).__name__}."
            )
        names = set(DIMENSIONS)
        expect_keys(fields, names | {"resolution"}, names, "An architecture")
        for dimension in DIMENSIONS:
            whole_numbers(fields[dimension], f"An architecture's {dimension}")
        if fields.get("resolution") is not None:
            whole_numbers([fields["resolution"]], "An architecture's resolution")
        return cls(**fields)

    def __str__(self):
        stages = zip(self.widths, self.depths, self.kernels, strict=True)
        text = " ".join(f"{width}x{depth}k{kernel}" for width, depth, kernel in stages)
        return text if self.resolution is None else f"{text} @{self.resolution}"
