"""A subnet as slices of the supernet's tensors.

Everything that moves weights between a subnet and the supernet consumes one mapping, tensor name ->
`Slice`: extraction, broadcast, upload, aggregation. Only the layers know how to make that mapping.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

Tensors = Mapping[str, tf.Tensor]

# Whose weights the sum of an entry's updates is divided by: those of the clients that trained the
# entry, or those of all clients.
DIVISORS = ("coverage", "diluted")
# A client's weight: its number of examples, or 1.
WEIGHTINGS = ("examples", "uniform")


class Slice(NamedTuple):
    """A box of a tensor. A size of 0 says that the subnet has no such tensor.

    Attributes:
      begin: First index of each axis, whole numbers or int32 scalars in a graph.
      size: Length of each axis, likewise.
    """

    begin: tuple[int | tf.Tensor, ...]
    size: tuple[int | tf.Tensor, ...]


class Grid(NamedTuple):
    """A tensor as cells such that every slice of it that is asked for is made of whole cells.

    Attributes:
      edges: For each axis, the first index of each cell, and behind them the axis' length.
    """

    edges: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shape: Sequence[int], slices: Iterable[Slice]) -> "Grid":
        """The coarsest grid of a tensor of that shape and of static slices of it."""
        edges = [{0, length} for length in shape]
        for part in slices:
            if 0 not in part.size:
                for seen, begin, size in zip(edges, part.begin, part.size, strict=True):
                    seen |= {begin, begin + size}
        return cls(tuple(tuple(sorted(seen)) for seen in edges))

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(axis[-1] for axis in self.edges)

    @property
    def cells(self) -> tuple[int, ...]:
        """Number of cells along each axis."""
        return tuple(len(axis) - 1 for axis in self.edges)

    def cover(self, part: Slice, weight: tf.Tensor | float) -> tf.Tensor:
        """`weight` in each cell of a slice, 0 in the others, of shape `cells`."""
        covered = tf.convert_to_tensor(weight, tf.float32)
        for axis, begin, size in zip(self.edges, part.begin, part.size, strict=True):
            first = tf.constant(axis[:-1], tf.int32)
            inside = tf.logical_and(first >= begin, first < begin + size)
            covered = covered[..., tf.newaxis] * tf.cast(inside, tf.float32)
        return covered

    def spread(self, values: tf.Tensor) -> tf.Tensor:
        """Gives every entry its cell's value: from shape `(..., *cells)` to `(..., *shape)`."""
        # From the last axis on, so that what is gathered later are whole rows.
        for axis, edges in enumerate(reversed(self.edges), 1):
            cell_of_entry = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
            values = tf.gather(values, tf.constant(cell_of_entry, tf.int32), axis=-axis)
        return values


class Overlap(NamedTuple):
    """Weighted sum of updates that each cover a part of the supernet; adds up over clients.

    Attributes:
      total: For each tensor of the supernet, the weighted sum of the updates.
      coverage: For each cell of its grid, the sum of the weights of the updates that cover it; of
        `by_entry` for each entry.
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


def no_overlap(grids: Mapping[str, Grid]) -> Overlap:
    """The overlap of no clients."""
    return Overlap(
        total={name: tf.zeros(grid.shape) for name, grid in grids.items()},
        coverage={name: tf.zeros(grid.cells) for name, grid in grids.items()},
    )


def overlap(
    update: Tensors,
    slices: Mapping[str, Slice],
    grids: Mapping[str, Grid],
    weight: tf.Tensor | float,
) -> Overlap:
    """One client's contribution: its update times `weight`, and `weight` where it covers.

    Args:
      update: By tensor name.
      slices: Where it lies.
      grids: Each tensor's, with cells of which the slices are made.
      weight: The client's.
    """
    weight = tf.cast(weight, tf.float32)
    shapes = {name: grid.shape for name, grid in grids.items()}
    return Overlap(
        total=place({name: update[name] * weight for name in grids}, slices, shapes),
        coverage={name: grid.cover(slices[name], weight) for name, grid in grids.items()},
    )


def by_entry(overlaps: Overlap, grids: Mapping[str, Grid]) -> Overlap:
    """The overlap with its coverage for each entry in place of each cell."""
    coverage = {name: grids[name].spread(cells) for name, cells in overlaps.coverage.items()}
    return Overlap(overlaps.total, coverage)


def average(
    overlaps: Overlap, divisor: str = "coverage", weight: tf.Tensor | float | None = None
) -> dict[str, tf.Tensor]:
    """Mean update of each entry; zero where no client covered it.

    Args:
      overlaps: The sum over the clients, `by_entry`.
      divisor: `"coverage"`: over the clients that covered the entry. `"diluted"`: over all
        clients, an entry that a client did not cover counting as unchanged.
      weight: The sum of all clients' weights, for `"diluted"`.
    """
    totals, divisors = overlaps
    if divisor == "diluted":
        divisors = dict.fromkeys(totals, weight)
    return {name: tf.math.divide_no_nan(total, divisors[name]) for name, total in totals.items()}
