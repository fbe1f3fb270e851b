"""Calibrates parametric normalization: replaces batch statistics with population statistics.

Parametric normalization divides by the RMS of the batch, so that an image's logits depend on the
other images of its batch, and a single image is computed by another function than the one that was
tested. With the RMS of a population frozen they do not. A frozen RMS is a factor per channel, which
folds into the kernel of the convolution before the normalization and leaves a bias.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsup_tf import inference_classifier
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.validation import check_tensors
from fedsup_tf.logistic_regression import BIAS, KERNEL
from fedsup_tf.space import MEAN_SQUARE
from fedsup_tf.supernet import Supernet

# Tensors of the classifier.
CLASSIFIER = (KERNEL, BIAS)


@tf.autograph.experimental.do_not_convert
def sum_mean_squares(
    supernet: Supernet,
    weights: Mapping[str, tf.Tensor],
    images: tf.Tensor,
    batch_size: int,
    preprocessing: Preprocessing,
) -> dict[str, tf.Tensor]:
    """Sums the mean square of each normalization's input over images.

    Divided by the number of images, also over several clients, the sum is the population's mean
    square. If `weights` hold frozen mean squares, the result does not depend on the batch size.
    Repeated with the frozen mean squares of the pass before, it converges to those that the net
    itself produces when it infers with them: layer by layer, so that as many passes as there are
    layers are enough, and a few are in practice.

    Args:
      supernet: The model whose `forward` is used; its own variables are not.
      weights: A subnet's weights by tensor name, with or without mean squares.
      images: `(examples, height, width, channels)`, uint8.
      batch_size: Images computed at once.
      preprocessing: Normalization of the images.

    Returns:
      Sums, each `(channels,)`, by tensor name, such as `"stem_norm/mean_square"`.
    """
    shapes = mean_square_shapes({name: value.shape for name, value in weights.items()})
    examples = tf.shape(images)[0]

    def batch(begin, sums):
        part = preprocessing.normalize(images[begin : begin + batch_size])
        _, mean_squares = supernet.forward_with_statistics(weights, part)
        count = tf.cast(tf.shape(part)[0], tf.float32)
        sums = {name: sums[name] + count * mean_squares[name] for name in shapes}
        return begin + batch_size, sums

    zeros = {
        name: tf.zeros_like(weights[name.removesuffix(MEAN_SQUARE) + "/alpha"]) for name in shapes
    }
    _, sums = tf.while_loop(
        lambda begin, _: begin < examples, batch, (0, zeros), parallel_iterations=1
    )
    return sums


def mean_square_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Returns the name and shape of the mean square of each parametric normalization of a subnet.

    Args:
      shapes: Shape of each of the subnet's tensors by name; a length may be unknown.
    """
    suffix = "_norm/alpha"  # Group normalization has no alpha, and nothing to freeze.
    return {
        name.removesuffix("/alpha") + MEAN_SQUARE: tuple(shape)
        for name, shape in shapes.items()
        if name.endswith(suffix) and shape[0] != 0
    }


def fold(
    weights: Mapping[str, tf.Tensor], mean_squares: Mapping[str, tf.Tensor], epsilon: float = 1e-5
) -> dict[str, tf.Tensor]:
    r"""Folds each frozen normalization into the convolution before it.

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
        # The channels of a depthwise kernel are its last axis but one.
        is_depthwise = convolution.endswith("depthwise/kernel")
        folded[convolution] = kernel * (scale[:, tf.newaxis] if is_depthwise else scale)
        folded[f"{norm}/bias"] = beta - alpha * scale
    return folded


class CalibrationParts(NamedTuple):
    """A subnet's calibration by its uses.

    Attributes:
      classifier: Classifier of a file that trains, by tensor name; empty if it was not fitted.
      inference_classifier: Classifier of files that only infer, by the same names.
      int8_classifier: Classifier of those of them that compute with 8 bits, by the same names.
      penalty: Penalty that was chosen for files that only infer; None if their classifier is that
        of files that train.
      mean_squares: Mean squares as `mean_square_shapes` names them.
    """

    classifier: dict[str, np.ndarray]
    inference_classifier: dict[str, np.ndarray]
    int8_classifier: dict[str, np.ndarray]
    penalty: float | None
    mean_squares: dict[str, np.ndarray]


def split_calibration(calibration: Mapping[str, np.ndarray]) -> CalibrationParts:
    """Divides a calibration into its classifiers, if it has any, and the mean squares."""
    mean_squares = dict(calibration)
    classifier = {name: mean_squares.pop(name) for name in CLASSIFIER if name in mean_squares}
    penalty, infers = _take_classifier(mean_squares, inference_classifier.TENSORS)
    _, int8 = _take_classifier(mean_squares, inference_classifier.INT8_TENSORS)
    return CalibrationParts(
        classifier, infers or classifier, int8 or classifier, penalty, mean_squares
    )


def _take_classifier(tensors, names):
    """Takes a classifier with its penalty from tensors, if it is there."""
    if names[0] not in tensors:
        return None, {}
    kernel, bias, penalty = (tensors.pop(name) for name in names)
    # The shortest decimal number, 1e-05 instead of 9.999999747378752e-06.
    return float(str(penalty[0])), dict(zip(CLASSIFIER, (kernel, bias), strict=True))


def check_mean_squares(
    mean_squares: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises a ValueError unless names, shapes and values are those of a subnet's mean squares."""
    received = {name: np.shape(value) for name, value in mean_squares.items()}
    advice = "Calibrate the same architecture."
    check_tensors(received, shapes, "Mean squares", advice)
    for name, value in mean_squares.items():
        if not np.isfinite(value).all() or np.min(value) < 0:
            raise ValueError(f"Mean square {name!r}: expected finite values from 0. {advice}")
