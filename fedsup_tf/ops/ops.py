"""Operations of the net with gradients that are fast on CPU or use TensorFlow Lite builtins alone.

TensorFlow's own convolution gradients have no TensorFlow Lite counterpart, and its filter gradient
of a depthwise convolution wider than 3 x 3 is several times slower than the convolution (see
`depthwise_gradient`). TensorFlow's kernels are used where they are fast, except inside
`builtin_operators()`, where every gradient is made of builtins. In both cases, values and gradients
equal TensorFlow's own up to rounding.

All functions take and return float32. Images are `(batch, height, width, channels)`; height and
width must be statically known, batch and channels need not be.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import tensorflow as tf

from fedsup_tf.ops import builtin, builtin_depthwise
from fedsup_tf.ops.builtin import maximum, shape_of
from fedsup_tf.ops.depthwise_gradient import depthwise_filter_gradient

_raw = tf.raw_ops
# The formulations in which operations can be traced.
_FAST, _BUILTIN, _QUANTIZABLE = range(3)
_formulation = contextvars.ContextVar("formulation", default=_FAST)


def builtin_operators() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which gradients are traced into TensorFlow Lite builtins alone."""
    return _traced_as(_BUILTIN)


def quantizable_operators() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which 1 x 1 convolutions are traced as convolutions.

    The kernel of a quantized convolution has a scale for each channel, whereas the matrix of a
    quantized product has only one.
    """
    return _traced_as(_QUANTIZABLE)


@contextlib.contextmanager
def _traced_as(formulation: int) -> Iterator[None]:
    token = _formulation.set(formulation)
    try:
        yield
    finally:
        _formulation.reset(token)


def is_builtin() -> bool:
    """Returns whether operations are being traced within `builtin_operators()`."""
    return _formulation.get() == _BUILTIN


def pointwise_conv2d(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Computes a 1 x 1 convolution as a matrix product, except in `quantizable_operators()`.

    Args:
      images: `(batch, height, width, in)`.
      kernel: `(1, 1, in, out)`.

    Returns:
      `(batch, height, width, out)`.
    """
    if _formulation.get() == _QUANTIZABLE:
        return tf.nn.conv2d(images, kernel, 1, "SAME")
    if is_builtin():
        return builtin.pointwise_conv2d(images, kernel)
    return _pointwise(images, kernel, may_be_absent=False)


def pointwise_conv2d_or_nothing(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Computes `pointwise_conv2d`, or returns `images` if the kernel has size 0 at run time."""
    return _pointwise(images, kernel, may_be_absent=True)


def _pointwise(images: tf.Tensor, kernel: tf.Tensor, may_be_absent: bool) -> tf.Tensor:
    height, width = images.shape[1:3]

    def where_present(function, otherwise):
        # tf.cond stays inside the custom gradient, which could not access tensors captured by a
        # surrounding one.
        return tf.cond(tf.size(kernel) > 0, function, otherwise) if may_be_absent else function()

    @tf.custom_gradient
    def convolve(images, kernel):
        channels, filters = shape_of(kernel)[2:]
        matrix = tf.squeeze(kernel, [0, 1])

        def product():
            result = tf.matmul(tf.reshape(images, [-1, channels]), matrix)
            return tf.reshape(result, [-1, height, width, filters])

        def gradient(upstream):
            def products():
                rows = tf.reshape(upstream, [-1, filters])
                images_gradient = tf.matmul(rows, matrix, transpose_b=True)
                images_gradient = tf.reshape(images_gradient, tf.shape(images))
                inputs = tf.reshape(images, [-1, channels])
                matrix_gradient = tf.matmul(inputs, rows, transpose_a=True)
                return images_gradient, tf.reshape(matrix_gradient, [1, 1, channels, filters])

            images_gradient, kernel_gradient = where_present(
                products, lambda: (upstream, tf.zeros_like(kernel))
            )
            return (
                with_static_shape(images_gradient, images.shape),
                with_static_shape(kernel_gradient, kernel.shape),
            )

        return where_present(product, lambda: images), gradient

    result = convolve(images, kernel)
    filters = None if may_be_absent else kernel.shape[3]
    return with_static_shape(result, [images.shape[0], height, width, filters])


def with_static_shape(tensor: tf.Tensor, shape: Sequence[int | None] | tf.TensorShape) -> tf.Tensor:
    """Sets the static shape of a tensor without adding an operation, and returns the tensor."""
    tensor.set_shape(shape)
    return tensor


def add(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Adds two tensors of the same shape, which need not be statically known."""
    if first.shape.is_fully_defined():
        return first + second
    # The gradient of + would sum over the axes that differ, of which there are none.
    return tf.add_n([first, second])


def matmul(rows: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Computes the matrix product `(rows, in) @ (in, out)`."""
    return builtin.matmul(rows, matrix) if is_builtin() else tf.matmul(rows, matrix)


def average_pool(images: tf.Tensor) -> tf.Tensor:
    """Averages over windows of 2 x 2 pixels with stride 2 and padding SAME."""
    height, width = images.shape[1:3]

    @tf.custom_gradient
    def pool(images):
        def gradient(upstream):
            return builtin.average_pool_gradient(upstream, height, width)

        return tf.nn.avg_pool2d(images, 2, 2, "SAME"), gradient

    return pool(images) if is_builtin() else tf.nn.avg_pool2d(images, 2, 2, "SAME")


def conv2d(images: tf.Tensor, kernel: tf.Tensor, stride: int = 1) -> tf.Tensor:
    """Computes a convolution with padding SAME.

    Args:
      images: `(batch, height, width, in)`.
      kernel: `(side, side, in, out)`.
      stride: 1 or 2.

    Returns:
      `(batch, ceil(height / stride), ceil(width / stride), out)`.
    """
    if is_builtin():
        return builtin.conv2d(images, kernel, stride)

    @tf.custom_gradient
    def convolve(images, kernel):
        def gradient(upstream):
            strides = [1, stride, stride, 1]
            return (
                _raw.Conv2DBackpropInput(
                    input_sizes=tf.shape(images),
                    filter=kernel,
                    out_backprop=upstream,
                    strides=strides,
                    padding="SAME",
                ),
                _raw.Conv2DBackpropFilter(
                    input=images,
                    filter_sizes=tf.shape(kernel),
                    out_backprop=upstream,
                    strides=strides,
                    padding="SAME",
                ),
            )

        return tf.nn.conv2d(images, kernel, stride, "SAME"), gradient

    return convolve(images, kernel)


def depthwise_conv2d(images: tf.Tensor, kernel: tf.Tensor, stride: int = 1) -> tf.Tensor:
    """Computes a depthwise convolution with padding SAME.

    Args:
      images: `(batch, height, width, channels)`.
      kernel: `(side, side, channels, 1)` with an odd side. Within `builtin_operators()`, the shapes
        of images and kernel must be statically known.
      stride: 1 or 2.

    Returns:
      `(batch, ceil(height / stride), ceil(width / stride), channels)`.
    """
    if stride == 1:
        kernel = _crop_unreachable_taps(images, kernel)
    if is_builtin():
        return builtin_depthwise.depthwise_conv2d(images, kernel, stride)
    strides = [1, stride, stride, 1]

    @tf.custom_gradient
    def convolve(images, kernel):
        def gradient(upstream):
            input_gradient = _raw.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(images),
                filter=kernel,
                out_backprop=upstream,
                strides=strides,
                padding="SAME",
            )

            def small_filter_gradient():
                return _raw.DepthwiseConv2dNativeBackpropFilter(
                    input=images,
                    filter_sizes=tf.shape(kernel),
                    out_backprop=upstream,
                    strides=strides,
                    padding="SAME",
                )

            def large_filter_gradient():
                return depthwise_filter_gradient(images, kernel, upstream, stride)

            # TensorFlow's kernel is faster up to 3 x 3, except on tiny maps.
            side = shape_of(kernel)[0]
            if images.shape[1] <= 2:
                filter_gradient = large_filter_gradient()
            elif isinstance(side, int):
                filter_gradient = (large_filter_gradient if side > 3 else small_filter_gradient)()
            else:
                filter_gradient = tf.cond(side > 3, large_filter_gradient, small_filter_gradient)
            return input_gradient, with_static_shape(filter_gradient, kernel.shape)

        result = tf.nn.depthwise_conv2d(images, kernel, strides, "SAME")
        return result, gradient

    channels = shape_of(kernel)[2]
    # TensorFlow rejects a convolution with 0 channels, which an absent block has.
    result = convolve(_pad_channels(images, 3, channels), _pad_channels(kernel, 2, channels))
    result = leading_channels(result, channels)
    height, width = (-(-side // stride) for side in images.shape[1:3])
    return with_static_shape(result, [images.shape[0], height, width, kernel.shape[2]])


def leading_channels(images: tf.Tensor, channels: int | tf.Tensor) -> tf.Tensor:
    """Returns the first `channels` channels of images, without a copy if these are all."""
    # tf.slice, since the gradient of images[..., :channels] always copies.
    result = tf.slice(images, [0, 0, 0, 0], [-1, -1, -1, channels])
    channels = channels if isinstance(channels, int) else None
    return with_static_shape(result, [*images.shape[:3], channels])


def relu6(values: tf.Tensor) -> tf.Tensor:
    """Computes `min(max(values, 0), 6)`."""

    @tf.custom_gradient
    def clip(values):
        result = tf.nn.relu6(values)
        return result, lambda upstream: relu6_gradient(upstream, result)

    return clip(values)


def relu6_gradient(upstream: tf.Tensor, result: tf.Tensor) -> tf.Tensor:
    """Computes ReLU6's gradient: `upstream` where `result` is strictly between 0 and 6, else 0."""
    if is_builtin():
        return builtin.relu6_gradient(upstream, result)
    # Relu6Grad compares entry by entry. TFF's worker is built for old processors and does this
    # without vector instructions, 8 times as slowly. Between 0 and 6, the product is above 1 for
    # all values above 1e-38.
    return upstream * tf.minimum(tf.minimum(result, 6.0 - result) * 1e38, 1.0)


def _pad_channels(tensor: tf.Tensor, axis: int, channels: int | tf.Tensor) -> tf.Tensor:
    """Adds a channel of zeros to a tensor that has no channels."""
    if isinstance(channels, int) and channels > 0:
        return tensor
    paddings = [[0, 0]] * 4
    paddings[axis] = [0, maximum(1 - channels, 0)]
    return tf.pad(tensor, paddings)


def _crop_unreachable_taps(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Crops taps that only ever see padding: on a 2 x 2 map, a 7 x 7 kernel becomes 3 x 3."""
    side = shape_of(kernel)[0]
    top, left = (maximum(side // 2 - (length - 1), 0) for length in images.shape[1:3])
    if isinstance(side, int) and top == left == 0:
        return kernel
    # tf.slice, since the gradient of indexing is not a builtin.
    sizes = [side - 2 * top, side - 2 * left, *shape_of(kernel)[2:]]
    static = [size if isinstance(size, int) else None for size in sizes]
    return with_static_shape(tf.slice(kernel, [top, left, 0, 0], sizes), static)
