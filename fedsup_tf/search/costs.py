"""Parameters and multiply-accumulates of an architecture, computed without building a model."""

import functools
import math
import operator
from typing import NamedTuple

from fedsup_tf.architecture import Architecture
from fedsup_tf.search.cost_parts import Part, parts_of
from fedsup_tf.space import SearchSpace

# Upper bound on the size of a subnet's `.tflite` file: bytes per parameter, and bytes of the graphs
# of its signatures and the metadata, of which each block takes a part.
FILE_BYTES_PER_PARAMETER = 4.6
FILE_OVERHEAD_BYTES = 170_000
FILE_BYTES_PER_BLOCK = 15_000
_TRAIN_HEAD_BYTES, _TRAIN_HEAD_BYTES_PER_BLOCK = 12_000, 6_000
# Maximum side of feature maps for which that overhead includes the constants of depthwise
# convolutions.
_SMALL_SIDE = 32


class Cost(NamedTuple):
    """Cost of a subnet or of one of its parts.

    Attributes:
      parameters: Number of trainable parameters.
      macs: Number of multiply-accumulates in the convolutions and the classifier for one image.
    """

    parameters: int
    macs: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.macs + other.macs)


def architecture_cost(space: SearchSpace, architecture: Architecture) -> Cost:
    """Computes the cost of one subnet of `space`.

    Raises:
      ValueError: If the architecture is not in the space.
    """
    parts = parts_of(space, architecture)
    return functools.reduce(operator.add, (part_cost(space, part) for part in parts))


def count_parameters(space: SearchSpace, architecture: Architecture) -> int:
    """Counts the trainable parameters of one subnet."""
    return architecture_cost(space, architecture).parameters


def count_macs(space: SearchSpace, architecture: Architecture) -> int:
    """Counts the multiply-accumulates of one subnet for one image."""
    return architecture_cost(space, architecture).macs


def part_cost(space: SearchSpace, part: Part) -> Cost:
    """Computes the cost of a part, one of `parts_of_space(space)`."""
    if part.kind == "stem":
        # A 3 x 3 convolution.
        kernel = 9 * space.image_shape[2] * space.stem_width
        parameters = kernel + _norm_parameters(space, space.stem_width)
        return Cost(parameters, kernel * math.prod(map_size(space, 0, part.resolution)))
    if part.kind == "head":
        kernel = part.in_width * space.classes
        return Cost(kernel + space.classes, kernel)
    pixels = math.prod(map_size(space, part.stage + 1, part.resolution))
    cost, in_width = Cost(0, 0), part.in_width
    for _ in range(part.depth):
        depthwise = part.kernel * part.kernel * in_width
        pointwise = in_width * part.width
        shortcut = in_width * part.width if in_width != part.width else 0
        norms = _norm_parameters(space, in_width) + _norm_parameters(space, part.width)
        kernels = depthwise + pointwise + shortcut
        cost += Cost(kernels + norms, kernels * pixels)
        in_width = part.width
    return cost


def train_head_bytes(architecture: Architecture) -> int:
    """Computes an upper bound on the bytes that the signature `train_head` adds to a file."""
    return _TRAIN_HEAD_BYTES + _TRAIN_HEAD_BYTES_PER_BLOCK * sum(architecture.depths)


def constant_bytes(space: SearchSpace, part: Part) -> int:
    """Computes an upper bound on a file's constants for depthwise convolutions on large maps.

    The constants link input to output pixels by kernel tap along each axis
    (`ops.builtin_depthwise`), once for the convolution and once for its gradients.
    """
    if part.kind != "stage":
        return 0
    before = map_size(space, part.stage, part.resolution)
    after = map_size(space, part.stage + 1, part.resolution)
    if max(before) <= _SMALL_SIDE:
        return 0
    # All blocks of a stage after the first share their constants.
    entries = [math.prod(sides) for sides in zip(before, after, strict=True)]
    if part.depth > 1:
        entries += [side * side for side in after]
    return 2 * 4 * part.kernel * sum(entries)


def map_size(space: SearchSpace, stages: int, resolution: int = 0) -> tuple[int, int]:
    """Returns `(height, width)` of the feature map after the stem and the first stages.

    Args:
      space: The search space.
      stages: Number of stages after the stem.
      resolution: Height of the images; 0 for that of `image_shape`.
    """
    height, width, _ = space.image_shape_at(resolution)
    for stride in (space.stem_stride, *(stage.stride for stage in space.stages[:stages])):
        height, width = -(-height // stride), -(-width // stride)
    return height, width


def _norm_parameters(space: SearchSpace, width: int) -> int:
    return (3 if space.normalization == "parametric" else 2) * width
