"""What an architecture costs: parameters and multiply-accumulates, from its numbers alone.

Both costs are sums over the stem, the stages and the classifier, and a stage's share depends only
on its own choice and the width that enters it; `bounds` relies on this.
"""

from typing import NamedTuple

from fedsup_tf.architecture import Architecture
from fedsup_tf.space import SearchSpace

# A subnet's `.tflite` has at most so many bytes: for each parameter, and for graphs and metadata.
FILE_BYTES_PER_PARAMETER = 4.6
FILE_OVERHEAD_BYTES = 200_000


class Cost(NamedTuple):
    """Cost of a net or of a part of it.

    Attributes:
      parameters: Number of trained values.
      macs: Multiply-accumulates of the convolutions and the classifier for one image.
    """

    parameters: int
    macs: int

    def __add__(self, other):
        return Cost(self.parameters + other.parameters, self.macs + other.macs)


def architecture_cost(space: SearchSpace, architecture: Architecture) -> Cost:
    """Returns the cost of one subnet of `space`."""
    space.check(architecture)
    cost = stem_cost(space)
    in_width = space.stem_width
    choices = zip(architecture.widths, architecture.depths, architecture.kernels, strict=True)
    for number, (width, depth, kernel) in enumerate(choices):
        cost += stage_cost(space, number, in_width, width, depth, kernel)
        in_width = width
    return cost + head_cost(space, in_width)


def count_parameters(space: SearchSpace, architecture: Architecture) -> int:
    """Number of trained values of one subnet."""
    return architecture_cost(space, architecture).parameters


def count_macs(space: SearchSpace, architecture: Architecture) -> int:
    """Multiply-accumulates of one subnet for one image."""
    return architecture_cost(space, architecture).macs


def stem_cost(space: SearchSpace) -> Cost:
    """Cost of the first 3 x 3 convolution and its normalization."""
    kernel = 9 * space.image_shape[2] * space.stem_width
    height, width = map_size(space, 0)
    return Cost(kernel + _norm_parameters(space, space.stem_width), kernel * height * width)


def stage_cost(
    space: SearchSpace, number: int, in_width: int, width: int, depth: int, kernel: int
) -> Cost:
    """Cost of the stage with that number (from 0), entered by `in_width` channels."""
    pixels = _pixels(map_size(space, number + 1))
    cost = Cost(0, 0)
    for _ in range(depth):
        depthwise = kernel * kernel * in_width
        pointwise = in_width * width
        shortcut = in_width * width if in_width != width else 0
        norms = _norm_parameters(space, in_width) + _norm_parameters(space, width)
        macs = (depthwise + pointwise + shortcut) * pixels
        cost += Cost(depthwise + pointwise + shortcut + norms, macs)
        in_width = width
    return cost


def head_cost(space: SearchSpace, in_width: int) -> Cost:
    """Cost of the classifier."""
    kernel = in_width * space.classes
    return Cost(kernel + space.classes, kernel)


def map_size(space: SearchSpace, stages: int) -> tuple[int, int]:
    """`(height, width)` of the map after the stem and that many stages."""
    height, width, _ = space.image_shape
    for stride in (space.stem_stride, *(stage.stride for stage in space.stages[:stages])):
        height, width = -(-height // stride), -(-width // stride)
    return height, width


def _pixels(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _norm_parameters(space: SearchSpace, width: int) -> int:
    return (3 if space.normalization == "parametric" else 2) * width
