"""Filter gradients of depthwise convolutions for which TensorFlow's own kernel is slow.

That kernel is several times slower than the convolution for filters wider than 3 x 3 and on tiny
maps. Both formulations here are exact and consist of fast operations.
"""

import numpy as np
import tensorflow as tf

from fedsup_tf.ops.builtin import maximum, same_padding, shape_of

# Maximum number of pairs of an input and an output pixel for all-pairs products: 4 x 4 maps.
_MAX_PAIRS = 256


def depthwise_filter_gradient(
    images: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor, stride: int
) -> tf.Tensor:
    """Computes the kernel gradient of a depthwise convolution with padding SAME.

    Args:
      images: `(batch, height, width, channels)`, height and width statically known.
      kernel: `(side, side, channels, 1)`.
      upstream: Gradient of the outputs,
        `(batch, ceil(height / stride), ceil(width / stride), channels)`.
      stride: 1 or 2.

    Returns:
      The gradient, of the shape of `kernel`.
    """
    pairs = 1
    for side in images.shape[1:3]:
        pairs *= side * -(-side // stride)
    formulation = _gradient_by_pairs if pairs <= _MAX_PAIRS else _gradient_by_depthwise
    return formulation(images, kernel, upstream, stride)


def _gradient_by_depthwise(
    images: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor, stride: int
) -> tf.Tensor:
    """Convolves the images depthwise with `upstream`, with batch x channels as the channels."""
    batch, height, width, channels = shape_of(images)
    rows, columns = shape_of(kernel)[:2]
    out_height, out_width = -(-height // stride), -(-width // stride)
    top, _ = same_padding(height, rows, stride)
    left, _ = same_padding(width, columns, stride)
    # Height and width that the kernel reaches, in strides.
    tall = -(-((out_height - 1) * stride + rows) // stride)
    wide = -(-((out_width - 1) * stride + columns) // stride)
    bottom = maximum(tall * stride - height - top, 0)
    right = maximum(wide * stride - width - left, 0)
    moved = tf.pad(images, [[0, 0], [top, bottom], [left, right], [0, 0]])
    moved = moved[:, : tall * stride, : wide * stride]
    if stride == 1:
        moved = tf.transpose(moved, [1, 2, 0, 3])
    else:
        # Each phase of the stride becomes a separate image.
        moved = tf.reshape(moved, [batch, tall, stride, wide, stride, channels])
        moved = tf.transpose(moved, [2, 4, 1, 3, 0, 5])
    merged = batch * channels
    moved = tf.reshape(moved, [stride * stride, tall, wide, merged])
    filters = tf.reshape(tf.transpose(upstream, [1, 2, 0, 3]), [out_height, out_width, merged, 1])
    taps = tf.nn.depthwise_conv2d(moved, filters, [1, 1, 1, 1], "VALID")
    high, long = tall - out_height + 1, wide - out_width + 1
    taps = tf.reduce_sum(tf.reshape(taps, [-1, high * long, batch, channels]), 2)
    if stride > 1:
        taps = tf.transpose(
            tf.reshape(taps, [stride, stride, high, long, channels]), [2, 0, 3, 1, 4]
        )
    taps = tf.reshape(taps, [high * stride, long * stride, channels])
    return tf.expand_dims(taps[:rows, :columns], 3)


def _gradient_by_pairs(
    images: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor, stride: int
) -> tf.Tensor:
    """Multiplies all pairs of input and output pixels and sums the products by linking tap."""
    batch, height, width, channels = shape_of(images)
    out_height, out_width = -(-height // stride), -(-width // stride)
    first = tf.transpose(tf.reshape(images, [batch, height * width, channels]), [2, 1, 0])
    second = tf.transpose(
        tf.reshape(upstream, [batch, out_height * out_width, channels]), [2, 0, 1]
    )
    products = tf.reshape(
        tf.matmul(first, second), [channels, height * width * out_height * out_width]
    )
    # Number of rows below, and columns to the right of, an output pixel's window, for each pixel.
    below = np.subtract.outer(np.arange(height), stride * np.arange(out_height))
    right = np.subtract.outer(np.arange(width), stride * np.arange(out_width))
    down, across = (np.arange(part.min(), part.max() + 1) for part in (below, right))
    links = np.einsum(
        "yad,xbe->yxabde",
        *(
            (part[..., np.newaxis] == steps).astype(np.float32)
            for part, steps in ((below, down), (right, across))
        ),
    )
    links = tf.constant(links.reshape(products.shape[1], len(down) * len(across)))
    taps = tf.matmul(links, products, transpose_a=True, transpose_b=True)
    taps = tf.reshape(taps, [len(down), len(across), channels])
    begins, sizes, paddings = [], shape_of(kernel)[:2], []
    for size, side, steps in zip(sizes, (height, width), (down, across), strict=True):
        before, _ = same_padding(side, size, stride)
        begin = -before - int(steps[0])
        padding = maximum(-begin, 0)
        begins.append(begin + padding)
        paddings.append([padding, maximum(begin + size - len(steps), 0)])
    taps = tf.slice(tf.pad(taps, [*paddings, [0, 0]]), [*begins, 0], [*sizes, channels])
    return tf.expand_dims(taps, 3)
