"""Search spaces of subnets: the allowed widths, depths and kernels of each stage.

An `Architecture` is one point of a `SearchSpace`, which is immutable, hashable and serialized as
JSON. The space follows the MobileNet-like supernet of FedSup (Kim & Yun, arXiv 2206.01366,
section 4).
"""

import dataclasses
import json
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedsup_tf import space_bounds
from fedsup_tf.architecture import DIMENSIONS, Architecture
from fedsup_tf.files.json_schema import expect_keys, parse_json, quoted
from fedsup_tf.files.reading import parsing
from fedsup_tf.files.validation import check_choice, check_whole_number
from fedsup_tf.stage import MAX_NAME, MAX_VALUE, Stage

NORMALIZATIONS = ("parametric", "group")
GROUP_SIZE = 8
# Name suffix of the frozen mean square of a parametric normalization.
MEAN_SQUARE = "/mean_square"
# The index of an architecture in its space is used as an int32 key of a federated select.
_MAX_INDEX = 2**31 - 1
# Fills the rows of `SearchSpace.choice_table`; greater than every choice.
_PADDING = 2**31 - 1
# Maximum number of fields that an error message compares.
_MAX_DESCRIBED = 3


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """All subnets of a supernet, from `smallest()` to `largest()`.

    Attributes:
      name: Name of the space in reports and error messages.
      image_shape: `(height, width, channels)` of the images.
      classes: Number of classes.
      stem_width: Output channels of the first convolution, which is 3 x 3.
      stem_stride: Stride of the first convolution; 1 or 2.
      stages: The stages, from the image to the classifier.
      normalization: `"parametric"` (FedSup's PN) or `"group"` (groups of 8 channels, independent
        of the batch).
      resolutions: Allowed heights of a subnet's input images, in ascending order and ending with
        the height of `image_shape`; widths scale in proportion. If empty, every subnet takes images
        of `image_shape`.

    Raises:
      ValueError: If a field is out of range; the message names it.

    Example:
      >>> import numpy as np
      >>> from fedsup_tf import SearchSpace, Stage
      >>> space = SearchSpace(
      ...     name="small",
      ...     image_shape=(8, 8, 1),
      ...     classes=10,
      ...     stem_width=16,
      ...     stem_stride=1,
      ...     stages=(
      ...         Stage("first", widths=(16, 32), depths=(1,), kernels=(3, 5)),
      ...         Stage("second", widths=(32, 64), depths=(1, 2), kernels=(3,), stride=2),
      ...     ),
      ... )
      >>> space.size
      16
      >>> print(space.largest())
      32x1k5 64x2k3
      >>> architecture = space.sample(np.random.default_rng(0))
      >>> space.at(space.index(architecture)) == architecture
      True
    """

    name: str
    image_shape: tuple[int, int, int]
    classes: int
    stem_width: int
    stem_stride: int
    stages: tuple[Stage, ...]
    normalization: str = "parametric"
    resolutions: tuple[int, ...] = ()

    def __post_init__(self):
        if not isinstance(self.name, str) or len(self.name) > MAX_NAME:
            raise ValueError(
                f"A search space: expected its name as text of at most {MAX_NAME} characters, "
                f"received {quoted(self.name)}."
            )
        label = f"Search space {self.name!r}"
        shape = space_bounds.checked_image_shape(self.image_shape, label)
        object.__setattr__(self, "image_shape", shape)
        object.__setattr__(self, "stages", tuple(self.stages))
        max_classes = space_bounds.MAX_CLASSES
        bounds = (("classes", 2, max_classes), ("stem_width", 1, MAX_VALUE["widths"]))
        for field, minimum, maximum in bounds:
            value = check_whole_number(getattr(self, field), field, minimum, maximum, what=label)
            object.__setattr__(self, field, value)
        check_choice(self.stem_stride, "stem_stride", (1, 2), what=label)
        space_bounds.check_stages(self.stages, self.stem_width, self.classes, label)
        check_choice(self.normalization, "normalization", NORMALIZATIONS, what=label)
        resolutions = space_bounds.checked_resolutions(self.resolutions, shape, label)
        object.__setattr__(self, "resolutions", resolutions)
        if self.normalization == "group":
            widths = {self.stem_width}.union(*(stage.widths for stage in self.stages))
            uneven = sorted(width for width in widths if width % GROUP_SIZE)
            if uneven:
                raise ValueError(
                    f"{label}: group normalization needs widths that are multiples of "
                    f"{GROUP_SIZE}, got {uneven}."
                )
        if self.size - 1 > _MAX_INDEX:
            raise ValueError(
                f"{label}: it holds {self.size:,} architectures, at most {_MAX_INDEX:,} can be "
                "numbered. Take choices out of its stages."
            )

    # ---------------------------------------------------------------- choices

    @property
    def choices(self) -> tuple[tuple[int, ...], ...]:
        """Allowed values of each entry of an encoded architecture, in the order of the code."""
        of_stages = tuple(getattr(stage, field) for field in DIMENSIONS for stage in self.stages)
        return (*of_stages, self.resolutions) if self.resolutions else of_stages

    @property
    def choice_table(self) -> np.ndarray:
        """`choices` as int32 `(entries, most choices)`, rows padded with the largest integer."""
        longest = max(map(len, self.choices))
        rows = [(*values, *[_PADDING] * (longest - len(values))) for values in self.choices]
        return np.array(rows, np.int32)

    @property
    def size(self) -> int:
        """Number of architectures in the space."""
        return math.prod(len(values) for values in self.choices)

    def smallest(self) -> Architecture:
        """Returns the architecture with the smallest value of every dimension."""
        return self.decode([values[0] for values in self.choices])

    def largest(self) -> Architecture:
        """Returns the architecture with the largest value of every dimension: the supernet."""
        return self.decode([values[-1] for values in self.choices])

    def fixed_architecture(self, architecture: Architecture) -> "SearchSpace":
        """Returns the space that contains only `architecture`."""
        self.check(architecture)
        stages = tuple(
            dataclasses.replace(stage, widths=(width,), depths=(depth,), kernels=(kernel,))
            for stage, width, depth, kernel in zip(
                self.stages,
                architecture.widths,
                architecture.depths,
                architecture.kernels,
                strict=True,
            )
        )
        return dataclasses.replace(
            self,
            stages=stages,
            image_shape=self.image_shape_of(architecture),
            resolutions=self.resolutions and (architecture.resolution,),
        )

    def at_resolution(self, resolution: int) -> "SearchSpace":
        """Returns the space of the same nets for images of a single resolution."""
        shape = self.image_shape_at(resolution)
        return dataclasses.replace(self, image_shape=shape, resolutions=())

    def image_shape_of(self, architecture: Architecture) -> tuple[int, int, int]:
        """Returns the `(height, width, channels)` of a subnet's input images."""
        return self.image_shape_at(architecture.resolution or 0)

    def image_shape_at(self, resolution: int) -> tuple[int, int, int]:
        """Returns the `(height, width, channels)` of images at a resolution; 0 for the largest."""
        height, width, channels = self.image_shape
        resolution = resolution or height
        return resolution, width * resolution // height, channels

    def check(self, architecture: Architecture) -> None:
        """Raises a ValueError that names the wrong field if `architecture` is not in the space."""
        if len(architecture.widths) != len(self.stages):
            raise ValueError(
                f"Search space {self.name!r} has {len(self.stages)} stages, the architecture has "
                f"{len(architecture.widths)}: {architecture}."
            )
        for field in DIMENSIONS:
            for stage, value in zip(self.stages, getattr(architecture, field), strict=True):
                if value not in getattr(stage, field):
                    raise ValueError(
                        f"Stage {stage.name!r} of search space {self.name!r} allows {field} "
                        f"{list(getattr(stage, field))}, the architecture asks for {value}."
                    )
        if architecture.resolution not in (self.resolutions or (None,)):
            raise ValueError(
                f"Search space {self.name!r} allows resolutions "
                f"{list(self.resolutions) or 'of its image_shape alone'}, the architecture asks "
                f"for {architecture.resolution}."
            )

    # --------------------------------------------------------------- encoding

    def encode(self, architecture: Architecture) -> np.ndarray:
        """Returns the int32 code `(widths..., depths..., kernels...)` of shape `(len(choices),)`.

        If the space has resolutions, the resolution is the last entry.
        """
        self.check(architecture)
        code = [*architecture.widths, *architecture.depths, *architecture.kernels]
        return np.array([*code, architecture.resolution] if self.resolutions else code, np.int32)

    def decode(self, code: Sequence[int]) -> Architecture:
        """Returns the architecture with the given code: the inverse of `encode`.

        Raises:
          ValueError: If the code does not belong to an architecture of the space.
        """
        code = [operator.index(value) for value in code]
        stages = len(self.stages)
        if len(code) != len(self.choices):
            raise ValueError(
                f"Search space {self.name!r}: expected a code of {len(self.choices)} numbers, "
                f"received {len(code)}."
            )
        resolution = code.pop() if self.resolutions else None
        architecture = Architecture(
            code[:stages], code[stages : 2 * stages], code[2 * stages :], resolution
        )
        self.check(architecture)
        return architecture

    def index(self, architecture: Architecture) -> int:
        """Returns the architecture's index in the space, from 0 (smallest) to `size - 1`."""
        index = 0
        for value, values in zip(self.encode(architecture), self.choices, strict=True):
            index = index * len(values) + values.index(int(value))
        return index

    def at(self, index: int) -> Architecture:
        """Returns the architecture with the given index: the inverse of `index`.

        Raises:
          ValueError: If the index is out of range.
        """
        if not 0 <= index < self.size:
            raise ValueError(
                f"Search space {self.name!r} numbers its architectures 0 to {self.size - 1}, "
                f"received {index}."
            )
        code = []
        for values in reversed(self.choices):
            index, digit = divmod(index, len(values))
            code.append(values[digit])
        return self.decode(code[::-1])

    # --------------------------------------------------------------- sampling

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draws an architecture uniformly at random."""
        # Draws the same values as `rng.choice`, in a fifth of the time.
        return self.decode([values[rng.integers(len(values))] for values in self.choices])

    def mutate(
        self, architecture: Architecture, rng: np.random.Generator, probability: float = 0.1
    ) -> Architecture:
        """Redraws entries of an architecture at random.

        Args:
          architecture: The architecture to change; it is not modified.
          rng: Random number generator.
          probability: Probability of redrawing each entry. At least one of the entries with more
            than one allowed value is redrawn.

        Returns:
          A different architecture of the space, or the same one if the space has no other.
        """
        code = list(self.encode(architecture))
        free = [i for i, values in enumerate(self.choices) if len(values) > 1]
        if not free:
            return architecture
        redrawn = [i for i in free if rng.random() < probability] or [rng.choice(free)]
        for i in redrawn:
            code[i] = rng.choice([value for value in self.choices[i] if value != code[i]])
        return self.decode(code)

    def crossover(
        self, first: Architecture, second: Architecture, rng: np.random.Generator
    ) -> Architecture:
        """Returns a child that takes each entry from either parent with equal probability."""
        first, second = self.encode(first), self.encode(second)
        return self.decode(np.where(rng.random(len(first)) < 0.5, first, second))

    def differences(self, other: "SearchSpace") -> tuple[str, str]:
        """Describes the fields in which spaces differ: their values here, and those of `other`."""
        own, others = self.fields(), other.fields()
        names = [name for name in own | others if own.get(name) != others.get(name)]

        def describe(fields):
            parts = [f"{name} {quoted(fields.get(name))}" for name in names[:_MAX_DESCRIBED]]
            return ", ".join(parts + ["other fields"] * (len(names) > _MAX_DESCRIBED))

        return describe(own), describe(others)

    # ------------------------------------------------------------------- JSON

    def fields(self) -> dict[str, Any]:
        """Returns the JSON values by field name, with `resolutions` only if there are any."""
        fields = dataclasses.asdict(self)
        if not self.resolutions:
            del fields["resolutions"]
        return fields

    def to_json(self) -> str:
        """Returns the space as one line of JSON."""
        return json.dumps(self.fields())

    @classmethod
    @parsing("A search space")
    def from_json(cls, text: str) -> "SearchSpace":
        """Parses the output of `to_json`, or a space written by hand in the same format.

        Raises:
          ValueError: If the text is not valid; the message names the field or stage.
        """
        return cls.from_fields(parse_json(text, "A search space"))

    @classmethod
    def from_fields(cls, fields: Any) -> "SearchSpace":
        """Makes a space from a JSON object, such as one nested in another document.

        Raises:
          ValueError: If the object does not describe a space; the message names the field or stage.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        expect_keys(fields, names, names - {"normalization", "resolutions"}, "A search space")
        stage_names = {field.name for field in dataclasses.fields(Stage)}
        stages = []
        if not isinstance(fields["stages"], list):
            raise ValueError("A search space: expected stages to be a list of objects.")
        for number, stage in enumerate(fields["stages"]):
            label = f"Stage number {number + 1} of a search space"
            expect_keys(stage, stage_names, stage_names - {"stride"}, label)
            stages.append(Stage(**stage))
        return cls(**{**fields, "stages": tuple(stages)})
