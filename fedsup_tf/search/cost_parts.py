"""The parts of subnets whose costs add up: the stem, each stage by its choice, and the head.

They are those of `costs.architecture_cost`: what a stage costs depends on its own choice and on the
width that enters it.
"""

from typing import NamedTuple

from fedsup_tf.architecture import Architecture
from fedsup_tf.space import SearchSpace


class Part(NamedTuple):
    """One of them; fields that its kind has not are 0.

    Attributes:
      kind: `"stem"`, `"stage"` or `"head"`.
      stage: Number of the stage, from 0.
      in_width: Channels that enter the stage or the head.
      width: The stage's channels.
      depth: The stage's blocks.
      kernel: The stage's depthwise kernels' side.
    """

    kind: str
    stage: int = 0
    in_width: int = 0
    width: int = 0
    depth: int = 0
    kernel: int = 0

    @classmethod
    def of_stem(cls) -> "Part":
        """The stem."""
        return cls("stem")

    @classmethod
    def of_stage(cls, stage: int, in_width: int, width: int, depth: int, kernel: int) -> "Part":
        """A stage's choice; the arguments are those of `costs.stage_cost`."""
        return cls("stage", stage, in_width, width, depth, kernel)

    @classmethod
    def of_head(cls, in_width: int) -> "Part":
        """The classifier."""
        return cls("head", in_width=in_width)


def parts_of_space(space: SearchSpace) -> list[Part]:
    """Every part that some subnet of `space` has, each once: what a table has rows of."""
    parts = [Part.of_stem()]
    entering = (space.stem_width,)
    for number, stage in enumerate(space.stages):
        parts += [
            Part.of_stage(number, in_width, width, depth, kernel)
            for in_width in entering
            for width in stage.widths
            for depth in stage.depths
            for kernel in stage.kernels
        ]
        entering = stage.widths
    return parts + [Part.of_head(in_width) for in_width in entering]


def parts_of(space: SearchSpace, architecture: Architecture) -> list[Part]:
    """The parts of one subnet, from the stem to the head."""
    space.check(architecture)
    in_widths = (space.stem_width, *architecture.widths)
    choices = zip(architecture.widths, architecture.depths, architecture.kernels, strict=True)
    stages = [
        Part.of_stage(number, in_widths[number], *choice) for number, choice in enumerate(choices)
    ]
    return [Part.of_stem(), *stages, Part.of_head(in_widths[-1])]
