"""The supernet: a single Keras model whose slices are the subnets of a search space."""

import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from fedsup_tf import slicing
from fedsup_tf.architecture import Architecture
from fedsup_tf.block import select_prefix, with_prefixes
from fedsup_tf.files import checkpoint
from fedsup_tf.files.json_schema import as_json, expect_keys
from fedsup_tf.files.validation import check_tensors
from fedsup_tf.information import check_information
from fedsup_tf.sliced_net import AnyArchitecture, SlicedNet
from fedsup_tf.space import SearchSpace

keras = tf.keras


@keras.saving.register_keras_serializable("fedsup_tf")
class Supernet(SlicedNet):
    """A net that contains every subnet of a search space.

    Args:
      space: The search space.
      seed: Seed of the initial weights.
      **kwargs: Arguments of `keras.Model`.

    Call arguments:
      images: Normalized images, float32 `(batch, height, width, channels)`. In a space with
        resolutions, they must have the resolution of the subnet (`resizing.resize_images`).
      architecture: Subnet to compute, as an `Architecture` or its int32 code, which may be a graph
        tensor. Defaults to the largest subnet.
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

    @property
    def architecture(self) -> Architecture:
        """The architecture of this model if its space contains only one.

        Raises:
          ValueError: If the space contains more than one architecture.
        """
        if self.space.size != 1:
            raise ValueError(
                f"Expected a supernet of a single architecture, as `extract` returns it; search "
                f"space {self.space.name!r} has {self.space.size:,}. Choose one of them."
            )
        return self.space.smallest()

    # ---------------------------------------------------------------- variables

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables, in the sizes of the largest subnet."""
        if self.built:
            return
        self.stem.build((None, *self.space.image_shape))
        self.stem_norm.build((None, None, None, self.space.stem_width))
        for block in itertools.chain.from_iterable(self.blocks):
            block.build(None)
        self.head.build((None, self.space.stages[-1].widths[-1]))
        # Keras' own build would trace a call to infer the shapes, which are known here.
        self.built = True

    def weights_by_name(self) -> dict[str, tf.Variable]:
        """Returns the variables by the names that slices, checkpoints and updates use."""
        self.build()
        parts = {self.stem: self.stem.own_weights(), self.stem_norm: self.stem_norm.own_weights()}
        named = with_prefixes(parts)
        for block in itertools.chain.from_iterable(self.blocks):
            weights = with_prefixes({part: part.own_weights() for part in block.sublayers()})
            named.update(with_prefixes({block: weights}))
        named.update(with_prefixes({self.head: self.head.own_weights()}))
        return named

    def values_by_name(self) -> dict[str, np.ndarray]:
        """Returns the values of the variables as arrays, by the names of `weights_by_name`."""
        return {name: variable.numpy() for name, variable in self.weights_by_name().items()}

    def named(self, values: Iterable[Any]) -> dict[str, Any]:
        """Maps tensor names to values that are given in the order of the variables.

        Raises:
          ValueError: If the number of values differs from the number of tensors.
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
          ValueError: If names or shapes differ from `weight_shapes`; no variable is changed then.
        """
        check_weights(weights, self.weight_shapes)
        for name, variable in self.weights_by_name().items():
            variable.assign(weights[name])

    def extract(self, architecture: Architecture) -> "Supernet":
        """Returns a subnet as a separate model: a supernet with this architecture only.

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
            Sizes may be statically unknown.
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
        """Computes logits and the mean square of each parametric normalization's input.

        Args:
          weights: A tensor for each name of `weight_shapes`, as for `forward`. A normalization may
            also have a `mean_square` (see `ParametricNormalization.normalize`).
          images: Normalized images, `(batch, height, width, channels)`.
          sample_weights: Weight of each image in the normalizations, `(batch,)`; equal by default.

        Returns:
          Logits, `(batch, classes)`, and the mean squares, each `(channels,)`, by
          `"<norm>/mean_square"`. Blocks that the subnet does not have contribute none.
        """
        features, statistics = self.features_with_statistics(weights, images, sample_weights)
        return self.head.forward(select_prefix("head", weights), features), statistics

    @tf.autograph.experimental.do_not_convert
    def features_with_statistics(
        self,
        weights: Mapping[str, tf.Tensor],
        images: tf.Tensor,
        sample_weights: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Computes the classifier's inputs, with the arguments of `forward_with_statistics`.

        Returns:
          Features, `(batch, last width)`, and the mean squares.
        """
        maps = self.stem.forward(select_prefix("stem", weights), images)
        maps, mean_squares = self.stem_norm.normalize(
            select_prefix("stem_norm", weights), maps, sample_weights
        )
        statistics = with_prefixes({self.stem_norm: mean_squares})
        for block in itertools.chain.from_iterable(self.blocks):
            maps, mean_squares = block.forward(
                select_prefix(block.name, weights), maps, sample_weights
            )
            statistics.update(with_prefixes({block: mean_squares}))
        return tf.reduce_mean(maps, [1, 2]), statistics

    def call(
        self,
        images: tf.Tensor,
        architecture: AnyArchitecture | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Computes logits from slices of the model's own variables."""
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
          path: Path of the file to write.
          information: JSON values to store in the file, such as the round. Other programs read
            `class_names`, `preprocessing` and more from it (see `fedsup_tf.information`).

        Raises:
          ValueError: If `load_checkpoint` would reject the information or a weight.
          OSError: If the file cannot be written; an existing file at `path` is left unchanged.
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
        """Reads a supernet and its information from a file written by `save_checkpoint`.

        Args:
          path: Path of the file.
          space: The expected search space; None accepts any.

        Returns:
          The supernet, whose weights equal the saved ones bit for bit, and the information stored
          with it.

        Raises:
          ValueError: If the file is damaged, is not a supernet, or has a different search space.
        """
        supernet = None

        def check(metadata, forms):
            nonlocal supernet
            expect_keys(metadata, {"space", "information"}, {"space", "information"}, "A supernet")
            own_space = SearchSpace.from_json(metadata["space"])
            check_information(metadata["information"], own_space)
            if space is not None and own_space != space:
                expected, received = space.differences(own_space)
                raise ValueError(
                    f"expected a supernet of a search space with {expected}, received one with "
                    f"{received}. Give the file of that supernet, or load it without a space."
                )
            supernet = cls(own_space)
            # Checked before variables are created, so that the file's tensors bound their size.
            check_weights(forms, supernet.weight_shapes)

        tensors, metadata = checkpoint.read_tensors(path, "supernet", check)
        supernet.assign_weights(tensors)
        return supernet, metadata["information"]

    # ------------------------------------------------------------- Keras' config

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, with the space as JSON."""
        return {"space": self.space.to_json(), "seed": self.seed, "name": self.name}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> "Supernet":
        """Makes a supernet with new initial weights from the output of `get_config`."""
        del custom_objects
        return cls(**{**config, "space": SearchSpace.from_json(config["space"])})

    def get_build_config(self) -> dict[str, Any] | None:
        """Returns the input shape for `build_from_config`, which the space alone determines."""
        return {"input_shape": [None, *self.space.image_shape]} if self.built else None

    def build_from_config(self, config: Mapping[str, Any]) -> None:
        """Creates the variables, so that Keras can restore them from a `.keras` file."""
        self.build(config["input_shape"])


def is_shortcut(name: str) -> bool:
    """Returns whether a tensor is the kernel of a shortcut convolution."""
    return name.endswith("/shortcut/kernel")


def has_weight_decay(name: str) -> bool:
    """Returns whether a tensor has weight decay: kernels do, PN's vectors and biases do not."""
    return name.endswith("/kernel")


def check_weights(weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises a ValueError that names the tensor if names or shapes differ from the expected."""
    received = {name: value.shape for name, value in weights.items()}
    check_tensors(received, shapes, "Weights", "Use the weights of the same search space.")
