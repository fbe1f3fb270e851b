"""Gradients made of TensorFlow Lite builtins alone, so that a phone's stock runtime can train.

Each is also a formulation that the runtime computes fast: its batched matrix product is as fast as
TensorFlow's while its fully connected operator is several times slower, so that products are
written as batched ones and never with a transposed second factor.
"""

import tensorflow as tf


def shape_of(tensor: tf.Tensor) -> list:
    """Each axis' length: a number where known, else an int32 scalar."""
    static, dynamic = tensor.shape.as_list(), tf.shape(tensor)
    return [dynamic[i] if length is None else length for i, length in enumerate(static)]


def maximum(first, second):
    """The greater of two numbers, a number itself where both are known when traced."""
    if isinstance(first, int) and isinstance(second, int):
        return max(first, second)
    return tf.maximum(first, second)


def same_padding(side: int, kernel, stride: int):
    """Zeros before and after an axis under padding SAME."""
    total = maximum((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def batched_matmul(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """`(rows, inner) @ (inner, columns)` as a batch of one product."""
    product = tf.matmul(first[tf.newaxis], second[tf.newaxis])
    return tf.reshape(product, [shape_of(first)[0], shape_of(second)[1]])


def matmul_gradients(
    rows: tf.Tensor, matrix: tf.Tensor, upstream: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradients of `rows @ matrix` with respect to both."""
    return (
        batched_matmul(upstream, _transposed(matrix)),
        batched_matmul(_transposed(rows), upstream),
    )


def relu6_gradient(upstream: tf.Tensor, result: tf.Tensor) -> tf.Tensor:
    """`upstream` where `result` of ReLU6 lies strictly between 0 and 6, else zero.

    A comparison and a selection would each leave the runtime's fast path; products do not. The
    clip at -1 never acts, it makes the product and both clips one operator.
    """
    inside = result * (6.0 - result) * 1e30
    return upstream * tf.maximum(tf.minimum(inside, 1.0), -1.0)


def average_pool_gradient(upstream: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Gradient of the average over 2 x 2 with stride 2 and padding SAME.

    Args:
      upstream: `(batch, ceil(height / 2), ceil(width / 2), channels)`.
      height: Of the pooled images.
      width: Likewise.
    """
    _, rows, columns, channels = shape_of(upstream)
    # The last row and column of an odd map average over fewer pixels.
    share = [[0.5] * (side // 2) + [1.0] * (side % 2) for side in (height, width)]
    scale = tf.tensordot(tf.constant(share[0]), tf.constant(share[1]), 0)
    upstream = upstream * scale[..., tf.newaxis]
    across = tf.reshape(upstream, [-1, columns, 1, channels])
    across = tf.reshape(tf.concat([across, across], 2), [-1, rows, 1, 2 * columns * channels])
    spread = tf.reshape(tf.concat([across, across], 2), [-1, 2 * rows, 2 * columns, channels])
    return spread[:, :height, :width]


def conv2d_gradients(
    images: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor, stride: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradients of a convolution with padding SAME with respect to images and kernel."""
    batch, height, width, channels = shape_of(images)
    input_gradient = tf.nn.conv2d_transpose(
        upstream, kernel, [batch, height, width, channels], stride, "SAME"
    )
    # The filter gradient is a convolution of the images with the upstream, batch and channels
    # having changed places, and the upstream spread by the stride.
    rows, columns, _, _ = shape_of(kernel)
    paddings = [[0, 0], same_padding(height, rows, stride), same_padding(width, columns, stride)]
    padded = tf.pad(images, [*paddings, [0, 0]])
    filter_gradient = tf.nn.conv2d(
        tf.transpose(padded, [3, 1, 2, 0]),
        tf.transpose(upstream, [1, 2, 0, 3]),
        1,
        "VALID",
        dilations=stride,
    )[:, :rows, :columns]
    return input_gradient, tf.transpose(filter_gradient, [1, 2, 0, 3])


def depthwise_filter_gradient(images, kernel, upstream, stride):
    """Depthwise convolution of the images with the upstream, channels = batch x channels."""
    batch, height, width, channels = shape_of(images)
    rows, columns = shape_of(kernel)[:2]
    out_height, out_width = -(-height // stride), -(-width // stride)
    top, _ = same_padding(height, rows, stride)
    left, _ = same_padding(width, columns, stride)
    # Extents that the kernel's walk touches, rounded up to whole strides.
    tall = -(-((out_height - 1) * stride + rows) // stride) * stride
    wide = -(-((out_width - 1) * stride + columns) // stride) * stride
    bottom = maximum(tall - height - top, 0)
    right = maximum(wide - width - left, 0)
    merged = batch * channels
    moved = tf.reshape(tf.transpose(images, [1, 2, 0, 3]), [1, height, width, merged])
    moved = tf.pad(moved, [[0, 0], [top, bottom], [left, right], [0, 0]])[:, :tall, :wide]
    filters = tf.reshape(tf.transpose(upstream, [1, 2, 0, 3]), [out_height, out_width, merged, 1])
    if stride > 1:
        # Each phase of the stride becomes an image of its own.
        phases = [tall // stride, stride, wide // stride, stride, merged]
        moved = tf.transpose(tf.reshape(moved, phases), [1, 3, 0, 2, 4])
        moved = tf.reshape(moved, [stride * stride, phases[0], phases[2], merged])
    taps = tf.nn.depthwise_conv2d(moved, filters, [1, 1, 1, 1], "VALID")
    if stride > 1:
        high = tall // stride - out_height + 1
        long = wide // stride - out_width + 1
        taps = tf.reshape(taps, [stride, stride, high, long, merged])
        taps = tf.transpose(taps, [2, 0, 3, 1, 4])
        taps = tf.reshape(taps, [high * stride, long * stride, merged])[:rows, :columns]
    taps = tf.reshape(taps, [rows, columns, batch, channels])
    return tf.expand_dims(tf.reduce_sum(taps, 2), 3)


def depthwise_input_gradient(images, kernel, upstream, stride):
    """Depthwise convolution of the spread upstream with the kernel turned by half a turn."""
    _, height, width, channels = shape_of(images)
    rows, columns = shape_of(kernel)[:2]
    out_height, out_width = -(-height // stride), -(-width // stride)
    if stride > 1:
        gap = [0, stride - 1]
        spread = tf.reshape(upstream, [-1, out_width, 1, channels])
        spread = tf.pad(spread, [[0, 0], [0, 0], gap, [0, 0]])
        spread = tf.reshape(spread, [-1, out_height, 1, out_width * stride * channels])
        spread = tf.pad(spread, [[0, 0], [0, 0], gap, [0, 0]])
        upstream = tf.reshape(spread, [-1, out_height * stride, out_width * stride, channels])
    paddings = []
    for length, side, taps in ((height, out_height, rows), (width, out_width, columns)):
        before = taps - 1 - same_padding(length, taps, stride)[0]
        paddings.append([before, maximum(length + taps - 1 - side * stride - before, 0)])
    padded = tf.pad(upstream, [[0, 0], *paddings, [0, 0]])
    padded = padded[:, : height + rows - 1, : width + columns - 1]
    # One axis at a time: TensorFlow Lite reverses several axes at once wrongly.
    turned = tf.reverse(tf.reverse(kernel, [0]), [1])
    return tf.nn.depthwise_conv2d(padded, turned, [1, 1, 1, 1], "VALID")


def _transposed(matrix: tf.Tensor) -> tf.Tensor:
    """The transposed matrix, in a form that the converter does not merge into a product."""
    rows, columns = shape_of(matrix)
    turned = tf.transpose(tf.reshape(matrix, [rows, 1, columns]), [2, 1, 0])
    return tf.reshape(turned, [columns, rows])
