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


def matmul(rows: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """`(rows, in) @ (in, out)` as a batch of one product."""
    product = _batched_products(tf.expand_dims(rows, 0), tf.expand_dims(matrix, 0))
    return tf.reshape(product, [shape_of(rows)[0], shape_of(matrix)[1]])


def relu6_gradient(upstream: tf.Tensor, result: tf.Tensor) -> tf.Tensor:
    """`upstream` where `result` of ReLU6 lies strictly between 0 and 6, else zero.

    A comparison and a selection would each leave the runtime's fast path, as a difference with a
    number does; products and sums do not. The clip at -1 never acts: it makes the product and both
    clips one operator. A power of two makes the sum exactly 0 where the result is 6.
    """
    steep = 2.0**100
    inside = result * (result * -steep + 6 * steep)
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


def conv2d(images: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """Convolution with padding SAME, as the product of a matrix of patches.

    Args:
      images: `(batch, height, width, in)`, all known when traced.
      kernel: `(side, side, in, out)`, likewise.
      stride: 1 or 2.

    Returns:
      `(batch, ceil(height / stride), ceil(width / stride), out)`.
    """
    batch, height, width, _ = images.shape
    filters = kernel.shape[3]
    out_shape = [batch, -(-height // stride), -(-width // stride), filters]

    @tf.custom_gradient
    def convolve(images, kernel):
        patches = _patches(images, kernel.shape[0], stride)
        matrix = tf.reshape(kernel, [1, -1, filters])

        def gradient(upstream):
            images_gradient = tf.nn.conv2d_transpose(upstream, kernel, images.shape, stride, "SAME")
            rows = tf.reshape(upstream, [1, -1, filters])
            return images_gradient, tf.reshape(_second_gradient(patches, rows), kernel.shape)

        return tf.reshape(tf.matmul(patches, matrix), out_shape), gradient

    return convolve(images, kernel)


def _patches(images: tf.Tensor, side: int, stride: int) -> tf.Tensor:
    """What the kernel covers at each of its places, `(1, places, side * side * in)`."""
    batch, height, width, channels = images.shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    groups = -(-side // stride)
    tall, wide = out_height + groups - 1, out_width + groups - 1
    paddings = []
    for length, extent in ((height, tall * stride), (width, wide * stride)):
        before, _ = same_padding(length, side, stride)
        paddings.append([before, max(extent - length - before, 0)])
    padded = tf.pad(images, [[0, 0], *paddings, [0, 0]])
    padded = _window(_window(padded, 1, 0, tall * stride), 2, 0, wide * stride)
    rows = tf.reshape(padded, [batch, tall, stride, wide, stride * channels])
    parts = []
    for row in range(side):
        first, phase = divmod(row, stride)
        own = _window(_window(rows, 1, first, out_height), 2, phase, 1)
        own = tf.reshape(own, [batch, out_height, wide, stride * channels])
        for group in range(groups):
            taps = min(stride, side - group * stride)
            parts.append(_window(_window(own, 2, group, out_width), 3, 0, taps * channels))
    return tf.reshape(tf.concat(parts, 3), [1, -1, side * side * channels])


def depthwise_conv2d(images: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """Depthwise convolution with padding SAME, as a product of matrices for each channel.

    The runtime's own operator is slow where the kernel is no constant, ten times slower than
    TensorFlow's on x86, and never returns where it has more than 4,832 channels, as the usual
    formulation of its filter gradient as a depthwise convolution over batch x channels would ask.
    A product needs a matrix that holds the kernel at every place it takes on the map: either of
    all pixels by all pixels, or, for large maps, of the kernel's rows beside each other. All that
    it is made of is differentiable by builtins.

    Args:
      images: `(batch, height, width, channels)`, all known when traced.
      kernel: `(side, side, channels, 1)`, likewise.
      stride: 1 or 2.

    Returns:
      `(batch, ceil(height / stride), ceil(width / stride), channels)`.
    """
    batch, height, width, channels = images.shape
    side = kernel.shape[0]
    out_height, out_width = -(-height // stride), -(-width // stride)
    rows = tf.transpose(tf.reshape(images, [-1, channels]), [1, 0])
    taps = tf.transpose(tf.reshape(kernel, [side, side, channels]), [2, 0, 1])
    # By measurement a row's entry costs half of a map's.
    if batch * side < height * out_width * 2:
        maps = tf.reshape(rows, [channels * batch, height, width])
        result = _row_products(maps, taps, stride)
    else:
        maps = tf.reshape(rows, [channels, batch, height * width])
        result = _batched_products(maps, _map_matrix(taps, height, width, stride))
    result = tf.transpose(tf.reshape(result, [channels, -1]), [1, 0])
    return tf.reshape(result, [batch, out_height, out_width, channels])


def _row_products(maps: tf.Tensor, taps: tf.Tensor, stride: int) -> tf.Tensor:
    """Each output row as the product of the input rows under the kernel with a banded matrix."""
    _, height, width = maps.shape
    side = taps.shape[1]
    out_height, out_width = -(-height // stride), -(-width // stride)
    top, _ = same_padding(height, side, stride)
    left, _ = same_padding(width, side, stride)
    # Taps and rows up to whole strides; what is added is zeros.
    groups = -(-side // stride)
    tall = (out_height + groups - 1) * stride
    bands = tf.transpose(_slide(taps, stride, out_width, width, left), [0, 1, 3, 2])
    bands = tf.pad(bands, [[0, 0], [0, groups * stride - side], [0, 0], [0, 0]])
    below = max(tall - height - top, 0)
    maps = _window(tf.pad(maps, [[0, 0], [top, below], [0, 0]]), 1, 0, tall)
    return _band_products(stride)(maps, bands)


def _band_products(stride: int):
    """The product of padded rows with bands, `(maps, bands) -> rows of the result`.

    The maps are `(channels * batch, height, width)`, the bands `(channels, taps, width, columns)`,
    height and taps whole strides.
    """

    @tf.custom_gradient
    def multiply(maps, bands):
        channels, taps, width, columns = bands.shape
        groups, tall = taps // stride, maps.shape[1] // stride
        out_height = tall - groups + 1
        phases = tf.reshape(maps, [-1, tall, stride * width])
        beside = tf.concat([_window(phases, 1, row, out_height) for row in range(groups)], 2)
        beside = tf.reshape(beside, [channels, -1, taps * width])
        matrix = tf.reshape(bands, [channels, taps * width, columns])

        def gradient(upstream):
            # Each phase of the input rows is the product of the result's rows with the turned
            # bands of its own taps, the last tap meeting the first row.
            rows = tf.reshape(upstream, [-1, out_height, columns])
            rows = tf.pad(rows, [[0, 0], [groups - 1, groups - 1], [0, 0]])
            around = [_window(rows, 1, groups - 1 - row, tall) for row in range(groups)]
            around = tf.reshape(tf.concat(around, 2), [channels, -1, groups * columns])
            turned = tf.reshape(bands, [channels, groups, stride * width, columns])
            turned = tf.transpose(turned, [0, 1, 3, 2])
            turned = tf.reshape(turned, [channels, groups * columns, stride * width])
            maps_gradient = tf.reshape(tf.matmul(around, turned), [-1, tall * stride, width])
            bands_gradient = _second_gradient(beside, upstream)
            return maps_gradient, tf.reshape(bands_gradient, bands.shape)

        return tf.matmul(beside, matrix), gradient

    return multiply


def _map_matrix(taps: tf.Tensor, height: int, width: int, stride: int) -> tf.Tensor:
    """Each channel's `(height * width, pixels of the result)`, the kernel at all its places."""
    channels, side, _ = taps.shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    top, _ = same_padding(height, side, stride)
    left, _ = same_padding(width, side, stride)
    places = _slide(taps, stride, out_width, width, left)
    places = tf.transpose(tf.reshape(places, [channels, side, out_width * width]), [0, 2, 1])
    places = _slide(places, stride, out_height, height, top)
    places = tf.reshape(places, [channels, out_width, width, out_height, height])
    places = tf.transpose(places, [0, 4, 2, 3, 1])
    return tf.reshape(places, [channels, height * width, out_height * out_width])


def _slide(taps: tf.Tensor, stride: int, places: int, length: int, before: int) -> tf.Tensor:
    """The taps at each place of their walk over an axis of `length`, padded by `before`.

    `(..., taps)` to `(..., places, length)`: in row p the taps begin at `p * stride - before`.
    Repeating the taps with a period of one stride more than their walk's extent makes them slide.
    """
    *lead, side = taps.shape
    extent = (places - 1) * stride + side
    period = extent + stride
    rows = tf.pad(tf.reshape(taps, [-1, 1, side]), [[0, 0], [0, 0], [0, period - side]])
    rows = tf.reshape(tf.tile(rows, [1, places, 1]), [-1, places * period])
    rows = tf.reshape(_window(rows, 1, 0, places * extent), [-1, places, extent])
    rows = tf.pad(rows, [[0, 0], [0, 0], [0, max(before + length - extent, 0)]])
    return tf.reshape(_window(rows, 2, before, length), [*lead, places, length])


def _window(tensor: tf.Tensor, axis: int, begin: int, length: int) -> tf.Tensor:
    """Part of an axis; the gradient of `tf.slice` is a builtin, that of indexing is not."""
    if begin == 0 and length == tensor.shape[axis]:
        return tensor
    begins, sizes = [0] * len(tensor.shape), tensor.shape.as_list()
    begins[axis], sizes[axis] = begin, length
    return tf.slice(tensor, begins, [-1 if size is None else size for size in sizes])


@tf.custom_gradient
def _batched_products(first, second):
    """`tf.matmul` of `(batch, rows, inner)` and `(batch, inner, columns)`."""

    def gradient(upstream):
        return (
            tf.matmul(upstream, _each_transposed(second)),
            _second_gradient(first, upstream),
        )

    return tf.matmul(first, second), gradient


def _second_gradient(first, upstream):
    """Gradient of a product's second factor; the smaller of the two matrices is transposed."""
    inner, columns = first.shape[2], upstream.shape[2]
    if inner is None or columns is None or inner <= columns:
        return tf.matmul(_each_transposed(first), upstream)
    return _each_transposed(tf.matmul(_each_transposed(upstream), first))


def _each_transposed(matrices: tf.Tensor) -> tf.Tensor:
    """Each matrix transposed, in a form that the converter does not merge into a product."""
    batch, rows, columns = shape_of(matrices)
    turned = tf.transpose(tf.reshape(matrices, [batch, rows, 1, columns]), [0, 3, 2, 1])
    return tf.reshape(turned, [batch, columns, rows])
