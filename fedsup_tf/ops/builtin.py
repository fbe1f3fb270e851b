"""Gradients made of TensorFlow Lite builtins alone, so that a phone's stock runtime can train.

The formulations are also fast in that runtime. Its batched matrix product is as fast as
TensorFlow's, but its fully connected operator is several times slower. Products are therefore
written as batched products, never with a transposed second factor.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# The length of an axis: an integer if it is statically known, otherwise an int32 scalar tensor.
Length = int | tf.Tensor
# The runtime computes products in square tiles of this many rows and columns.
SQUARE = 16
# Maximum number of tensors that the runtime concatenates in its fast path.
_MAX_CONCATENATED = 4
# Number of rows per part of a product that sums over rows.
_ROWS_AT_ONCE = 512


def shape_of(tensor: tf.Tensor) -> list[Length]:
    """Returns the length of each axis: an integer if statically known, otherwise a tensor."""
    static = tensor.shape.as_list()
    if None not in static:
        return static
    dynamic = tf.unstack(tf.shape(tensor))
    return [dynamic[i] if length is None else length for i, length in enumerate(static)]


def maximum(first: Length, second: Length) -> Length:
    """Returns the greater of two lengths, as an integer if both are statically known."""
    if isinstance(first, int) and isinstance(second, int):
        return max(first, second)
    return tf.maximum(first, second)


def same_padding(side: int, kernel: Length, stride: int) -> tuple[Length, Length]:
    """Returns the number of zeros before and after an axis with padding SAME."""
    total = maximum((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def matmul(rows: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Computes `(rows, in) @ (in, out)` as a batch of one product."""
    # Four dimensions, since the converter rejects a three-dimensional product of a single row.
    rows, matrix = (tf.expand_dims(tf.expand_dims(factor, 0), 0) for factor in (rows, matrix))
    product = _batched_products(rows, matrix)
    return tf.squeeze(product, [0, 1])


def pointwise_conv2d(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Computes a 1 x 1 convolution as a matrix product.

    The kernel and its gradient keep their shape, since the runtime copies inputs and outputs of a
    graph that are reshaped.

    Args:
      images: `(batch, height, width, in)`.
      kernel: `(1, 1, in, out)`.

    Returns:
      `(batch, height, width, out)`.
    """
    _, height, width, channels = shape_of(images)
    product = _batched_products(tf.reshape(images, [1, 1, -1, channels]), kernel)
    return tf.reshape(product, [-1, height, width, shape_of(kernel)[3]])


def relu6_gradient(upstream: tf.Tensor, result: tf.Tensor) -> tf.Tensor:
    """Computes ReLU6's gradient: `upstream` where `result` is strictly between 0 and 6, else 0.

    Comparisons, selections and differences with a constant leave the runtime's fast path; products
    and sums do not. The clip at -1 has no effect on the result but lets the runtime fuse the
    product and both clips into one operator. The factor is a power of two, so that the sum is
    exactly 0 where the result is 6.
    """
    steep = 2.0**100
    inside = result * (result * -steep + 6 * steep)
    return upstream * tf.maximum(tf.minimum(inside, 1.0), -1.0)


def average_pool_gradient(upstream: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Computes the gradient of 2 x 2 average pooling with stride 2 and padding SAME.

    Args:
      upstream: `(batch, ceil(height / 2), ceil(width / 2), channels)`.
      height: Height of the pooling's input images.
      width: Width of the pooling's input images.

    Returns:
      `(batch, height, width, channels)`.
    """
    # In a map of odd size, the last row and column average over fewer pixels.
    share = [[0.5] * (side // 2) + [1.0] * (side % 2) for side in (height, width)]
    scale = tf.tensordot(tf.constant(share[0]), tf.constant(share[1]), 0)
    upstream = upstream * scale[..., tf.newaxis]
    for axis, side in ((2, width), (1, height)):
        upstream = tf.gather(upstream, np.arange(side, dtype=np.int32) // 2, axis=axis)
    return upstream


def conv2d(images: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """Computes a convolution with padding SAME as a product with a matrix of patches.

    Args:
      images: `(batch, height, width, in)`, all statically known.
      kernel: `(side, side, in, out)`, all statically known.
      stride: 1 or 2.

    Returns:
      `(batch, ceil(height / stride), ceil(width / stride), out)`.
    """
    batch, height, width, _ = images.shape
    side, filters = kernel.shape[1], kernel.shape[3]
    out_shape = [batch, -(-height // stride), -(-width // stride), filters]

    @tf.custom_gradient
    def convolve(images, kernel):
        taps = _taps(images, side, stride)
        patches = tf.reshape(each_transposed(taps), [1, -1, taps.shape[1]])
        matrix = tf.reshape(kernel, [1, -1, filters])

        def gradient(upstream):
            images_gradient = tf.nn.conv2d_transpose(upstream, kernel, images.shape, stride, "SAME")
            rows = tf.reshape(upstream, [batch, -1, filters])
            matrices = _sum_over_first(tf.matmul(_whole_squares(taps), rows))
            matrices = window(matrices, 1, 0, taps.shape[1])
            return images_gradient, tf.reshape(matrices, kernel.shape)

        return tf.reshape(tf.matmul(patches, matrix), out_shape), gradient

    return convolve(images, kernel)


def _taps(images: tf.Tensor, side: int, stride: int) -> tf.Tensor:
    """Gathers the inputs of each kernel entry, `(batch, side * side * in, output pixels)`.

    Neighbouring output pixels are adjacent in memory, so whole rows of them are copied at a time.
    """
    batch, height, width, channels = images.shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    groups = -(-side // stride)
    tall, wide = out_height + groups - 1, out_width + groups - 1
    rows = tf.reshape(images, [batch * height, width * channels])
    rows = tf.reshape(_padded(rows, width, wide, side, stride), [batch, -1])
    rows = tf.reshape(_padded(rows, height, tall, side, stride), [-1, wide, stride * channels])
    # The pixels that a stride skips become separate maps.
    maps, across = tf.transpose(rows, [0, 2, 1]), []
    for group in range(groups):
        columns = min(stride, side - group * stride)
        own = window(maps, 1, 0, columns * channels)
        across.append(window(own, 2, group, out_width))
    rows = tf.reshape(concatenate(across, 1), [batch, tall * stride, -1])
    down = np.add.outer(np.arange(side), stride * np.arange(out_height))
    rows = tf.gather(rows, down.reshape(-1).astype(np.int32), axis=1)
    rows = tf.reshape(rows, [batch * side, out_height, side * channels, out_width])
    rows = tf.transpose(rows, [0, 2, 1, 3])
    return tf.reshape(rows, [batch, side * side * channels, out_height * out_width])


def _padded(rows: tf.Tensor, length: int, strides: int, side: int, stride: int) -> tf.Tensor:
    """Pads `(n, length * entries)` with zeros to a length of `strides` whole strides."""
    entries = rows.shape[1] // length
    before, _ = same_padding(length, side, stride)
    after = max(strides * stride - length - before, 0)
    padded = tf.pad(rows, [[0, 0], [before * entries, after * entries]])
    return window(padded, 1, 0, strides * stride * entries)


def _whole_squares(matrices: tf.Tensor) -> tf.Tensor:
    """Pads `(batch, rows, columns)` with rows of zeros to a multiple of `SQUARE` rows."""
    batch, rows, columns = matrices.shape
    flat = tf.reshape(matrices, [batch, rows * columns])
    padded = tf.pad(flat, [[0, 0], [0, -rows % SQUARE * columns]])
    return tf.reshape(padded, [batch, -1, columns])


def _sum_over_first(values: tf.Tensor) -> tf.Tensor:
    """Sums over axis 0 as mean x count, because TensorFlow Lite's MEAN is faster than its SUM."""
    count, *shape = values.shape
    total = tf.reduce_mean(tf.reshape(values, [1, count, 1, -1]), [1, 2]) * float(count)
    return tf.reshape(total, [1, *shape])


def concatenate(tensors: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
    """Concatenates a few tensors at a time, to stay in the runtime's fast path."""
    while len(tensors) > 1:
        groups = range(0, len(tensors), _MAX_CONCATENATED)
        tensors = [tf.concat(tensors[i : i + _MAX_CONCATENATED], axis) for i in groups]
    return tensors[0]


def window(tensor: tf.Tensor, axis: int, begin: int, length: int) -> tf.Tensor:
    """Slices an axis with `tf.slice`, whose gradient, unlike that of indexing, is a builtin."""
    if begin == 0 and length == tensor.shape[axis]:
        return tensor
    begins, sizes = [0] * len(tensor.shape), tensor.shape.as_list()
    begins[axis], sizes[axis] = begin, length
    return tf.slice(tensor, begins, [-1 if size is None else size for size in sizes])


@tf.custom_gradient
def _batched_products(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Multiplies matrices of the shapes that `each_transposed` accepts."""

    def gradient(upstream):
        return (
            tf.matmul(upstream, each_transposed(second)),
            tf.reshape(_second_gradient(first, upstream), shape_of(second)),
        )

    return tf.matmul(first, second), gradient


def _second_gradient(first: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """Computes the gradient of a product's second factor, transposing the smaller matrix.

    Products over many rows are split into parts, since the entries of a column in very long rows
    would map to the same few lines of the processor's cache.
    """
    rows, inner, columns = first.shape[-2], first.shape[-1], upstream.shape[-1]
    is_swapped = None not in (inner, columns) and inner > columns
    if is_swapped:
        first, upstream = upstream, first
    parts = 1 if rows is None or rows % _ROWS_AT_ONCE else rows // _ROWS_AT_ONCE
    if parts > 1:
        first, upstream = (
            tf.reshape(each, [parts, _ROWS_AT_ONCE, each.shape[-1]]) for each in (first, upstream)
        )
    product = tf.matmul(each_transposed(first), upstream)
    if parts > 1:
        product = _sum_over_first(product)
    return each_transposed(product) if is_swapped else product


def each_transposed(matrices: tf.Tensor) -> tf.Tensor:
    """Transposes each matrix in a form that the converter does not fuse into a product.

    Args:
      matrices: `(batch, rows, columns)`, or a single matrix as `(1, 1, rows, columns)`.
    """
    *batch, rows, columns = shape_of(matrices)
    if len(batch) > 1:
        turned = tf.transpose(matrices, [0, 3, 1, 2])
    else:
        turned = tf.transpose(tf.reshape(matrices, [*batch, rows, 1, columns]), [0, 3, 2, 1])
    return tf.reshape(turned, [*batch, columns, rows])
