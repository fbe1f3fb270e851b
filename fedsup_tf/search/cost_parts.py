"""The parts of subnets whose costs add up: the stem, each stage with its choice, and the head.

Parameters, multiply-accumulates, memory and latency of a subnet are sums over its parts: the cost
of a stage depends only on its own dimensions, its input width and the resolution.
"""

import itertools
from typing import NamedTuple

from fedsup_tf.architecture import Architecture
from fedsup_tf.space import SearchSpace


class Part(NamedTuple):
    """Additive cost unit of a subnet. Fields that do not apply to its kind are 0.

    Attributes:
      kind: `"stem"`, `"stage"` or `"head"`.
      stage: Index of the stage, from 0.
      in_width: Number of input channels of the stage or the head.
      width: Number of output channels of the stage.
      depth: Number of blocks in the stage.
      kernel: Side length of the stage's square depthwise kernels.
      resolution: Height of the subnet's input images, if the space has several resolutions.
    """

    kind: str
    stage: int = 0
    in_width: int = 0
    width: int = 0
    depth: int = 0
    kernel: int = 0
    resolution: int = 0

    @classmethod
    def of_stem(cls, resolution: int = 0) -> "Part":
        """Returns the stem: the first convolution with its normalization."""
        return cls("stem", resolution=resolution)

    @classmethod
    def of_stage(
        cls, stage: int, in_width: int, width: int, depth: int, kernel: int, resolution: int = 0
    ) -> "Part":
        """Returns the stage with index `stage` (from 0) and one choice of its dimensions."""
        return cls("stage", stage, in_width, width, depth, kernel, resolution)

    @classmethod
    def of_head(cls, in_width: int, resolution: int = 0) -> "Part":
        """Returns the head: the classifier with `in_width` input channels."""
        return cls("head", in_width=in_width, resolution=resolution)


def resolutions_of(space: SearchSpace) -> tuple[int, ...]:
    """Returns the resolutions of a space's parts: only 0 if the space has no resolutions."""
    return space.resolutions or (0,)


def stage_parts(space: SearchSpace, stage: int, in_width: int, resolution: int = 0) -> list[Part]:
    """Returns all choices of a stage with `in_width` input channels."""
    own = space.stages[stage]
    return [
        Part.of_stage(stage, in_width, *choice, resolution)
        for choice in itertools.product(own.widths, own.depths, own.kernels)
    ]


def entering_widths(space: SearchSpace, stage: int) -> tuple[int, ...]:
    """Returns the possible input widths of a stage; index `len(space.stages)` is the head."""
    return space.stages[stage - 1].widths if stage else (space.stem_width,)


def parts_of_space(space: SearchSpace) -> list[Part]:
    """Returns every part that occurs in the subnets of `space`, without duplicates."""
    parts = []
    for resolution in resolutions_of(space):
        parts.append(Part.of_stem(resolution))
        for stage in range(len(space.stages)):
            for in_width in entering_widths(space, stage):
                parts += stage_parts(space, stage, in_width, resolution)
        widths = entering_widths(space, len(space.stages))
        parts += [Part.of_head(width, resolution) for width in widths]
    return parts


def parts_of(space: SearchSpace, architecture: Architecture) -> list[Part]:
    """Returns the parts of one subnet, from the stem to the head.

    Raises:
      ValueError: If the architecture is not in the space.
    """
    space.check(architecture)
    in_widths = (space.stem_width, *architecture.widths)
    choices = zip(architecture.widths, architecture.depths, architecture.kernels, strict=True)
    resolution = architecture.resolution or 0
    stages = [
        Part.of_stage(number, in_widths[number], *choice, resolution)
        for number, choice in enumerate(choices)
    ]
    return [Part.of_stem(resolution), *stages, Part.of_head(in_widths[-1], resolution)]
