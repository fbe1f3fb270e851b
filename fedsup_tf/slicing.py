"""A subnet as slices of the supernet's tensors.

Everything that moves weights between a subnet and the supernet consumes one mapping, tensor name ->
`Slice`: extraction, broadcast, upload, aggregation. Only the layers know how to make that mapping.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

Tensors = Mapping[str, tf.Tensor]

# What an entry's mean update runs over, and what an update counts by.
AGGREGATIONS = ("coverage", "diluted")
WEIGHTINGS = ("examples", "uniform")


class Slice(NamedTuple):
    """A box of a tensor. A size of 0 says that the subnet has no such tensor.

    Attributes:
      begin: First index of each axis, whole numbers or int32 scalars in a graph.
      size: Length of each axis, likewise.
    """

    begin: tuple[int | tf.Tensor, ...]
    size: tuple[int | tf.Tensor, ...]


class Overlap(NamedTuple):
    """Weighted sum of updates that each cover a part of the supernet; adds up over clients.

    Attributes:
      total: For each tensor of the supernet, the weighted sum of the updates.
      coverage: The sum of the weights of the updates that cover each entry.
    """

    total: dict[str, tf.Tensor]
    coverage: dict[str, tf.Tensor]


def take(weights: Tensors, slices: Mapping[str, Slice]) -> dict[str, tf.Tensor]:
    """Cuts each slice out of the tensor of its name."""
    return {name: tf.slice(weights[name], *slices[name]) for name in slices}


def place(
    values: Tensors, slices: Mapping[str, Slice], shapes: Mapping[str, Sequence[int]]
) -> dict[str, tf.Tensor]:
    """Inverse of `take`: puts each value where its slice was, zeros around it."""
    placed = {}
    for name, shape in shapes.items():
        begin, size = slices[name]
        paddings = [
            (first, length - first - extent)
            for first, extent, length in zip(begin, size, shape, strict=True)
        ]
        placed[name] = tf.ensure_shape(tf.pad(values[name], paddings), shape)
    return placed


def overlap(
    update: Tensors,
    slices: Mapping[str, Slice],
    shapes: Mapping[str, Sequence[int]],
    weight: tf.Tensor | float,
) -> Overlap:
    """One client's contribution: its update times `weight`, and `weight` where it covers."""
    weight = tf.cast(weight, tf.float32)
    return Overlap(
        total=place({name: update[name] * weight for name in shapes}, slices, shapes),
        coverage=place(
            {name: tf.fill(tf.shape(update[name]), weight) for name in shapes}, slices, shapes
        ),
    )


def average(
    overlaps: Overlap, aggregation: str = "coverage", weight: tf.Tensor | float | None = None
) -> dict[str, tf.Tensor]:
    """Mean update of each entry; zero where no client covered it.

    Args:
      overlaps: The sum over the clients.
      aggregation: `"coverage"`: over the clients that covered the entry. `"diluted"`: over all
        clients, an entry that a client did not cover counting as unchanged.
      weight: The sum of all clients' weights, for `"diluted"`.
    """
    totals, divisors = overlaps
    if aggregation == "diluted":
        divisors = dict.fromkeys(totals, weight)
    return {name: tf.math.divide_no_nan(total, divisors[name]) for name, total in totals.items()}


def count_values(slices: Mapping[str, Slice]) -> int:
    """Number of values in static slices."""
    return sum(int(np.prod(part.size)) for part in slices.values())
