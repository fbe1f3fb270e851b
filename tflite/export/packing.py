"""Packs small tensors of a net into shared variables of its `.tflite`.

On small tensors, separate operators that read, update and assign each one take longer than the
computation itself, and each needs some 40 bytes of the file in every signature. Small tensors are
therefore concatenated in one variable, which the graph splits again.
"""

import math
from collections.abc import Collection, Mapping

import numpy as np
import tensorflow as tf

from fedsup_tf.frozen import is_frozen
from fedsup_tf.space import MEAN_SQUARE

# For each variable the tensors in it, as shapes by name.
Packing = dict[str, dict[str, tuple[int, ...]]]

# Trained without the other kernels by `train_head`.
HEAD_KERNEL = "head/kernel"
# Variables of several tensors; they differ from tensors, whose names contain a /.
VECTORS, KERNELS, MEAN_SQUARES, FROZEN = "vectors", "kernels", "mean_squares", "frozen"
# Kernels up to this many entries are packed: copying them is faster than separate operators.
_MOST_ENTRIES = 8192


def packing(shapes: Mapping[str, tuple[int, ...]], frozen: Collection[str] = ()) -> Packing:
    """Assigns tensors to variables, independently of the order of the tensors.

    Weights that share a variable are trained together or not at all, and weight decay applies to
    all or none.

    Args:
      shapes: Shapes of the weights and of the frozen mean squares, by name.
      frozen: Parts of the net that are not trained, as in `LocalTraining`.
    """
    variables = {}
    for name in sorted(shapes):
        variable = _variable_of(name, shapes[name], frozen)
        variables.setdefault(variable, {})[name] = tuple(shapes[name])
    return variables


def pack(
    tensors: Mapping[str, tf.Tensor | np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> tf.Tensor:
    """Returns a variable's value: a single tensor as it is, or several as one vector."""
    if len(shapes) == 1:
        (name,) = shapes
        return tf.convert_to_tensor(tensors[name])
    return tf.concat([tf.reshape(tensors[name], [-1]) for name in shapes], 0)


def unpack(value: tf.Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tf.Tensor]:
    """Splits a value that `pack` returned into its tensors by name."""
    if len(shapes) == 1:
        return dict.fromkeys(shapes, value)
    parts = tf.split(value, [math.prod(shape) for shape in shapes.values()])
    return {
        name: tf.reshape(part, shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def _variable_of(name: str, shape: tuple[int, ...], frozen: Collection[str]) -> str:
    if name.endswith(MEAN_SQUARE):
        return MEAN_SQUARES
    if is_frozen(name, frozen):
        return name if math.prod(shape) > _MOST_ENTRIES else FROZEN
    if len(shape) == 1:
        return VECTORS
    if name == HEAD_KERNEL or math.prod(shape) > _MOST_ENTRIES:
        return name
    return KERNELS
