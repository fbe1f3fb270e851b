"""Which tensors of a net share a variable of its `.tflite`.

Operators that read, move and set each tensor by itself take longer than what they compute on small
ones, and each takes some 40 bytes of the file in every signature. So small tensors lie behind each
other in one variable; by name they are told apart in the graph.
"""

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from fedsup_tf.space import MEAN_SQUARE

# Tensors by the name of their variable, and their shapes by name.
Packing = dict[str, dict[str, tuple[int, ...]]]

# Moves without the other kernels in `train_head`.
HEAD_KERNEL = "head/kernel"
# Variables of several tensors; no name of a tensor is without a /.
VECTORS, KERNELS, MEAN_SQUARES = "vectors", "kernels", "mean_squares"
# Entries of a kernel up to which copying it takes less time than operators of its own.
_MOST_ENTRIES = 8192


def packing(shapes: Mapping[str, tuple[int, ...]]) -> Packing:
    """The variables for tensors of these names and shapes, the same in whatever order they come.

    Weights that share a variable move together, and either all of them decay or none.
    """
    variables = {}
    for name in sorted(shapes):
        variables.setdefault(_variable_of(name, shapes[name]), {})[name] = tuple(shapes[name])
    return variables


def pack(
    tensors: Mapping[str, tf.Tensor | np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> tf.Tensor:
    """A variable's value: its one tensor as it is, or several as one vector."""
    if len(shapes) == 1:
        (name,) = shapes
        return tf.convert_to_tensor(tensors[name])
    return tf.concat([tf.reshape(tensors[name], [-1]) for name in shapes], 0)


def unpack(value: tf.Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tf.Tensor]:
    """The tensors by name that `pack` made one value of."""
    if len(shapes) == 1:
        return dict.fromkeys(shapes, value)
    parts = tf.split(value, [math.prod(shape) for shape in shapes.values()])
    return {
        name: tf.reshape(part, shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def _variable_of(name, shape):
    if name.endswith(MEAN_SQUARE):
        return MEAN_SQUARES
    if len(shape) == 1:
        return VECTORS
    if name == HEAD_KERNEL or math.prod(shape) > _MOST_ENTRIES:
        return name
    return KERNELS
