"""The net's operations, with gradients fast on CPU or made of TensorFlow Lite builtins alone.

TensorFlow's own gradients of a convolution have no TensorFlow Lite counterpart, and its filter
gradient of a depthwise convolution wider than 3 x 3 is several times slower than the convolution
(see `depthwise_gradient`). Where TensorFlow's kernel is fast it is used, except inside
`builtin_operators()`, in which every gradient is made of builtins. Values and gradients equal
TensorFlow's own up to rounding either way.

All functions take and return float32, images `(batch, height, width, channels)` with height and
width known when traced; batch and channels need not be.
"""

import contextlib
import contextvars

import tensorflow as tf

from fedsup_tf.ops import builtin, builtin_depthwise
from fedsup_tf.ops.builtin import maximum, shape_of
from fedsup_tf.ops.depthwise_gradient import depthwise_filter_gradient

_raw = tf.raw_ops
# How operations are traced; exactly one holds.
_FAST, _BUILTIN, _QUANTIZABLE = range(3)
_formulation = contextvars.ContextVar("formulation", default=_FAST)


def builtin_operators() -> contextlib.AbstractContextManager[None]:
    """Within this context, gradients are traced into TensorFlow Lite builtins alone."""
    return _traced_as(_BUILTIN)


def quantizable_operators() -> contextlib.AbstractContextManager[None]:
    """Within this context, 1 x 1 convolutions are traced as convolutions.

    A quantized convolution's kernel has a scale for each channel, a product's matrix one for all.
    """
    return _traced_as(_QUANTIZABLE)


@contextlib.contextmanager
def _traced_as(formulation: int):
    token = _formulation.set(formulation)
    try:
        yield
    finally:
        _formulation.reset(token)


def is_builtin() -> bool:
    """Whether this is traced within `builtin_operators()`."""
    return _formulation.get() == _BUILTIN


def pointwise_conv2d(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """1 x 1 convolution with `kernel` `(1, 1, in, out)`, as a matrix product where that is fast."""
    if _formulation.get() == _QUANTIZABLE:
        return tf.nn.conv2d(images, kernel, 1, "SAME")
    if is_builtin():
        return builtin.pointwise_conv2d(images, kernel)
    return _pointwise(images, kernel, may_be_absent=False)


def pointwise_conv2d_or_nothing(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """`pointwise_conv2d`, or `images` themselves where the kernel turns out to be of size 0."""
    return _pointwise(images, kernel, may_be_absent=True)


def _pointwise(images: tf.Tensor, kernel: tf.Tensor, may_be_absent: bool) -> tf.Tensor:
    height, width = images.shape[1:3]

    def where_present(function, otherwise):
        # Not a cond around it all: TensorFlow feeds none of its own into a gradient by hand.
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
            return known(images_gradient, images.shape), known(kernel_gradient, kernel.shape)

        return where_present(product, lambda: images), gradient

    result = convolve(images, kernel)
    filters = None if may_be_absent else kernel.shape[3]
    return known(result, [images.shape[0], height, width, filters])


def known(tensor: tf.Tensor, shape) -> tf.Tensor:
    """`tensor`, whose `shape` is known from elsewhere; costs nothing, unlike `ensure_shape`."""
    tensor.set_shape(shape)
    return tensor


def matmul(rows: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """`(rows, in) @ (in, out)`."""
    return builtin.matmul(rows, matrix) if is_builtin() else tf.matmul(rows, matrix)


def average_pool(images: tf.Tensor) -> tf.Tensor:
    """Average over 2 x 2 pixels with stride 2 and padding SAME."""
    height, width = images.shape[1:3]

    @tf.custom_gradient
    def pool(images):
        def gradient(upstream):
            return builtin.average_pool_gradient(upstream, height, width)

        return tf.nn.avg_pool2d(images, 2, 2, "SAME"), gradient

    return pool(images) if is_builtin() else tf.nn.avg_pool2d(images, 2, 2, "SAME")


def conv2d(images: tf.Tensor, kernel: tf.Tensor, stride: int = 1) -> tf.Tensor:
    """Convolution with padding SAME.

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
    """Depthwise convolution with padding SAME.

    Args:
      images: `(batch, height, width, channels)`.
      kernel: `(side, side, channels, 1)`, side odd; may be unknown when traced, but not within
        `builtin_operators`, nor may the images' shape.
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

            # TensorFlow's kernel is the faster one up to 3 x 3, on maps that are not tiny.
            side = shape_of(kernel)[0]
            if images.shape[1] <= 2:
                filter_gradient = large_filter_gradient()
            elif isinstance(side, int):
                filter_gradient = (large_filter_gradient if side > 3 else small_filter_gradient)()
            else:
                filter_gradient = tf.cond(side > 3, large_filter_gradient, small_filter_gradient)
            return input_gradient, known(filter_gradient, kernel.shape)

        result = tf.nn.depthwise_conv2d(images, kernel, strides, "SAME")
        return result, gradient

    channels = shape_of(kernel)[2]
    # TensorFlow refuses a convolution of no channels, which is what an absent block asks for.
    result = convolve(_pad_channels(images, 3, channels), _pad_channels(kernel, 2, channels))
    result = leading_channels(result, channels)
    height, width = (-(-side // stride) for side in images.shape[1:3])
    return known(result, [images.shape[0], height, width, kernel.shape[2]])


def leading_channels(images: tf.Tensor, channels: int | tf.Tensor) -> tf.Tensor:
    """The first `channels` of `(batch, height, width, ...)`; neither copies if that is all."""
    # Not images[..., :channels], whose gradient always copies.
    result = tf.slice(images, [0, 0, 0, 0], [-1, -1, -1, channels])
    channels = channels if isinstance(channels, int) else None
    return known(result, [*images.shape[:3], channels])


def relu6(values: tf.Tensor) -> tf.Tensor:
    """min(max(values, 0), 6)."""

    @tf.custom_gradient
    def clip(values):
        result = tf.nn.relu6(values)
        return result, lambda upstream: relu6_gradient(upstream, result)

    return clip(values)


def relu6_gradient(upstream: tf.Tensor, result: tf.Tensor) -> tf.Tensor:
    """`upstream` where `result`, the value of ReLU6, lies strictly between 0 and 6; else zero."""
    if is_builtin():
        return builtin.relu6_gradient(upstream, result)
    # Relu6Grad compares entry by entry, which TFF's worker, built for old processors, does without
    # vectors: 8 times as slow. Inside, the product is beyond 1 for all values above 1e-38.
    return upstream * tf.minimum(tf.minimum(result, 6.0 - result) * 1e38, 1.0)


def _pad_channels(tensor: tf.Tensor, axis: int, channels) -> tf.Tensor:
    """One channel of zeros in place of none; `tensor` itself if there are some."""
    if isinstance(channels, int) and channels > 0:
        return tensor
    paddings = [[0, 0]] * 4
    paddings[axis] = [0, maximum(1 - channels, 0)]
    return tf.pad(tensor, paddings)


def _crop_unreachable_taps(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Drops the kernel's rim that only ever meets padding: a 7 x 7 on a 2 x 2 map is a 3 x 3."""
    side = shape_of(kernel)[0]
    top, left = (maximum(side // 2 - (length - 1), 0) for length in images.shape[1:3])
    if isinstance(side, int) and top == left == 0:
        return kernel
    # Not kernel[top:...], whose gradient is no builtin.
    sizes = [side - 2 * top, side - 2 * left, *shape_of(kernel)[2:]]
    static = [size if isinstance(size, int) else None for size in sizes]
    return known(tf.slice(kernel, [top, left, 0, 0], sizes), static)
