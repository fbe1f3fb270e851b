"""Elastic Keras layers: each owns its largest weights and computes with slices of them.

Every layer has the same three methods:

* `slices(...)` maps each weight's name to its `Slice` for a choice of width and kernel;
* `forward(weights, inputs)` is a pure function of given weights, sliced or not;
* `call(inputs, ...)` is Keras' entry point: `forward` on slices of the layer's own variables.

Widths and kernels are never state but arguments: integers or int32 scalar tensors. Weight names are
local to the layer; its owner adds a prefix.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from fedsup_tf.ops import ops
from fedsup_tf.slicing import Slice, take

keras = tf.keras

# A number of channels or the side of a kernel; a tensor if it is unknown at tracing time.
Size = int | tf.Tensor
Weights = Mapping[str, tf.Tensor]
Initializer = str | keras.initializers.Initializer | None


class ElasticLayer(keras.layers.Layer):
    """Base class of layers whose weights are named and can be sliced."""

    def own_weights(self) -> dict[str, tf.Variable]:
        """Returns the layer's variables by local name."""
        return {name: getattr(self, name) for name in self.weight_names}


class ElasticConv2D(ElasticLayer):
    """Convolution without bias, with padding SAME and elastic input and output widths.

    Call arguments:
      inputs: `(batch, height, width, in)`; `in` may be smaller than in `build`.
      filters: Output channels to use; all by default.

    Returns:
      `(batch, ceil(height / strides), ceil(width / strides), filters)`.
    """

    weight_names = ("kernel",)

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        kernel_initializer: Initializer = "he_normal",
        **kwargs: Any,
    ):
        """Makes the layer.

        Args:
          filters: Maximum number of output channels.
          kernel_size: Side of the square kernel.
          strides: 1 or 2; must be 1 if `kernel_size` is 1.
          kernel_initializer: A Keras initializer or its name.
          **kwargs: Arguments of `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        if kernel_size == 1 and strides != 1:
            raise ValueError(f"A 1 x 1 convolution takes strides 1, received {strides}.")
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        """Creates `kernel`, `(kernel_size, kernel_size, in, filters)`."""
        shape = (self.kernel_size, self.kernel_size, int(input_shape[-1]), self.filters)
        self.kernel = self.add_weight("kernel", shape, initializer=self.kernel_initializer)
        super().build(input_shape)

    def slices(self, in_channels: Size, filters: Size) -> dict[str, Slice]:
        """Returns the slice of the kernel's leading input and output channels."""
        side = self.kernel_size
        return {"kernel": Slice((0, 0, 0, 0), (side, side, in_channels, filters))}

    def forward(self, weights: Weights, inputs: tf.Tensor) -> tf.Tensor:
        """Convolves `inputs` with `weights["kernel"]`."""
        if self.kernel_size == 1:
            return ops.pointwise_conv2d(inputs, weights["kernel"])
        return ops.conv2d(inputs, weights["kernel"], self.strides)

    def call(self, inputs: tf.Tensor, filters: Size | None = None) -> tf.Tensor:
        """Convolves `inputs` with a slice of the layer's own kernel."""
        filters = self.filters if filters is None else filters
        slices = self.slices(channels_of(inputs), filters)
        return self.forward(take(self.own_weights(), slices), inputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


class ElasticDepthwiseConv2D(ElasticLayer):
    """Depthwise convolution without bias, with padding SAME and elastic width and kernel.

    A smaller kernel is the centre of the largest one.

    Call arguments:
      inputs: `(batch, height, width, channels)`; `channels` may be smaller than in `build`.
      kernel_size: Odd side of the kernel to use; the largest by default.

    Returns:
      `(batch, ceil(height / strides), ceil(width / strides), channels)`.
    """

    weight_names = ("kernel",)

    def __init__(
        self,
        kernel_size: int,
        strides: int = 1,
        kernel_initializer: Initializer = None,
        **kwargs: Any,
    ):
        """Makes the layer.

        Args:
          kernel_size: Maximum side of the square kernel; must be odd.
          strides: 1 or 2.
          kernel_initializer: A Keras initializer or its name. Defaults to a normal distribution
            with variance 2 / kernel area.
          **kwargs: Arguments of `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        if kernel_size % 2 == 0:
            raise ValueError(f"Expected an odd kernel_size, received {kernel_size}.")
        self.kernel_size = kernel_size
        self.strides = strides
        if kernel_initializer is None:
            kernel_initializer = keras.initializers.RandomNormal(stddev=2**0.5 / kernel_size)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        """Creates `kernel`, `(kernel_size, kernel_size, channels, 1)`."""
        shape = (self.kernel_size, self.kernel_size, int(input_shape[-1]), 1)
        self.kernel = self.add_weight("kernel", shape, initializer=self.kernel_initializer)
        super().build(input_shape)

    def slices(
        self, channels: Size, kernel_size: Size, within: Size | None = None
    ) -> dict[str, Slice]:
        """Returns the slice of the kernel's centre and leading channels.

        Args:
          channels: Number of channels to use; 0 if the layer is absent.
          kernel_size: Side of the kernel to use.
          within: Side of the kernel from which the slice is cut; the largest by default.

        Raises:
          ValueError: If `kernel_size` is larger than `within`.
        """
        outer = self.kernel_size if within is None else within
        if isinstance(outer, int) and isinstance(kernel_size, int) and kernel_size > outer:
            raise ValueError(f"A kernel of {kernel_size} is not within one of {outer}.")
        margin = (outer - kernel_size) // 2
        return {"kernel": Slice((margin, margin, 0, 0), (kernel_size, kernel_size, channels, 1))}

    def forward(self, weights: Weights, inputs: tf.Tensor) -> tf.Tensor:
        """Convolves each channel of `inputs` with its kernel."""
        return ops.depthwise_conv2d(inputs, weights["kernel"], self.strides)

    def call(self, inputs: tf.Tensor, kernel_size: Size | None = None) -> tf.Tensor:
        """Convolves `inputs` with a slice of the layer's own kernel."""
        kernel_size = self.kernel_size if kernel_size is None else kernel_size
        slices = self.slices(channels_of(inputs), kernel_size)
        return self.forward(take(self.own_weights(), slices), inputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


class ElasticDense(ElasticLayer):
    """Dense layer with bias and elastic input width.

    Call arguments:
      inputs: `(batch, in)`; `in` may be smaller than in `build`.

    Returns:
      `(batch, units)`.
    """

    weight_names = ("kernel", "bias")

    def __init__(
        self, units: int, kernel_initializer: Initializer = "glorot_uniform", **kwargs: Any
    ):
        """Makes a layer with `units` outputs; other arguments as in `keras.layers.Dense`."""
        super().__init__(**kwargs)
        self.units = units
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        """Creates `kernel`, `(in, units)`, and `bias`, `(units,)`."""
        shape = (int(input_shape[-1]), self.units)
        self.kernel = self.add_weight("kernel", shape, initializer=self.kernel_initializer)
        self.bias = self.add_weight("bias", (self.units,), initializer="zeros")
        super().build(input_shape)

    def slices(self, in_channels: Size) -> dict[str, Slice]:
        """Returns the slice of the kernel's leading rows, and the whole bias."""
        return {
            "kernel": Slice((0, 0), (in_channels, self.units)),
            "bias": Slice((0,), (self.units,)),
        }

    def forward(self, weights: Weights, inputs: tf.Tensor) -> tf.Tensor:
        """Computes `inputs @ kernel + bias`."""
        return ops.matmul(inputs, weights["kernel"]) + weights["bias"]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Multiplies `inputs` by a slice of the layer's own kernel and adds the bias."""
        return self.forward(take(self.own_weights(), self.slices(channels_of(inputs))), inputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "units": self.units,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def channels_of(inputs: tf.Tensor) -> Size:
    """Returns the number of channels, the length of the last axis."""
    channels = inputs.shape[-1]
    return tf.shape(inputs)[-1] if channels is None else channels
