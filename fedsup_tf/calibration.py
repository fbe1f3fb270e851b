"""A frozen RMS in place of the batch's: what an exported net infers with.

Parametric normalization divides by the RMS of the batch, so that an image's logits depend on the
images beside it, and one image alone meets another net than the one that was tested. With the RMS
over a population frozen, they do not. A frozen RMS is a factor per channel, which folds into the
kernel before the normalization; what is left of it is a bias.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.space import MEAN_SQUARE
from fedsup_tf.supernet import Supernet


@tf.autograph.experimental.do_not_convert
def sum_mean_squares(
    supernet: Supernet,
    weights: Mapping[str, tf.Tensor],
    images: tf.Tensor,
    batch_size: int,
    preprocessing: Preprocessing,
) -> dict[str, tf.Tensor]:
    """Sum over images of the mean square that each normalization meets.

    Divided by the number of images, summed over clients or not, it is the population's mean square.
    If `weights` hold frozen mean squares it is exactly that of a net that infers with these, for
    any batch size. Repeating this with what it gave converges to mean squares that the net meets
    while it uses them; layer by layer, so that as many repetitions as there are layers are enough,
    and in practice a few.

    Args:
      supernet: Whose `forward` computes.
      weights: A subnet's weights by tensor name, of static sizes, with or without mean squares.
      images: `(images, height, width, channels)`, uint8.
      batch_size: Images computed at once.
      preprocessing: Normalization of the images.

    Returns:
      `(channels,)` by tensor name, such as `"stem_norm/mean_square"`.
    """
    shapes = mean_square_shapes({name: value.shape for name, value in weights.items()})
    examples = tf.shape(images)[0]

    def batch(begin, sums):
        part = preprocessing.normalize(images[begin : begin + batch_size])
        _, mean_squares = supernet.forward_with_statistics(weights, part)
        count = tf.cast(tf.shape(part)[0], tf.float32)
        sums = {name: sums[name] + count * mean_squares[name] for name in shapes}
        return begin + batch_size, sums

    zeros = {name: tf.zeros(shape) for name, shape in shapes.items()}
    _, sums = tf.while_loop(
        lambda begin, _: begin < examples, batch, (0, zeros), parallel_iterations=1
    )
    return sums


def mean_square_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Name and shape of the mean square of each parametric normalization that a subnet has.

    Args:
      shapes: Shape of each of the subnet's tensors by name.
    """
    suffix = "_norm/alpha"  # Group normalization has none, and nothing to freeze.
    return {
        name.removesuffix("/alpha") + MEAN_SQUARE: tuple(shape)
        for name, shape in shapes.items()
        if name.endswith(suffix) and shape[0]
    }


def fold(
    weights: Mapping[str, tf.Tensor], mean_squares: Mapping[str, tf.Tensor], epsilon: float = 1e-5
) -> dict[str, tf.Tensor]:
    r"""Puts each frozen normalization into the convolution before it.

    $$\gamma (k * x - \alpha) / r + \beta = (k \gamma / r) * x + (\beta - \alpha \gamma / r)$$

    Args:
      weights: A subnet's weights by tensor name.
      mean_squares: The frozen mean squares, as `mean_square_shapes` names them.
      epsilon: The normalizations' epsilon.

    Returns:
      Weights for `Supernet.forward`: kernels that normalize, and for each normalization its `bias`.
    """
    folded = dict(weights)
    for name, mean_square in mean_squares.items():
        norm = name.removesuffix(MEAN_SQUARE)
        alpha, beta, gamma = (folded.pop(f"{norm}/{part}") for part in ("alpha", "beta", "gamma"))
        scale = gamma * tf.math.rsqrt(mean_square + epsilon)
        convolution = norm.removesuffix("_norm") + "/kernel"
        kernel = folded[convolution]
        # Of a depthwise kernel the channels are the last axis but one.
        is_depthwise = convolution.endswith("depthwise/kernel")
        folded[convolution] = kernel * (scale[:, tf.newaxis] if is_depthwise else scale)
        folded[f"{norm}/bias"] = beta - alpha * scale
    return folded


def check_mean_squares(
    mean_squares: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises a ValueError unless names, shapes and values are those of a subnet's mean squares."""
    if mean_squares.keys() != shapes.keys():
        raise ValueError(
            f"Expected {len(shapes)} mean squares, missing are "
            f"{sorted(shapes.keys() - mean_squares.keys())[:5]}, unknown are "
            f"{sorted(mean_squares.keys() - shapes.keys())[:5]}. Calibrate the same architecture."
        )
    for name, shape in shapes.items():
        value = np.asarray(mean_squares[name])
        if value.shape != tuple(shape) or not np.isfinite(value).all() or value.min() < 0:
            raise ValueError(
                f"Mean square {name!r}: expected {tuple(shape)} finite values from 0, received "
                f"shape {value.shape}. Calibrate the same architecture."
            )
