"""Depthwise convolutions and their gradients as products, with TensorFlow Lite builtins alone.

The runtime's own operator is slow if the kernel is not a constant (ten times slower than
TensorFlow's on x86). It also hangs with more than 4,832 channels, which the usual formulation of
the filter gradient as a depthwise convolution over batch x channels would need.

The tap of the kernel that links an input pixel to an output pixel is known at tracing time.
Products with these links, constants of zeros and ones, expand the kernel to a weight for each pair
of pixels and reduce the gradient of these weights to that of the kernel. The weights are applied to
the images in one of two ways, whichever is estimated to be faster:

* On tiny maps, each input pixel is multiplied by its weight for each output pixel, entry by entry,
  and a mean sums the products. Channels stay innermost, and nothing is transposed.
* On other maps, each channel has a matrix of all input pixels by all output pixels or, on large
  maps, of the input rows that a block of output rows reaches. Images are transposed to
  channels-first order.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsup_tf.ops.builtin import SQUARE, each_transposed, same_padding, window

# Costs in nanoseconds, measured on x86. All except that of a multiplication cover both a value and
# its gradients.
# A pair of pixels in an image, entry by entry.
_PAIR_NS = 0.66
# An entry of a matrix.
_ENTRY_NS = 1.5
# A multiplication in a product.
_PRODUCT_NS = 0.01
# A chunk of adjacent rows that is copied into a block.
_COPY_NS = 5.5
# An entry that is transposed and transposed back.
_TRANSPOSE_NS = 0.8
# Operator calls for one channel.
_CHANNEL_CALLS_NS = 600
# Operator calls for all channels, beyond those that pairs need.
_ALL_CALLS_NS = 25_000


def depthwise_conv2d(images: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """Computes a depthwise convolution with padding SAME.

    Args:
      images: `(batch, height, width, channels)`, all statically known.
      kernel: `(rows, columns, channels, 1)`, all statically known.
      stride: 1 or 2.

    Returns:
      `(batch, ceil(height / stride), ceil(width / stride), channels)`.
    """
    batch, height, width, channels = images.shape
    down = KernelPositions(height, kernel.shape[0], stride)
    across = KernelPositions(width, kernel.shape[1], stride)
    costs = {
        blocks: _block_cost(batch, channels, down, across, blocks)
        for blocks in range(1, down.outputs + 1)
        if down.outputs % blocks == 0
    }
    cheapest = min(costs, key=costs.get)
    if _pair_cost(batch, channels, down, across) < costs[cheapest]:
        return pair_products(images, kernel, down, across)
    return block_products(images, kernel, down, across, cheapest)


class KernelPositions(NamedTuple):
    """Positions of a kernel along an axis, each of which yields one output pixel.

    Attributes:
      length: Number of input pixels.
      taps: Number of taps of the kernel.
      stride: Number of input pixels between successive positions.
    """

    length: int
    taps: int
    stride: int

    @property
    def outputs(self) -> int:
        """Number of output pixels."""
        return -(-self.length // self.stride)

    @property
    def before(self) -> int:
        """Number of padding zeros before the first input pixel."""
        return same_padding(self.length, self.taps, self.stride)[0]

    def links(self, pixels: range, outputs: range) -> np.ndarray:
        """Returns `(taps, pixels, outputs)`: 1 where a tap links an input to an output pixel."""
        taps, pixels, outputs = np.ix_(range(self.taps), pixels, outputs)
        return (pixels == outputs * self.stride + taps - self.before).astype(np.float32)

    def all_links(self) -> np.ndarray:
        """Returns the links of all input pixels to all output pixels."""
        return self.links(range(self.length), range(self.outputs))

    def input_window(self, outputs: int) -> range:
        """Returns the input pixels, including padding, that the first `outputs` outputs reach."""
        return range(-self.before, (outputs - 1) * self.stride + self.taps - self.before)

    def output_window(self, pixels: int) -> range:
        """Returns the positions, also outside the output, that reach the first `pixels` inputs."""
        first = -((self.taps - 1 - self.before) // self.stride)
        return range(first, (pixels - 1 + self.before) // self.stride + 1)


def _pair_cost(batch: int, channels: int, down: KernelPositions, across: KernelPositions) -> float:
    pairs = down.length * down.outputs * across.length * across.outputs
    weights = _ENTRY_NS + 3 * _PRODUCT_NS * down.taps * across.taps
    return channels * pairs * (_PAIR_NS * batch + weights)


def _block_cost(
    batch: int, channels: int, down: KernelPositions, across: KernelPositions, blocks: int
) -> float:
    windows = batch * blocks
    outputs, step, input_window, output_window = map(len, _block_rows(down, blocks))
    copies = 0
    if blocks > 1:
        copies = input_window // _together(step, input_window)
        copies += output_window // _together(outputs, output_window)
    pixels, results = input_window * across.length, outputs * across.outputs
    products = (
        _multiplications(windows, pixels, results)
        + _multiplications(windows, output_window * across.outputs, step * across.length)
        + _multiplications(results, windows, pixels)
    )
    transposed = batch * (down.length * across.length + down.outputs * across.outputs)
    return _ALL_CALLS_NS + channels * (
        _ENTRY_NS * pixels * results
        + _PRODUCT_NS * products
        + _COPY_NS * windows * copies
        + _TRANSPOSE_NS * transposed
        + _CHANNEL_CALLS_NS
    )


def _multiplications(rows: int, inner: int, columns: int) -> int:
    rows, columns = (SQUARE * -(-length // SQUARE) for length in (rows, columns))
    return rows * inner * columns


def _block_rows(down: KernelPositions, blocks: int) -> tuple[range, range, range, range]:
    """Returns the rows of the first block.

    Returns:
      The output rows, the input rows, the input rows that the output rows reach, and the output
      rows that reach the input rows.
    """
    outputs = range(down.outputs // blocks)
    if blocks == 1:
        pixels = range(down.length)
        return outputs, pixels, pixels, outputs
    pixels = range(len(outputs) * down.stride)
    return outputs, pixels, down.input_window(len(outputs)), down.output_window(len(pixels))


def _together(step: int, rows: int) -> int:
    """Returns the number of rows that stay adjacent in windows of `rows` rows, `step` apart."""
    return math.gcd(step, rows)


# ------------------------------------------------------------- entry by entry


def pair_products(
    images: tf.Tensor, kernel: tf.Tensor, down: KernelPositions, across: KernelPositions
) -> tf.Tensor:
    """Computes a depthwise convolution from all pairs of an input and an output pixel.

    Args:
      images: `(batch, height, width, channels)`.
      kernel: `(rows, columns, channels, 1)`.
      down: Positions of the kernel along the height.
      across: Positions of the kernel along the width.

    Returns:
      The result, `(batch, down.outputs, across.outputs, channels)`.
    """
    batch, _, _, channels = images.shape
    pixels, outputs = down.length * across.length, down.outputs * across.outputs
    links = np.einsum("kio,lju->ijoukl", down.all_links(), across.all_links())
    links = links.reshape(1, pixels * outputs, -1)

    @tf.custom_gradient
    def multiply(images, kernel):
        values = tf.reshape(images, [batch, pixels, 1, channels])
        weights = tf.matmul(links, tf.reshape(kernel, [1, -1, channels]))

        def gradient(upstream):
            # The products of an input pixel for all output pixels are adjacent.
            rows = tf.reshape(upstream, [batch, 1, outputs * channels])
            products = rows * tf.reshape(weights, [1, pixels, outputs * channels])
            products = tf.reshape(products, [batch * pixels, outputs, 1, channels])
            images_gradient = tf.reduce_mean(products, [1, 2]) * float(outputs)
            products = values * tf.reshape(upstream, [batch, 1, outputs, channels])
            products = tf.reshape(products, [1, batch, 1, pixels * outputs * channels])
            slopes = tf.reduce_mean(products, [1, 2]) * float(batch)
            slopes = tf.reshape(slopes, [1, pixels * outputs, channels])
            # The runtime transposes the links, since the file would otherwise hold them twice.
            taps = tf.matmul(links, slopes, transpose_a=True)
            return tf.reshape(images_gradient, images.shape), tf.reshape(taps, kernel.shape)

        products = values * tf.reshape(weights, [1, pixels, outputs, channels])
        products = tf.reshape(products, [batch, pixels, 1, outputs * channels])
        result = tf.reduce_mean(products, [1, 2]) * float(pixels)
        return tf.reshape(result, [batch, down.outputs, across.outputs, channels]), gradient

    return multiply(images, kernel)


# ------------------------------------------------------- a matrix for each channel


def block_products(
    images: tf.Tensor,
    kernel: tf.Tensor,
    down: KernelPositions,
    across: KernelPositions,
    blocks: int,
) -> tf.Tensor:
    """Computes the result of `pair_products` in equal blocks of rows, for larger maps.

    Args:
      images: `(batch, height, width, channels)`.
      kernel: `(rows, columns, channels, 1)`.
      down: Positions of the kernel along the height.
      across: Positions of the kernel along the width.
      blocks: Number of blocks, a divisor of `down.outputs`.

    Returns:
      The result, `(batch, down.outputs, across.outputs, channels)`.
    """
    batch, height, width, channels = images.shape
    outputs, pixels, input_window, output_window = _block_rows(down, blocks)
    links = down.links(input_window, outputs), across.all_links()
    turned_links = [link.swapaxes(1, 2) for link in links]
    back = down.links(pixels, output_window).swapaxes(1, 2), turned_links[1]

    @tf.custom_gradient
    def multiply(images, kernel):
        maps = _channels_first(images)
        maps = _windows(maps, width, len(pixels), input_window, blocks)
        maps = tf.reshape(maps, [channels, batch * blocks, -1])
        matrices = _matrices(kernel, *links)

        def gradient(upstream):
            rows = _channels_first(upstream)
            around = _windows(rows, across.outputs, len(outputs), output_window, blocks)
            around = tf.reshape(around, [channels, batch * blocks, -1])
            turned = each_transposed(matrices) if blocks == 1 else _matrices(kernel, *back)
            gradients = tf.reshape(tf.matmul(around, turned), [channels * batch, -1])
            # The rows of the last block may extend beyond a map of odd height.
            images_gradient = _channels_last(window(gradients, 1, 0, height * width), images.shape)
            rows = tf.reshape(rows, [channels, batch * blocks, -1])
            slopes = tf.matmul(each_transposed(rows), maps)
            return images_gradient, tf.reshape(_taps(slopes, *turned_links), kernel.shape)

        shape = [batch, down.outputs, across.outputs, channels]
        return _channels_last(tf.matmul(maps, matrices), shape), gradient

    return multiply(images, kernel)


def _channels_first(images: tf.Tensor) -> tf.Tensor:
    """Transposes `(batch, height, width, channels)` to `(channels * batch, height * width)`."""
    batch, _, _, channels = images.shape
    rows = tf.transpose(tf.reshape(images, [-1, channels]), [1, 0])
    return tf.reshape(rows, [channels * batch, -1])


def _channels_last(maps: tf.Tensor, shape: Sequence[int] | tf.TensorShape) -> tf.Tensor:
    """Transposes channels-first maps to `shape`, with channels last."""
    rows = tf.transpose(tf.reshape(maps, [shape[3], -1]), [1, 0])
    return tf.reshape(rows, shape)


def _windows(maps: tf.Tensor, width: int, step: int, rows: range, blocks: int) -> tf.Tensor:
    """Gathers the rows of each block of each map, one block after the other.

    Args:
      maps: `(maps, height * width)`.
      width: Width of the maps.
      step: Number of rows from the start of one block to the next.
      rows: Rows of the first block, starting at or below 0; rows outside the map are zeros.
      blocks: Number of blocks.

    Returns:
      `(maps, blocks * rows * width)`.
    """
    if blocks == 1:
        return maps
    chunk = _together(step, len(rows))
    height = maps.shape[1] // width
    above, needed = -rows.start, (blocks - 1) * step + len(rows)
    below = max(needed - above - height, 0)
    below += -(above + height + below) % chunk  # Whole chunks.
    padded = tf.pad(maps, [[0, 0], [above * width, below * width]])
    chunks = tf.reshape(padded, [maps.shape[0], -1, chunk * width])
    begins = np.arange(blocks) * (step // chunk)
    chosen = np.add.outer(begins, np.arange(len(rows) // chunk))
    return tf.gather(chunks, chosen.reshape(-1).astype(np.int32), axis=1)


def _matrices(kernel: tf.Tensor, down: np.ndarray, across: np.ndarray) -> tf.Tensor:
    """Expands the kernel to a matrix of input by output pixels for each channel.

    Args:
      kernel: `(rows, columns, channels, 1)`.
      down: Links of rows, `(rows of the kernel, input rows, output rows)`.
      across: Links of columns, `(columns of the kernel, input columns, output columns)`.

    Returns:
      `(channels, input rows * input columns, output rows * output columns)`.
    """
    height, input_rows, output_rows = down.shape
    width, input_columns, output_columns = across.shape
    channels = kernel.shape[2]
    taps = tf.reshape(kernel, [1, height, width * channels])
    taps = tf.matmul(down.reshape(1, height, -1).swapaxes(1, 2), taps)
    taps = tf.transpose(tf.reshape(taps, [-1, channels]), [1, 0])
    taps = tf.matmul(tf.reshape(taps, [1, -1, width]), across.reshape(1, width, -1))
    taps = tf.reshape(taps, [channels * input_rows, output_rows, input_columns, output_columns])
    taps = tf.transpose(taps, [0, 2, 1, 3])
    return tf.reshape(taps, [channels, input_rows * input_columns, output_rows * output_columns])


def _taps(slopes: tf.Tensor, down: np.ndarray, across: np.ndarray) -> tf.Tensor:
    """Reduces the gradient of the matrices to that of the kernel: the transpose of `_matrices`.

    Args:
      slopes: Gradient of the matrices, transposed:
        `(channels, output rows * output columns, input rows * input columns)`.
      down: Transposed links of rows, `(rows of the kernel, output rows, input rows)`.
      across: Transposed links of columns, `(columns of the kernel, output columns, input columns)`.

    Returns:
      `(1, rows, columns * channels)`.
    """
    height, output_rows, input_rows = down.shape
    width, output_columns, input_columns = across.shape
    channels = slopes.shape[0]
    slopes = tf.reshape(slopes, [channels * output_rows, output_columns, input_rows, input_columns])
    slopes = tf.transpose(slopes, [0, 2, 1, 3])
    slopes = tf.reshape(slopes, [1, -1, output_columns * input_columns])
    slopes = tf.matmul(slopes, across.reshape(1, width, -1).swapaxes(1, 2))
    slopes = tf.transpose(tf.reshape(slopes, [channels, -1]), [1, 0])
    slopes = tf.reshape(slopes, [1, output_rows * input_rows, width * channels])
    return tf.matmul(down.reshape(1, height, -1), slopes)
