"""Limits on a search space, which may come from someone else's file.

They bound what a supernet enumerates and allocates. All limits are far beyond what a phone or a
server could train.
"""

import math
from collections.abc import Sequence
from typing import Any

from fedsup_tf.architecture import DIMENSIONS
from fedsup_tf.files.json_schema import quoted, whole_numbers
from fedsup_tf.stage import Stage

MAX_CLASSES = 2**20
_MAX_STAGES = 64
_MAX_BLOCKS = 256
_MAX_SIDE = 2**13
_MAX_WEIGHTS = 2**30
# Combinations of a stage's choices and its input widths, each of which has its own slices.
_MAX_COMBINATIONS = 2**16
# A computation that serves all subnets contains a separate loop for each resolution.
_MAX_RESOLUTIONS = 8


def checked_image_shape(values: Any, label: str) -> tuple[int, int, int]:
    """Returns a validated image shape `(height, width, channels)` as a tuple of ints.

    Args:
      values: The height, width and channels to check.
      label: Subject of the error message.

    Raises:
      ValueError: If `values` are not three positive integers, or are too large.
    """
    shape = whole_numbers(values, f"{label}: image_shape")
    if len(shape) != 3 or min(shape) < 1 or max(shape) > _MAX_SIDE:
        raise ValueError(
            f"{label}: expected image_shape (height, width, channels), each from 1 to "
            f"{_MAX_SIDE:,}, got {shape}."
        )
    return shape


def checked_resolutions(
    values: Any, image_shape: tuple[int, int, int], label: str
) -> tuple[int, ...]:
    """Returns validated resolutions as a tuple of ints.

    Args:
      values: Image heights in ascending order; may be empty.
      image_shape: `(height, width, channels)` of the largest images.
      label: Subject of the error message.

    Raises:
      ValueError: If `values` are not such heights, or images would not keep their proportions.
    """
    if isinstance(values, list | tuple) and not values:
        return ()
    values = whole_numbers(values, f"{label}: resolutions")
    height, width, _ = image_shape
    rising = list(values) == sorted(set(values)) and values[0] >= 1
    if not rising or len(values) > _MAX_RESOLUTIONS or values[-1] != height:
        raise ValueError(
            f"{label}: expected 1 to {_MAX_RESOLUTIONS} rising resolutions, the last one the "
            f"height of its images, {height} pixels, received {list(values)}. Give images of that "
            "height, or other resolutions."
        )
    uneven = [value for value in values if value * width % height]
    if uneven:
        raise ValueError(
            f"{label}: expected resolutions at which images of {height} x {width} pixels keep "
            f"their proportions, received {uneven}. Give others."
        )
    return values


def check_stages(stages: Sequence[Stage], stem_width: int, classes: int, label: str) -> None:
    """Checks the stages' names and sizes without enumerating or allocating anything.

    Args:
      stages: The stages, from the image to the classifier.
      stem_width: Output channels of the convolution before the first stage.
      classes: Number of classes.
      label: Subject of the error message.

    Raises:
      ValueError: If names repeat, or there are too many stages, blocks, weights or choices.
    """
    names = [stage.name for stage in stages]
    if not 0 < len(names) <= _MAX_STAGES or len(set(names)) != len(names):
        raise ValueError(
            f"{label}: expected 1 to {_MAX_STAGES} stages with names of their own, got "
            f"{quoted(names)}."
        )
    blocks = sum(stage.depths[-1] for stage in stages)
    weights = combinations = entering = 0
    in_width = stem_width
    for stage in stages:
        width, kernel = stage.widths[-1], stage.kernels[-1]
        widest = max(in_width, width)
        weights += stage.depths[-1] * widest * (2 * width + kernel * kernel)
        in_width = width
        own = math.prod(len(getattr(stage, dimension)) for dimension in DIMENSIONS)
        combinations += own * (entering or 1)
        entering = len(stage.widths)
    weights += classes * in_width
    for amount, maximum, of in (
        (blocks, _MAX_BLOCKS, "blocks"),
        (weights, _MAX_WEIGHTS, "weights"),
        (combinations, _MAX_COMBINATIONS, "combinations of a stage's choices"),
    ):
        if amount > maximum:
            raise ValueError(
                f"{label}: expected at most {maximum:,} {of}, received about {amount:,}. Give "
                "fewer or smaller stages."
            )
