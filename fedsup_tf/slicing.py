"""Subnets as slices of the supernet's tensors, and sums of overlapping updates.

Extraction, broadcast, upload and aggregation all use the same mapping from tensor names to
`Slice`s, which only the layers create.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsup_tf import mean_choices

Tensors = Mapping[str, tf.Tensor]
DIVISORS, WEIGHTINGS = mean_choices.DIVISORS, mean_choices.WEIGHTINGS


class Slice(NamedTuple):
    """A rectangular block of a tensor. A size of 0 means that the subnet has no such tensor.

    Attributes:
      begin: First index along each axis, as integers or int32 scalar tensors.
      size: Length along each axis, as integers or int32 scalar tensors.
    """

    begin: tuple[int | tf.Tensor, ...]
    size: tuple[int | tf.Tensor, ...]

    @property
    def is_static(self) -> bool:
        """True if `begin` and `size` contain integers only, no tensors."""
        return all(isinstance(number, int | np.integer) for number in (*self.begin, *self.size))

    def indices(self) -> tuple[slice, ...]:
        """Returns the NumPy index that selects the block."""
        return tuple(slice(b, b + s) for b, s in zip(self.begin, self.size, strict=True))


class Grid(NamedTuple):
    """A division of a tensor into cells such that each slice in use consists of whole cells.

    Attributes:
      edges: For each axis, the first index of each cell, followed by the length of the axis.
    """

    edges: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shape: Sequence[int], slices: Iterable[Slice]) -> "Grid":
        """Returns the coarsest grid for static slices of a tensor of the given shape."""
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

    @property
    def entries(self) -> np.ndarray:
        """Number of tensor entries in each cell, with shape `cells`."""
        return functools.reduce(np.multiply.outer, map(np.diff, self.edges))

    def coverage_of(self, part: Slice, weight: tf.Tensor | float) -> tf.Tensor:
        """Returns a tensor of shape `cells`: `weight` in the cells of a slice, 0 elsewhere."""
        covered = tf.convert_to_tensor(weight, tf.float32)
        if part.is_static:
            # One operation instead of four per axis.
            firsts = [np.array(axis[:-1]) for axis in self.edges]
            inside = [
                (first >= begin) & (first < begin + size)
                for first, begin, size in zip(firsts, part.begin, part.size, strict=True)
            ]
            return covered * functools.reduce(np.logical_and.outer, inside).astype(np.float32)
        for axis, begin, size in zip(self.edges, part.begin, part.size, strict=True):
            first = tf.constant(axis[:-1], tf.int32)
            inside = first < begin + size
            if not isinstance(begin, int) or begin > 0:
                inside = tf.logical_and(first >= begin, inside)
            covered = tf.expand_dims(covered, -1) * tf.cast(inside, tf.float32)
        return covered

    def spread(self, values: tf.Tensor) -> tf.Tensor:
        """Expands a value per cell, `(..., *cells)`, to one per entry, `(..., *shape)`."""
        # Starts with the last axis, so that the other axes gather whole rows.
        for axis, edges in enumerate(reversed(self.edges), 1):
            cell_of_entry = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
            if len(edges) - 1 < len(cell_of_entry):
                values = tf.gather(values, tf.constant(cell_of_entry, tf.int32), axis=-axis)
        return values


class Overlap(NamedTuple):
    """Weighted sum of updates that each cover a part of the supernet; additive over clients.

    Attributes:
      total: For each tensor of the supernet, the weighted sum of the updates.
      coverage: For each cell of each tensor's grid, the sum of the weights of the updates that
        cover it; after `expand_coverage`, the same for each entry of each tensor.
    """

    total: dict[str, tf.Tensor]
    coverage: dict[str, tf.Tensor]


def take(weights: Tensors, slices: Mapping[str, Slice]) -> dict[str, tf.Tensor]:
    """Extracts each slice from the tensor of the same name.

    Example:
      >>> import tensorflow as tf
      >>> from fedsup_tf.slicing import Slice, take
      >>> weights = {"kernel": tf.constant([[1, 2, 3], [4, 5, 6]])}
      >>> take(weights, {"kernel": Slice(begin=(0, 0), size=(2, 2))})["kernel"].numpy().tolist()
      [[1, 2], [4, 5]]
    """
    return {name: tf.slice(weights[name], *slices[name]) for name in slices}


def scatter(
    values: Tensors, slices: Mapping[str, Slice], shapes: Mapping[str, Sequence[int]]
) -> dict[str, tf.Tensor]:
    """Scatters each value to its slice in a tensor of zeros: the inverse of `take`.

    Args:
      values: Values by tensor name, each of the size of its slice.
      slices: Position of each value, by tensor name.
      shapes: Shapes of the whole tensors, by name.

    Returns:
      A tensor of the whole shape for each name.

    Example:
      >>> import tensorflow as tf
      >>> from fedsup_tf.slicing import Slice, scatter
      >>> slices = {"kernel": Slice(begin=(0, 0), size=(2, 2))}
      >>> scattered = scatter({"kernel": tf.constant([[1, 2], [4, 5]])}, slices, {"kernel": (2, 3)})
      >>> scattered["kernel"].numpy().tolist()
      [[1, 2, 0], [4, 5, 0]]
    """
    scattered = {}
    for name, shape in shapes.items():
        begin, size = slices[name]
        paddings = [
            (first, length - first - extent)
            for first, extent, length in zip(begin, size, shape, strict=True)
        ]
        if slices[name].is_static:
            # Converted as a whole, not number by number.
            paddings = np.array(paddings, np.int32)
        scattered[name] = tf.ensure_shape(tf.pad(values[name], paddings), shape)
    return scattered


def zero_overlap(grids: Mapping[str, Grid]) -> Overlap:
    """Returns the sum over no clients, which is all zeros."""
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
    """Computes a client's contribution: its weighted update, and its weight where it covers.

    Args:
      update: Trained minus received weights, by tensor name.
      slices: Position of the update in each tensor.
      grids: The grid of each tensor (`Supernet.grids`).
      weight: The client's weight, a scalar.
    """
    weight = tf.cast(weight, tf.float32)
    shapes = {name: grid.shape for name, grid in grids.items()}
    return Overlap(
        total=scatter({name: update[name] * weight for name in grids}, slices, shapes),
        coverage={name: grid.coverage_of(slices[name], weight) for name, grid in grids.items()},
    )


def count_covering(
    grids: Mapping[str, Grid], nets: Iterable[Mapping[str, Slice]]
) -> dict[str, tf.Tensor]:
    """Counts the nets that cover each cell.

    Args:
      grids: The grid of each tensor, by name.
      nets: The slices of each net, by tensor name.

    Returns:
      Counts by tensor name, float32, each with the shape `cells` of its grid.
    """
    counts = {name: tf.zeros(grid.cells) for name, grid in grids.items()}
    for slices in nets:
        for name, part in slices.items():
            counts[name] += grids[name].coverage_of(part, 1.0)
    return counts


def expand_coverage(overlaps: Overlap, grids: Mapping[str, Grid]) -> Overlap:
    """Expands the coverage from cells to entries."""
    coverage = {name: grids[name].spread(cells) for name, cells in overlaps.coverage.items()}
    return Overlap(overlaps.total, coverage)


def average(
    overlaps: Overlap, divisor: str = "coverage", weight: tf.Tensor | float | None = None
) -> dict[str, tf.Tensor]:
    """Averages overlapping updates, entry by entry (arXiv 2206.01366, algorithm 2).

    Args:
      overlaps: The sum over the clients, after `expand_coverage`.
      divisor: `"coverage"` divides by the total weight of the clients that cover the entry.
        `"diluted"` divides by the total weight of all clients, which counts an entry as unchanged
        by the clients that do not cover it.
      weight: Total weight of all clients; required for `"diluted"`.

    Returns:
      The mean update by tensor name; zero where no client covers an entry.
    """
    totals, divisors = overlaps
    if divisor == "diluted":
        divisors = dict.fromkeys(totals, weight)
    return {name: tf.math.divide_no_nan(total, divisors[name]) for name, total in totals.items()}
