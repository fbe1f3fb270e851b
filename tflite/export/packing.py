"""Packs small tensors of a net into shared variables of its `.tflite`.

For small tensors, the separate operators that read, update and assign each one take longer than
the computation itself, and each takes about 40 bytes of the file in every signature. Small tensors
are therefore concatenated into one variable, which the graph splits again.
"""

import math
from collections.abc import Collection, Mapping

import numpy as np
import tensorflow as tf

from fedsup_tf.frozen import is_frozen
from fedsup_tf.space import MEAN_SQUARE

# Maps each variable to the shapes of its tensors by name.
Packing = dict[str, dict[str, tuple[int, ...]]]

# The only kernel that `train_head` trains, in a variable of its own.
HEAD_KERNEL = "head/kernel"
# Names of the shared variables; they contain no "/", unlike the names of tensors.
VECTORS, KERNELS, MEAN_SQUARES, FROZEN = "vectors", "kernels", "mean_squares", "frozen"
# Maximum number of entries of a packed kernel, for which copying beats separate operators.
_MAX_ENTRIES = 8192


def packing(shapes: Mapping[str, tuple[int, ...]], frozen: Collection[str] = ()) -> Packing:
    """Assigns tensors to variables, independently of the order of the tensors.

    Of the weights in a shared variable, either all or none are trained, and weight decay applies
    to either all or none.

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
    """Returns the value of a variable: its only tensor unchanged, or its tensors as one vector."""
    if len(shapes) == 1:
        (name,) = shapes
        return tf.convert_to_tensor(tensors[name])
    return tf.concat([tf.reshape(tensors[name], [-1]) for name in shapes], 0)


def unpack(value: tf.Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tf.Tensor]:
    """Splits a value that `pack` returned into tensors by name."""
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
        return name if math.prod(shape) > _MAX_ENTRIES else FROZEN
    if len(shape) == 1:
        return VECTORS
    if name == HEAD_KERNEL or math.prod(shape) > _MAX_ENTRIES:
        return name
    return KERNELS
