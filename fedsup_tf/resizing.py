"""Resizing of images to the resolution of a subnet, by averaging over the area of each new pixel.

Simulated clients, server-side tests and phone tools resize with the same shares, so that a subnet
receives the same images everywhere.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.space import SearchSpace

if TYPE_CHECKING:
    import tensorflow as tf

# Number of images that are converted to floats at a time.
_IMAGES_AT_ONCE = 256


def area_shares(length: int, new_length: int) -> np.ndarray:
    """Computes the share of each old pixel in each new one along an axis.

    Args:
      length: Number of old pixels.
      new_length: Number of new pixels; each covers `length / new_length` old ones.

    Returns:
      `(new_length, length)`, float32; each row sums to 1.

    Example:
      >>> from fedsup_tf.resizing import area_shares
      >>> area_shares(4, 2).tolist()
      [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    edges = np.arange(new_length + 1) * (length / new_length)
    first, last = edges[:-1, np.newaxis], edges[1:, np.newaxis]
    pixels = np.arange(length)
    covered = np.minimum(last, pixels + 1) - np.maximum(first, pixels)
    return (np.maximum(covered, 0) * (new_length / length)).astype(np.float32)


def resize_images(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes images by averaging over the area of each new pixel, without TensorFlow.

    Args:
      images: `(examples, old height, old width, channels)`, uint8.
      height: New height in pixels.
      width: New width in pixels.

    Returns:
      `(examples, height, width, channels)`, uint8; `images` themselves if they have this size.
    """
    if images.shape[1:3] == (height, width):
        return images
    down, across = area_shares(images.shape[1], height), area_shares(images.shape[2], width)
    resized = np.empty((len(images), height, width, images.shape[3]), np.uint8)
    for begin in range(0, len(images), _IMAGES_AT_ONCE):
        part = images[begin : begin + _IMAGES_AT_ONCE].astype(np.float32)
        rows = np.einsum("rh,bhwc->brwc", down, part, optimize=True)
        values = np.einsum("sw,brwc->brsc", across, rows, optimize=True)
        resized[begin : begin + len(part)] = np.floor(values + 0.5)
    return resized


def resize_in_graph(images: "tf.Tensor", height: int, width: int) -> "tf.Tensor":
    """Resizes images in a graph as `resize_images` does; their size must be statically known."""
    if tuple(images.shape[1:3]) == (height, width):
        return images
    # Imported here, since devices resize images without TensorFlow.
    import tensorflow as tf

    down, across = area_shares(images.shape[1], height), area_shares(images.shape[2], width)
    rows = tf.einsum("rh,bhwc->brwc", down, tf.cast(images, tf.float32))
    values = tf.einsum("sw,brwc->brsc", across, rows)
    return tf.cast(tf.floor(values + 0.5), tf.uint8)


def for_each_size(
    space: SearchSpace,
    architecture: "Architecture | tf.Tensor | np.ndarray | None",
    count: "int | tf.Tensor",
    compute: "Callable[[Callable[[tf.Tensor], tf.Tensor], int | tf.Tensor], tf.Tensor]",
) -> "tf.Tensor":
    """Sums the results of loops over examples, with one loop for each possible image size.

    The size of feature maps is constant in a graph. A graph that serves every architecture of a
    space with resolutions therefore contains a loop for each resolution, and all but one of them
    run zero iterations. There is only one computation; it grows with the number of resolutions.

    Args:
      space: Search space of the architecture.
      architecture: The architecture to compute or its code, which may be a tensor. None if the
        images already have its size.
      count: Number of iterations or examples, as `compute` expects it.
      compute: Function that runs the loop and returns a sum, given a function that resizes uint8
        images and the number of iterations.

    Returns:
      The sum over all loops.
    """
    if not space.resolutions or architecture is None:
        return compute(lambda images: images, count)
    if isinstance(architecture, np.ndarray):
        architecture = space.decode(architecture)
    if isinstance(architecture, Architecture):
        height, width, _ = space.image_shape_of(architecture)
        return compute(lambda images: resize_in_graph(images, height, width), count)
    import tensorflow as tf

    sums = []
    for resolution in space.resolutions:
        height, width, _ = space.image_shape_at(resolution)
        passes = tf.where(tf.equal(architecture[-1], resolution), count, 0)
        sums.append(
            compute(
                lambda images, height=height, width=width: resize_in_graph(images, height, width),
                passes,
            )
        )
    return tf.add_n(sums)
