"""The elastic layers of a search space, and the slice of each tensor that a subnet uses."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from fedsup_tf import layers, normalization_layers
from fedsup_tf.architecture import Architecture
from fedsup_tf.block import ElasticBlock, uniform, with_prefixes
from fedsup_tf.slicing import Grid, Slice
from fedsup_tf.space import SearchSpace

keras = tf.keras

# An architecture or its int32 code (see `SearchSpace.encode`), which may be a graph tensor.
AnyArchitecture = Architecture | tf.Tensor | np.ndarray


class SlicedNet(keras.Model):
    """A Keras model whose tensors contain those of every subnet of a search space as slices.

    Args:
      space: The search space.
      seed: Seed of the initial weights.
      **kwargs: Arguments of `keras.Model`.

    Attributes:
      weight_shapes: Shapes of the tensors by name, in the order of the variables.
    """

    def __init__(self, space: SearchSpace, seed: int = 0, **kwargs):
        """Makes the layers; the same `seed` gives the same initial weights."""
        super().__init__(**kwargs)
        self.space = space
        self.seed = seed
        norm = normalization_layers.NORMALIZATIONS[space.normalization]
        self.stem = layers.ElasticConv2D(
            space.stem_width,
            3,
            space.stem_stride,
            uniform(seed * 100_000, 9 * space.image_shape[2]),
            name="stem",
        )
        self.stem_norm = norm(activate=True, name="stem_norm")
        self.blocks: list[list[ElasticBlock]] = []
        in_widths = (space.stem_width,)
        for number, stage in enumerate(space.stages):
            blocks = []
            for depth in range(stage.depths[-1]):
                block_seed = seed * 100_000 + 1000 * (number + 1) + 3 * depth
                blocks.append(
                    ElasticBlock(stage, depth, in_widths, space.normalization, block_seed)
                )
                in_widths = stage.widths
            self.blocks.append(blocks)
        head_initializer = uniform(seed * 100_000 + 1, space.stages[-1].widths[-1])
        self.head = layers.ElasticDense(space.classes, head_initializer, name="head")
        self.weight_shapes = {
            name: part.size for name, part in self.slices(space.largest(), nested=True).items()
        }

    @tf.autograph.experimental.do_not_convert
    def slices(
        self,
        architecture: AnyArchitecture,
        within: AnyArchitecture | None = None,
        nested: bool = False,
    ) -> dict[str, Slice]:
        """Returns the slice of each tensor that a subnet uses.

        Args:
          architecture: Architecture of the subnet.
          within: Architecture of the net whose tensors are sliced, which must contain the subnet.
            Defaults to the whole supernet.
          nested: Whether the slices also contain every subnet of the subnet. A block with equal
            input and output widths has no shortcut convolution, but a subnet with a smaller input
            width needs one.

        Returns:
          A slice for every tensor of the supernet, of size 0 if the subnet has no such tensor.
          Begins and sizes are integers for an `Architecture`, otherwise int32 scalar tensors.
        """
        widths, depths, kernels = self._dimensions(architecture)
        _, _, outer_kernels = self._dimensions(self.space.largest() if within is None else within)
        width = self.space.stem_width
        slices = with_prefixes(
            {
                self.stem: self.stem.slices(self.space.image_shape[2], width),
                self.stem_norm: self.stem_norm.slices(width),
            }
        )
        for number, blocks in enumerate(self.blocks):
            for depth, block in enumerate(blocks):
                present = 1 if block.always_present else _one_if_less(depth, depths[number])
                parts = block.slices(
                    width,
                    widths[number],
                    kernels[number],
                    present,
                    outer_kernels[number],
                    nested,
                )
                slices.update(with_prefixes({block: parts}))
                width = widths[number]
        slices.update(with_prefixes({self.head: self.head.slices(width)}))
        return slices

    def elastic_shapes(self, nested: bool = False) -> dict[str, tuple[int | None, ...]]:
        """Returns each tensor's shape over all subnets, with None for axes of varying length.

        Args:
          nested: Whether the slices also contain every subnet of a subnet, as in `slices`.
        """
        lengths = {name: [set() for _ in shape] for name, shape in self.weight_shapes.items()}
        for slices in self._all_slices(nested):
            for name, part in slices.items():
                for seen, length in zip(lengths[name], part.size, strict=True):
                    seen.add(length)
        return {
            name: tuple(seen.pop() if len(seen) == 1 else None for seen in map(set, axes))
            for name, axes in lengths.items()
        }

    @functools.cached_property
    def grids(self) -> dict[str, Grid]:
        """The grid of cells of each tensor; every subnet's slice consists of whole cells."""
        seen = [*self._all_slices(False), *self._all_slices(True)]
        return {
            name: Grid.of(shape, [slices[name] for slices in seen])
            for name, shape in self.weight_shapes.items()
        }

    def _all_slices(self, nested: bool) -> Iterator[dict[str, Slice]]:
        """Yields the slices of enough subnets to include every possible slice of every tensor."""
        smallest = self.space.smallest()
        # A tensor's slice depends only on the choice for its stage and on the stage's input width.
        for number, stage in enumerate(self.space.stages):
            entering = self.space.stages[number - 1].widths if number else (None,)
            for in_width, width, depth in itertools.product(entering, stage.widths, stage.depths):
                for kernel in stage.kernels:
                    widths, depths, kernels = map(
                        list, (smallest.widths, smallest.depths, smallest.kernels)
                    )
                    if in_width is not None:
                        widths[number - 1] = in_width
                    widths[number], depths[number], kernels[number] = width, depth, kernel
                    net = Architecture(widths, depths, kernels, smallest.resolution)
                    yield self.slices(net, None, nested)

    def code_at(self, index: tf.Tensor) -> tf.Tensor:
        """Computes, in a graph, the code of the architecture with the given index.

        Args:
          index: `SearchSpace.index` of the architecture, an int32 scalar.

        Returns:
          The code as `SearchSpace.encode` returns it, int32 `(len(space.choices),)`.
        """
        lengths = [len(values) for values in self.space.choices]
        # Number of architectures that share an entry's value and those of all entries before it.
        following = [math.prod(lengths[number + 1 :]) for number in range(len(lengths))]
        numbers = index // tf.constant(following) % tf.constant(lengths)
        return tf.gather(self.space.choice_table, numbers, axis=1, batch_dims=1)

    def _dimensions(self, architecture: AnyArchitecture) -> tuple[Sequence[int | tf.Tensor], ...]:
        """Splits an architecture into its stages' widths, depths and kernels."""
        if isinstance(architecture, Architecture):
            self.space.check(architecture)
            return architecture.widths, architecture.depths, architecture.kernels
        if isinstance(architecture, np.ndarray):
            return self._dimensions(self.space.decode(architecture))
        if isinstance(architecture, tf.Tensor):
            stages = len(self.space.stages)
            # The resolution, if it is the last entry, does not affect the slices.
            entries = tf.unstack(tf.ensure_shape(architecture, [len(self.space.choices)]))
            return entries[:stages], entries[stages : 2 * stages], entries[2 * stages : 3 * stages]
        raise TypeError(
            "Expected an Architecture or its int32 code, received "
            f"{type(architecture).__name__}: {architecture!r}."
        )


def _one_if_less(first: int, second: int | tf.Tensor) -> int | tf.Tensor:
    if isinstance(second, tf.Tensor):
        return tf.cast(first < second, tf.int32)
    return int(first < second)
