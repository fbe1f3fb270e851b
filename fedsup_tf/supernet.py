"""The supernet: one Keras model whose slices are all the subnets of a search space."""

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fedsup_tf import layers, normalization_layers, slicing
from fedsup_tf.architecture import Architecture
from fedsup_tf.block import ElasticBlock, under, uniform, with_prefixes
from fedsup_tf.files import checkpoint
from fedsup_tf.files.json_schema import as_json, expect_keys
from fedsup_tf.information import check_information
from fedsup_tf.slicing import Grid, Slice
from fedsup_tf.space import SearchSpace

keras = tf.keras

# An architecture, or its int32 code (of `SearchSpace.encode`), which may be a tensor of a graph.
AnyArchitecture = Architecture | tf.Tensor | np.ndarray


@keras.saving.register_keras_serializable("fedsup_tf")
class Supernet(keras.Model):
    """A net that holds every subnet of a search space.

    Call arguments:
      images: Normalized images, float32 `(batch, height, width, channels)`. In a space with
        resolutions they have that of the subnet (`resizing.resize_images`).
      architecture: Which subnet computes: an `Architecture`, or its int32 code, which may be a
        tensor of a graph. The largest by default.
      training: Ignored; the net computes the same in training and inference.

    Returns:
      Logits, `(batch, classes)`.

    Example:
      >>> import numpy as np
      >>> from fedsup_tf import Supernet, digits_small
      >>> supernet = Supernet(digits_small())
      >>> images = np.zeros((2, 8, 8, 1), np.float32)
      >>> supernet(images).shape
      TensorShape([2, 10])
      >>> architecture = supernet.space.smallest()
      >>> subnet = supernet.extract(architecture)
      >>> subnet.count_params() < supernet.count_params()
      True
      >>> bool(np.allclose(subnet(images), supernet(images, architecture)))
      True
    """

    def __init__(self, space: SearchSpace, seed: int = 0, **kwargs):
        """Makes the supernet of `space`; the same `seed` gives the same initial weights."""
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
        # Shapes of the supernet's tensors by name, in the order of its variables.
        self.weight_shapes = {
            name: part.size for name, part in self.slices(space.largest(), nested=True).items()
        }

    @property
    def architecture(self) -> Architecture:
        """The subnet that this model is, if its space has a single architecture.

        Raises:
          ValueError: If the space has more than one.
        """
        if self.space.size != 1:
            raise ValueError(
                f"Expected a supernet of a single architecture, as `extract` returns it; search "
                f"space {self.space.name!r} has {self.space.size:,}. Choose one of them."
            )
        return self.space.smallest()

    # ---------------------------------------------------------------- variables

    def build(self, input_shape: Any = None) -> None:
        """Adds the variables, of the sizes of the largest subnet."""
        if self.built:
            return
        self.stem.build((None, *self.space.image_shape))
        self.stem_norm.build((None, None, None, self.space.stem_width))
        for block in itertools.chain.from_iterable(self.blocks):
            block.build(None)
        self.head.build((None, self.space.stages[-1].widths[-1]))
        # Keras' own build would trace a call to find the shapes, which are known here.
        self.built = True

    def weights_by_name(self) -> dict[str, tf.Variable]:
        """Returns the variables under the names that slices, checkpoints and updates use."""
        self.build()
        parts = {self.stem: self.stem.own_weights(), self.stem_norm: self.stem_norm.own_weights()}
        named = with_prefixes(parts)
        for block in itertools.chain.from_iterable(self.blocks):
            weights = with_prefixes({part: part.own_weights() for part in block.sublayers()})
            named.update(with_prefixes({block: weights}))
        named.update(with_prefixes({self.head: self.head.own_weights()}))
        return named

    def values_by_name(self) -> dict[str, np.ndarray]:
        """Returns the values of the variables as arrays, by the same names."""
        return {name: variable.numpy() for name, variable in self.weights_by_name().items()}

    def named(self, values: Iterable[Any]) -> dict[str, Any]:
        """Returns one value for each tensor, in the order of the variables, by tensor name.

        Raises:
          ValueError: If there are more or fewer values than tensors.
        """
        values = list(values)
        if len(values) != len(self.weight_shapes):
            raise ValueError(
                f"Expected {len(self.weight_shapes)} values, one for each tensor of the supernet, "
                f"received {len(values)}. Give them in the order of `weight_shapes`."
            )
        return dict(zip(self.weight_shapes, values, strict=True))

    def assign_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Sets every variable.

        Raises:
          ValueError: If names or shapes are not those of `weight_shapes`; nothing is set then.
        """
        check_weights(weights, self.weight_shapes)
        for name, variable in self.weights_by_name().items():
            variable.assign(weights[name])

    # --------------------------------------------------------------------- maps

    @tf.autograph.experimental.do_not_convert
    def slices(
        self,
        architecture: AnyArchitecture,
        within: AnyArchitecture | None = None,
        nested: bool = False,
    ) -> dict[str, Slice]:
        """Returns the part of each tensor that a subnet uses.

        Args:
          architecture: The subnet.
          within: The net whose tensors are cut and that holds the subnet; by default the supernet.
          nested: Whether the slices hold every subnet of the subnet too. A block of equal widths
            has no shortcut convolution, but a subnet with a smaller width before it needs one.

        Returns:
          A slice for every tensor of the supernet; one of size 0 where the subnet has no such
          tensor. Begins and sizes are numbers for an `Architecture`, else int32 scalars.
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
        """Returns each tensor's shape over all subnets: None on an axis whose length varies.

        Args:
          nested: Whether the slices hold every subnet of a subnet too, as in `slices`.
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
        """The cells of each tensor; every subnet's slice consists of whole cells."""
        seen = [*self._all_slices(False), *self._all_slices(True)]
        return {
            name: Grid.of(shape, [slices[name] for slices in seen])
            for name, shape in self.weight_shapes.items()
        }

    def _all_slices(self, nested: bool) -> Iterator[dict[str, Slice]]:
        """Yields slices of enough subnets to include every possible slice of every tensor."""
        smallest = self.space.smallest()
        # A tensor's slice depends on its own stage's choice and on the width that enters it.
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
        """Computes the int32 code of the architecture with that `SearchSpace.index` in a graph.

        Args:
          index: int32 scalar.

        Returns:
          `(len(space.choices),)`, int32, as `SearchSpace.encode` returns it.
        """
        code = []
        for values in reversed(self.space.choices):
            code.append(tf.gather(tf.constant(values, tf.int32), index % len(values)))
            index = index // len(values)
        return tf.stack(code[::-1])

    def extract(self, architecture: Architecture) -> "Supernet":
        """Returns a subnet as a model of its own: the supernet of the space of that architecture.

        Raises:
          ValueError: If the architecture is not in the space.
        """
        slices = self.slices(architecture)
        subnet = Supernet(self.space.fixed_architecture(architecture), self.seed)
        weights = slicing.take(self.weights_by_name(), slices)
        subnet.assign_weights({name: weights[name].numpy() for name in subnet.weight_shapes})
        return subnet

    # ------------------------------------------------------------------ compute

    @tf.autograph.experimental.do_not_convert
    def forward(self, weights: Mapping[str, tf.Tensor], images: tf.Tensor) -> tf.Tensor:
        """Computes logits as a pure function of a subnet's weights.

        The shapes of the weights determine the subnet.

        Args:
          weights: A tensor for each name of `weight_shapes`, of size 0 where the subnet has none.
            Static or unknown sizes.
          images: Normalized images, `(batch, height, width, channels)`.

        Returns:
          Logits, `(batch, classes)`.
        """
        return self.forward_with_statistics(weights, images)[0]

    @tf.autograph.experimental.do_not_convert
    def forward_with_statistics(
        self,
        weights: Mapping[str, tf.Tensor],
        images: tf.Tensor,
        sample_weights: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Computes logits, and the mean square of each parametric normalization's input.

        Args:
          weights: A tensor for each name of `weight_shapes`, as for `forward`. A normalization may
            also have a `mean_square` (`ParametricNormalization.normalize`).
          images: Normalized images, `(batch, height, width, channels)`.
          sample_weights: Weight of each image in the normalizations, `(batch,)`; equal by default.

        Returns:
          Logits, `(batch, classes)`, and the mean squares, each `(channels,)`, by
          `"<norm>/mean_square"`. There are none for blocks that the subnet does not have.
        """
        features, statistics = self.features_with_statistics(weights, images, sample_weights)
        return self.head.forward(under("head", weights), features), statistics

    @tf.autograph.experimental.do_not_convert
    def features_with_statistics(
        self,
        weights: Mapping[str, tf.Tensor],
        images: tf.Tensor,
        sample_weights: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Computes the inputs of the classifier, otherwise as `forward_with_statistics`.

        Returns:
          Features, `(batch, last width)`, and the mean squares.
        """
        maps = self.stem.forward(under("stem", weights), images)
        maps, mean_squares = self.stem_norm.normalize(
            under("stem_norm", weights), maps, sample_weights
        )
        statistics = with_prefixes({self.stem_norm: mean_squares})
        for block in itertools.chain.from_iterable(self.blocks):
            maps, mean_squares = block.forward(under(block.name, weights), maps, sample_weights)
            statistics.update(with_prefixes({block: mean_squares}))
        return tf.reduce_mean(maps, [1, 2]), statistics

    def call(
        self,
        images: tf.Tensor,
        architecture: AnyArchitecture | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Computes logits with slices of the model's own variables."""
        del training
        architecture = self.space.largest() if architecture is None else architecture
        slices = self.slices(architecture)
        return self.forward(slicing.take(self.weights_by_name(), slices), images)

    # -------------------------------------------------------------------- files

    def save_checkpoint(
        self, path: str | os.PathLike, information: Mapping[str, Any] | None = None
    ) -> None:
        """Writes the weights and the search space to one safetensors file, atomically.

        Args:
          path: Where to write.
          information: JSON values to store in the file, such as the round. Programs that follow go
            by `class_names`, `preprocessing` and others, see `fedsup_tf.information`.

        Raises:
          ValueError: If `load_checkpoint` would refuse the information or a weight.
          OSError: If the file cannot be written; what was at `path` before is unchanged.
        """
        if isinstance(information, Mapping):
            information = dict(information)
        information = as_json(information or {}, "A supernet's information")
        check_information(information, self.space)
        tensors = self.values_by_name()
        metadata = {"space": self.space.to_json(), "information": information}
        checkpoint.write_tensors(path, "supernet", tensors, metadata)

    @classmethod
    def load_checkpoint(
        cls, path: str | os.PathLike, space: SearchSpace | None = None
    ) -> tuple["Supernet", dict[str, Any]]:
        """Reads a supernet and its information from a file that `save_checkpoint` wrote.

        Args:
          path: The file.
          space: The expected search space; by default any.

        Returns:
          The supernet, and the information stored with it. The weights are equal to the bit.

        Raises:
          ValueError: If the file is damaged, is not a supernet, or has another search space.
        """
        supernet = None

        def check(metadata, forms):
            nonlocal supernet
            expect_keys(metadata, {"space", "information"}, {"space", "information"}, "A supernet")
            own_space = SearchSpace.from_json(metadata["space"])
            check_information(metadata["information"], own_space)
            if space is not None and own_space != space:
                raise ValueError(
                    f"it holds a supernet of search space {own_space.name!r}, expected "
                    f"{space.name!r}: {own_space.to_json()} is not {space.to_json()}."
                )
            supernet = cls(own_space)
            # Before there are variables: only the file's own tensors bound their size.
            check_weights(forms, supernet.weight_shapes)

        tensors, metadata = checkpoint.read_tensors(path, "supernet", check)
        supernet.assign_weights(tensors)
        return supernet, metadata["information"]

    # ------------------------------------------------------------- Keras' config

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, the space as JSON."""
        return {"space": self.space.to_json(), "seed": self.seed, "name": self.name}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> "Supernet":
        """Makes a supernet with new weights from what `get_config` returned."""
        del custom_objects
        return cls(**{**config, "space": SearchSpace.from_json(config["space"])})

    def get_build_config(self) -> dict[str, Any] | None:
        """Returns the shape that `build_from_config` takes; the space alone decides it."""
        return {"input_shape": [None, *self.space.image_shape]} if self.built else None

    def build_from_config(self, config: Mapping[str, Any]) -> None:
        """Adds the variables, so that Keras can read them from a `.keras` file."""
        self.build(config["input_shape"])

    def _dimensions(self, architecture: AnyArchitecture) -> tuple[Sequence[int | tf.Tensor], ...]:
        """Splits an architecture into the widths, depths and kernels of its stages."""
        if isinstance(architecture, Architecture):
            self.space.check(architecture)
            return architecture.widths, architecture.depths, architecture.kernels
        if isinstance(architecture, np.ndarray):
            return self._dimensions(self.space.decode(architecture))
        if isinstance(architecture, tf.Tensor):
            stages = len(self.space.stages)
            # The resolution, which may be the last entry, takes no part of any tensor.
            entries = tf.unstack(tf.ensure_shape(architecture, [len(self.space.choices)]))
            return entries[:stages], entries[stages : 2 * stages], entries[2 * stages : 3 * stages]
        raise TypeError(
            "Expected an Architecture or its int32 code, received "
            f"{type(architecture).__name__}: {architecture!r}."
        )


def has_weight_decay(name: str) -> bool:
    """Tells whether a tensor has weight decay: kernels have, PN's vectors and biases have not."""
    return name.endswith("/kernel")


def check_weights(weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises a ValueError that names the tensor unless names and shapes are the expected ones."""
    missing, unknown = shapes.keys() - weights.keys(), weights.keys() - shapes.keys()
    if missing or unknown:
        raise ValueError(
            f"Expected {len(shapes)} tensors, missing are {sorted(missing)[:5]}, unknown are "
            f"{sorted(unknown)[:5]}. Use the weights of the same search space."
        )
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != tuple(shape):
            raise ValueError(
                f"Tensor {name!r}: expected shape {tuple(shape)}, received "
                f"{tuple(weights[name].shape)}. Use the weights of the same search space."
            )


def _one_if_less(first: int, second: int | tf.Tensor) -> int | tf.Tensor:
    if isinstance(second, tf.Tensor):
        return tf.cast(first < second, tf.int32)
    return int(first < second)
