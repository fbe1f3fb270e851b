"""Depthwise convolutions and their gradients as products, of TensorFlow Lite builtins alone.

The runtime's own operator is slow where the kernel is no constant, ten times slower than
TensorFlow's on x86, and never returns where it has more than 4,832 channels, as the usual
formulation of its filter gradient as a depthwise convolution over batch x channels would ask.

Which tap of the kernel joins which pixel with which pixel of the result is known when traced.
Products with these links, constants of zeros and ones, make of the kernel a weight for each such
pair of pixels, and of the weights' gradient the kernel's. The weights then meet the images in one
of two ways, whichever is estimated to be faster:

* on tiny maps each pixel is multiplied by its weight in every result, entry by entry, and a mean
  adds up: channels stay innermost, and nothing is transposed;
* on others each channel has a matrix, of all pixels by all pixels or, on large maps, of a block of
  the result's rows by the rows that it reaches, and the images are transposed to channels first.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsup_tf.ops.builtin import SQUARE, each_transposed, same_padding, window

# Nanoseconds by measurement on x86: of a pair's weight in an image, entry by entry; of an entry of
# a matrix; of a multiplication in a product; of rows that are copied into a block together; of an
# entry that is transposed there and back; of the calls for a channel; and of those for all of them,
# beyond what pairs have. All but the multiplication are of a value and its gradients together.
_PAIR, _ENTRY, _PRODUCT, _COPY, _TRANSPOSE, _CALLS = 0.66, 1.5, 0.01, 5.5, 0.8, 600
_ALL_CALLS = 25_000


def depthwise_conv2d(images: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """Depthwise convolution with padding SAME.

    Args:
      images: `(batch, height, width, channels)`, all known when traced.
      kernel: `(rows, columns, channels, 1)`, likewise.
      stride: 1 or 2.

    Returns:
      `(batch, ceil(height / stride), ceil(width / stride), channels)`.
    """
    batch, height, width, channels = images.shape
    down = _Walk(height, kernel.shape[0], stride)
    across = _Walk(width, kernel.shape[1], stride)
    costs = {
        blocks: _block_cost(batch, channels, down, across, blocks)
        for blocks in range(1, down.places + 1)
        if down.places % blocks == 0
    }
    cheapest = min(costs, key=costs.get)
    if _pair_cost(batch, channels, down, across) < costs[cheapest]:
        return _pair_products(images, kernel, down, across)
    return _block_products(images, kernel, down, across, cheapest)


class _Walk(NamedTuple):
    """A kernel's places along an axis.

    Attributes:
      length: Pixels of the axis.
      taps: Of the kernel.
      stride: From place to place.
    """

    length: int
    taps: int
    stride: int

    @property
    def places(self) -> int:
        """Pixels of the result."""
        return -(-self.length // self.stride)

    @property
    def before(self) -> int:
        """Zeros before the first pixel."""
        return same_padding(self.length, self.taps, self.stride)[0]

    def links(self, pixels: range, places: range) -> np.ndarray:
        """1 where a tap joins a pixel with a place, else 0: `(taps, pixels, places)`."""
        taps, pixels, places = np.ix_(range(self.taps), pixels, places)
        return (pixels == places * self.stride + taps - self.before).astype(np.float32)

    def all_links(self) -> np.ndarray:
        """Those of all pixels with all places."""
        return self.links(range(self.length), range(self.places))

    def reached_from(self, places: int) -> range:
        """Pixels that the first places reach, of the padding too."""
        return range(-self.before, (places - 1) * self.stride + self.taps - self.before)

    def reaching(self, pixels: int) -> range:
        """Places that reach the first pixels, beyond the first and the last place too."""
        first = -((self.taps - 1 - self.before) // self.stride)
        return range(first, (pixels - 1 + self.before) // self.stride + 1)


def _pair_cost(batch: int, channels: int, down: _Walk, across: _Walk) -> float:
    pairs = down.length * down.places * across.length * across.places
    weights = _ENTRY + 3 * _PRODUCT * down.taps * across.taps
    return channels * pairs * (_PAIR * batch + weights)


def _block_cost(batch: int, channels: int, down: _Walk, across: _Walk, blocks: int) -> float:
    windows = batch * blocks
    places, step, reached, reaching = map(len, _block_rows(down, blocks))
    copies = 0
    if blocks > 1:
        copies = reached // _together(step, reached) + reaching // _together(places, reaching)
    pixels, results = reached * across.length, places * across.places
    products = (
        _multiplications(windows, pixels, results)
        + _multiplications(windows, reaching * across.places, step * across.length)
        + _multiplications(results, windows, pixels)
    )
    transposed = batch * (down.length * across.length + down.places * across.places)
    return _ALL_CALLS + channels * (
        _ENTRY * pixels * results
        + _PRODUCT * products
        + _COPY * windows * copies
        + _TRANSPOSE * transposed
        + _CALLS
    )


def _multiplications(rows: int, inner: int, columns: int) -> int:
    rows, columns = (SQUARE * -(-length // SQUARE) for length in (rows, columns))
    return rows * inner * columns


def _block_rows(down: _Walk, blocks: int) -> tuple[range, range, range, range]:
    """Rows of the first block: places, pixels, the pixels these places reach, and the other way."""
    places = range(down.places // blocks)
    if blocks == 1:
        pixels = range(down.length)
        return places, pixels, pixels, places
    pixels = range(len(places) * down.stride)
    return places, pixels, down.reached_from(len(places)), down.reaching(len(pixels))


def _together(step: int, rows: int) -> int:
    """Rows that are neighbours in every window of so many, windows so many rows apart."""
    return math.gcd(step, rows)


# ------------------------------------------------------------- entry by entry


def _pair_products(images: tf.Tensor, kernel: tf.Tensor, down: _Walk, across: _Walk) -> tf.Tensor:
    batch, _, _, channels = images.shape
    pixels, places = down.length * across.length, down.places * across.places
    links = np.einsum("kio,lju->ijoukl", down.all_links(), across.all_links())
    links = links.reshape(1, pixels * places, -1)

    @tf.custom_gradient
    def multiply(images, kernel):
        values = tf.reshape(images, [batch, pixels, 1, channels])
        weights = tf.matmul(links, tf.reshape(kernel, [1, -1, channels]))

        def gradient(upstream):
            # Each pixel's products with the places lie side by side.
            rows = tf.reshape(upstream, [batch, 1, places * channels])
            products = rows * tf.reshape(weights, [1, pixels, places * channels])
            products = tf.reshape(products, [batch * pixels, places, 1, channels])
            images_gradient = tf.reduce_mean(products, [1, 2]) * float(places)
            products = values * tf.reshape(upstream, [batch, 1, places, channels])
            products = tf.reshape(products, [1, batch, 1, pixels * places * channels])
            slopes = tf.reduce_mean(products, [1, 2]) * float(batch)
            slopes = tf.reshape(slopes, [1, pixels * places, channels])
            # The runtime turns the few links; turned here the file would hold them twice.
            taps = tf.matmul(links, slopes, transpose_a=True)
            return tf.reshape(images_gradient, images.shape), tf.reshape(taps, kernel.shape)

        products = values * tf.reshape(weights, [1, pixels, places, channels])
        products = tf.reshape(products, [batch, pixels, 1, places * channels])
        result = tf.reduce_mean(products, [1, 2]) * float(pixels)
        return tf.reshape(result, [batch, down.places, across.places, channels]), gradient

    return multiply(images, kernel)


# ------------------------------------------------------- a matrix for each channel


def _block_products(
    images: tf.Tensor, kernel: tf.Tensor, down: _Walk, across: _Walk, blocks: int
) -> tf.Tensor:
    batch, height, width, channels = images.shape
    places, pixels, reached, reaching = _block_rows(down, blocks)
    links = down.links(reached, places), across.all_links()
    turned_links = [link.swapaxes(1, 2) for link in links]
    back = down.links(pixels, reaching).swapaxes(1, 2), turned_links[1]

    @tf.custom_gradient
    def multiply(images, kernel):
        maps = _channels_first(images)
        maps = _windows(maps, width, len(pixels), reached, blocks)
        maps = tf.reshape(maps, [channels, batch * blocks, -1])
        matrices = _matrices(kernel, *links)

        def gradient(upstream):
            rows = _channels_first(upstream)
            around = _windows(rows, across.places, len(places), reaching, blocks)
            around = tf.reshape(around, [channels, batch * blocks, -1])
            turned = each_transposed(matrices) if blocks == 1 else _matrices(kernel, *back)
            found = tf.reshape(tf.matmul(around, turned), [channels * batch, -1])
            # The last block's rows go beyond those of an odd map.
            images_gradient = _channels_last(window(found, 1, 0, height * width), images.shape)
            rows = tf.reshape(rows, [channels, batch * blocks, -1])
            slopes = tf.matmul(each_transposed(rows), maps)
            return images_gradient, tf.reshape(_taps(slopes, *turned_links), kernel.shape)

        shape = [batch, down.places, across.places, channels]
        return _channels_last(tf.matmul(maps, matrices), shape), gradient

    return multiply(images, kernel)


def _channels_first(images: tf.Tensor) -> tf.Tensor:
    """`(batch, height, width, channels)` to `(channels * batch, height * width)`."""
    batch, _, _, channels = images.shape
    rows = tf.transpose(tf.reshape(images, [-1, channels]), [1, 0])
    return tf.reshape(rows, [channels * batch, -1])


def _channels_last(maps: tf.Tensor, shape) -> tf.Tensor:
    rows = tf.transpose(tf.reshape(maps, [shape[3], -1]), [1, 0])
    return tf.reshape(rows, shape)


def _windows(maps: tf.Tensor, width: int, step: int, rows: range, blocks: int) -> tf.Tensor:
    """Side by side: `rows` of each map, and these moved by `step` rows for each further block.

    Args:
      maps: `(maps, height * width)`.
      width: Of the maps.
      step: Rows from block to block.
      rows: Of the first block, from 0 or before it; rows beyond the map are zeros.
      blocks: How many.

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
    """Each channel's matrix of the taps that join pixels with pixels.

    Args:
      kernel: `(rows, columns, channels, 1)`.
      down: Links of rows, `(rows of the kernel, rows, rows of the result)`.
      across: Links of columns, likewise.

    Returns:
      `(channels, rows * columns, rows of the result * columns of the result)`.
    """
    (height, rows, row_places), (width, columns, column_places) = down.shape, across.shape
    channels = kernel.shape[2]
    taps = tf.reshape(kernel, [1, height, width * channels])
    taps = tf.matmul(down.reshape(1, height, -1).swapaxes(1, 2), taps)
    taps = tf.transpose(tf.reshape(taps, [-1, channels]), [1, 0])
    taps = tf.matmul(tf.reshape(taps, [1, -1, width]), across.reshape(1, width, -1))
    taps = tf.reshape(taps, [channels * rows, row_places, columns, column_places])
    taps = tf.transpose(taps, [0, 2, 1, 3])
    return tf.reshape(taps, [channels, rows * columns, row_places * column_places])


def _taps(slopes: tf.Tensor, down: np.ndarray, across: np.ndarray) -> tf.Tensor:
    """What the kernel gets of the matrices' gradient: `_matrices` the other way round.

    Returns:
      `(1, rows, columns * channels)`.
    """
    (height, rows, row_places), (width, columns, column_places) = down.shape, across.shape
    channels = slopes.shape[0]
    slopes = tf.reshape(slopes, [channels * rows, columns, row_places, column_places])
    slopes = tf.transpose(slopes, [0, 2, 1, 3])
    slopes = tf.reshape(slopes, [1, -1, columns * column_places])
    slopes = tf.matmul(slopes, across.reshape(1, width, -1).swapaxes(1, 2))
    slopes = tf.transpose(tf.reshape(slopes, [channels, -1]), [1, 0])
    slopes = tf.reshape(slopes, [1, rows * row_places, width * channels])
    return tf.matmul(down.reshape(1, height, -1), slopes)
