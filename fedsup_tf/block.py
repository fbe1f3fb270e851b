"""The elastic block that the stages of a supernet repeat."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from fedsup_tf import layers, normalization_layers
from fedsup_tf.ops import ops
from fedsup_tf.slicing import Slice
from fedsup_tf.stage import Stage

keras = tf.keras


class ElasticBlock(keras.layers.Layer):
    """A residual block of a depthwise and a pointwise convolution (arXiv 2206.01366, section 4).

    The branch is depthwise convolution, PN, ReLU6, pointwise convolution, PN.

    The shortcut halves the map by average pooling if the stride is 2, and has a 1 x 1 convolution
    if the block changes the width. An absent block (all of its tensors of size 0) returns its
    inputs, as does an absent shortcut convolution. Sizes may be statically unknown.
    """

    def __init__(
        self,
        stage: Stage,
        number: int,
        in_widths: tuple[int, ...],
        normalization: str,
        seed: int,
    ):
        """Makes a block.

        Args:
          stage: The stage that the block belongs to.
          number: Index of the block in its stage, from 0.
          in_widths: Possible numbers of input channels.
          normalization: A key of `normalization_layers.NORMALIZATIONS`.
          seed: Seed of the initial weights.
        """
        super().__init__(name=f"{stage.name}_{number}")
        self.is_first = number == 0
        self.always_present = stage.depths[0] > number
        strides = stage.stride if self.is_first else 1
        width, kernel = stage.widths[-1], stage.kernels[-1]
        norm = normalization_layers.NORMALIZATIONS[normalization]
        self.in_width = max(in_widths)
        self._smallest_widths = (min(in_widths), stage.widths[0])
        self.strides = strides
        self.depthwise = layers.ElasticDepthwiseConv2D(
            kernel, strides, uniform(seed, fan_in=kernel * kernel), name="depthwise"
        )
        self.depthwise_norm = norm(activate=True, name="depthwise_norm")
        self.pointwise = layers.ElasticConv2D(
            width, 1, kernel_initializer=uniform(seed + 1, self.in_width), name="pointwise"
        )
        # gamma = 0, so each residual block starts as the identity.
        self.pointwise_norm = norm(zero_scale=True, name="pointwise_norm")
        self.shortcut = None
        if self.is_first and set(in_widths) | set(stage.widths) != {width}:
            self.shortcut = layers.ElasticConv2D(
                width, 1, kernel_initializer=uniform(seed + 2, self.in_width), name="shortcut"
            )

    def build(self, input_shape: Any) -> None:
        """Builds the sublayers."""
        width = self.pointwise.filters
        for layer in self.sublayers():
            out_of_pointwise = layer is self.pointwise_norm
            layer.build((None, None, None, width if out_of_pointwise else self.in_width))
        super().build(input_shape)

    def sublayers(self) -> list[layers.ElasticLayer]:
        """Returns the layers that own weights, in the order of the variables."""
        parts = [self.depthwise, self.depthwise_norm, self.pointwise, self.pointwise_norm]
        return parts if self.shortcut is None else [*parts, self.shortcut]

    def slices(
        self,
        in_width: layers.Size,
        width: layers.Size,
        kernel: layers.Size,
        present: layers.Size,
        within_kernel: layers.Size,
        nested: bool,
    ) -> dict[str, Slice]:
        """Returns the slices of the block's tensors for the given dimensions.

        Args:
          in_width: Number of input channels.
          width: Number of output channels.
          kernel: Side of the depthwise kernel.
          present: 1 if the subnet has the block, otherwise 0.
          within_kernel: Side of the depthwise kernel from which the slice is cut.
          nested: Whether the slices include everything that subnets of the subnet need.
        """
        in_used, out_used = in_width * present, width * present
        parts = {
            self.depthwise: self.depthwise.slices(in_used, kernel, within_kernel),
            self.depthwise_norm: self.depthwise_norm.slices(in_used),
            self.pointwise: self.pointwise.slices(in_used, out_used),
            self.pointwise_norm: self.pointwise_norm.slices(out_used),
        }
        if self.shortcut is not None:
            is_used = self._is_shortcut_used(in_width, width, nested)
            parts[self.shortcut] = self.shortcut.slices(in_width, width * is_used)
        return with_prefixes(parts)

    def _is_shortcut_used(
        self, in_width: layers.Size, width: layers.Size, nested: bool
    ) -> layers.Size:
        """Returns 1 if a subnet, or with `nested` any subnet of it, projects its inputs, else 0."""
        if not nested:
            return _one_if_different(in_width, width)
        smallest_in, smallest = self._smallest_widths
        if smallest_in != smallest:
            return 1
        # A subnet of the smallest widths has no other subnets, and does not project.
        return _one_if_different(in_width + width, smallest_in + smallest)

    def forward(
        self,
        weights: Mapping[str, tf.Tensor],
        inputs: tf.Tensor,
        sample_weights: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Computes the block with the given weights, any of which may have size 0.

        Args:
          weights: Tensors by local name; sizes may be statically unknown.
          inputs: `(batch, height, width, in_width)`.
          sample_weights: Weight of each image in the normalizations, `(batch,)`; equal by default.

        Returns:
          The outputs, `(batch, ceil(height / stride), ceil(width / stride), width)`, and each
          normalization's mean square as `"<norm>/mean_square"`, `(channels,)`.
        """
        kernel = weights["depthwise/kernel"]
        if kernel.shape[2] == 0:
            return inputs, {}
        # An absent block computes with 0 channels and adds nothing. If the block is present, the
        # slice and the padding below return their input unchanged.
        branch = inputs
        if not self.always_present and kernel.shape[2] is None:
            branch = ops.leading_channels(inputs, tf.shape(kernel)[2])
        mean_squares = {}
        pairs = ((self.depthwise, self.depthwise_norm), (self.pointwise, self.pointwise_norm))
        for convolution, norm in pairs:
            branch = convolution.forward(select_prefix(convolution.name, weights), branch)
            branch, mean_squares[norm] = norm.normalize(
                select_prefix(norm.name, weights), branch, sample_weights
            )
        shortcut = inputs
        if self.strides == 2:
            shortcut = ops.average_pool(shortcut)
        if self.shortcut is not None:
            shortcut = self._project(select_prefix("shortcut", weights), shortcut)
        if not self.always_present and branch.shape[3] is None:
            missing = tf.shape(shortcut)[3] - tf.shape(branch)[3]
            branch = tf.pad(branch, [[0, 0], [0, 0], [0, 0], [0, missing]])
        shape = [inputs.shape[0], *branch.shape[1:3], None]
        result = ops.with_static_shape(ops.add(branch, shortcut), shape)
        return result, with_prefixes(mean_squares)

    def _project(self, weights: Mapping[str, tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
        filters = weights["kernel"].shape[3]
        if filters == 0:
            return inputs
        if filters is not None:
            return self.shortcut.forward(weights, inputs)
        return ops.pointwise_conv2d_or_nothing(inputs, weights["kernel"])


def uniform(seed: int, fan_in: int) -> keras.initializers.Initializer:
    """Returns the reference implementation's initializer, uniform within +-`fan_in**-0.5`.

    The range is small enough for the shortcuts, which are not followed by a normalization.
    """
    limit = fan_in**-0.5
    return keras.initializers.RandomUniform(-limit, limit, seed)


def with_prefixes(parts: Mapping[keras.layers.Layer, Mapping[str, Any]]) -> dict[str, Any]:
    """Merges the mappings of several layers, prefixing each name with the layer's name and /."""
    return {
        f"{layer.name}/{name}": value
        for layer, named in parts.items()
        for name, value in named.items()
    }


def select_prefix(prefix: str, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Selects the values whose names begin with `prefix` and /, and strips that prefix."""
    prefix += "/"
    return {
        name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)
    }


def _one_if_different(first: layers.Size, second: layers.Size) -> layers.Size:
    if isinstance(first, tf.Tensor) or isinstance(second, tf.Tensor):
        return tf.cast(tf.not_equal(first, second), tf.int32)
    return int(first != second)
