"""Calibrates parametric normalization: replaces batch statistics with population statistics.

Parametric normalization divides by the RMS of the batch. An image's logits therefore depend on the
other images in its batch, and a single image is computed by a different function from the one that
was tested. Freezing the RMS of a population removes this dependence. A frozen RMS is a factor per
channel, which folds into the kernel of the preceding convolution and leaves a bias.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.validation import check_tensors
from fedsup_tf.logistic_regression import BIAS, INT8_TENSORS, KERNEL, TENSORS
from fedsup_tf.space import MEAN_SQUARE
from fedsup_tf.supernet import Supernet

# Names of the classifier's tensors.
CLASSIFIER = (KERNEL, BIAS)
# Names of the classifier of all files without 8-bit arithmetic in calibrations of earlier versions,
# whose `CLASSIFIER` was one with a larger penalty for files that train.
EARLIER_TENSORS = tuple(f"inference_head/{part}" for part in ("kernel", "bias", "penalty"))


@tf.autograph.experimental.do_not_convert
def sum_mean_squares(
    supernet: Supernet,
    weights: Mapping[str, tf.Tensor],
    images: tf.Tensor,
    batch_size: int,
    preprocessing: Preprocessing,
) -> dict[str, tf.Tensor]:
    """Sums the mean square of each normalization's input over images.

    The sums add up over clients; divided by the total number of images, they are the population's
    mean squares. If `weights` contain frozen mean squares, the result does not depend on the batch
    size. Repeated passes, each with the frozen mean squares of the previous pass, converge to the
    mean squares that the net itself produces at inference with them. They converge layer by layer:
    as many passes as there are layers are enough, and in practice a few are.

    Args:
      supernet: Model whose `forward_with_statistics` is called; its own variables are not read.
      weights: A subnet's weights by tensor name, with or without mean squares.
      images: `(examples, height, width, channels)`, uint8.
      batch_size: Number of images per batch.
      preprocessing: Normalization of the images.

    Returns:
      The sums, each `(channels,)`, by tensor name, such as `"stem_norm/mean_square"`.
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
    """Returns the shape of the mean square of each parametric normalization of a subnet, by name.

    Args:
      shapes: Shape of each of the subnet's tensors by name; dimensions may be unknown.
    """
    suffix = "_norm/alpha"  # Group normalization has no alpha and nothing to freeze.
    return {
        name.removesuffix("/alpha") + MEAN_SQUARE: tuple(shape)
        for name, shape in shapes.items()
        if name.endswith(suffix) and shape[0] != 0
    }


def fold(
    weights: Mapping[str, tf.Tensor], mean_squares: Mapping[str, tf.Tensor], epsilon: float = 1e-5
) -> dict[str, tf.Tensor]:
    r"""Folds each frozen normalization into the preceding convolution.

    $$\gamma (k * x - \alpha) / r + \beta = (k \gamma / r) * x + (\beta - \alpha \gamma / r)$$

    Args:
      weights: A subnet's weights by tensor name.
      mean_squares: The frozen mean squares, by the names of `mean_square_shapes`.
      epsilon: Epsilon of the normalizations.

    Returns:
      Weights for `Supernet.forward`, with scaled kernels and a `bias` for each normalization.
    """
    folded = dict(weights)
    for name, mean_square in mean_squares.items():
        norm = name.removesuffix(MEAN_SQUARE)
        alpha, beta, gamma = (folded.pop(f"{norm}/{part}") for part in ("alpha", "beta", "gamma"))
        scale = gamma * tf.math.rsqrt(mean_square + epsilon)
        convolution = norm.removesuffix("_norm") + "/kernel"
        kernel = folded[convolution]
        # The channels of a depthwise kernel are its second-to-last axis.
        is_depthwise = convolution.endswith("depthwise/kernel")
        folded[convolution] = kernel * (scale[:, tf.newaxis] if is_depthwise else scale)
        folded[f"{norm}/bias"] = beta - alpha * scale
    return folded


class CalibrationParts(NamedTuple):
    """The parts of a subnet's calibration.

    Attributes:
      classifier: The refitted classifier, by tensor name; empty if it was not fitted.
      int8_classifier: Classifier of files that compute with 8 bits, by the same names.
      penalty: Penalty of the classifier; None if it was not fitted, or by an earlier version.
      mean_squares: Frozen mean squares, by the names of `mean_square_shapes`.
    """

    classifier: dict[str, np.ndarray]
    int8_classifier: dict[str, np.ndarray]
    penalty: float | None
    mean_squares: dict[str, np.ndarray]


def split_calibration(calibration: Mapping[str, np.ndarray]) -> CalibrationParts:
    """Splits a calibration into its classifiers, if it has any, and its mean squares."""
    mean_squares = dict(calibration)
    penalty, classifier = _take_classifier(mean_squares, TENSORS)
    _, int8 = _take_classifier(mean_squares, INT8_TENSORS)
    if EARLIER_TENSORS[0] in mean_squares:
        penalty, classifier = _take_classifier(mean_squares, EARLIER_TENSORS)
    return CalibrationParts(classifier, int8 or classifier, penalty, mean_squares)


def _take_classifier(tensors, names):
    """Removes a classifier and its penalty from `tensors`, if present, and returns them."""
    if names[0] not in tensors:
        return None, {}
    kernel, bias, penalty = (tensors.pop(name, None) for name in names)
    # The shortest decimal representation: 1e-05 instead of 9.999999747378752e-06.
    number = None if penalty is None else float(str(penalty[0]))
    return number, dict(zip(CLASSIFIER, (kernel, bias), strict=True))


def check_mean_squares(
    mean_squares: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises a ValueError unless names, shapes and values are valid for a subnet's mean squares."""
    received = {name: np.shape(value) for name, value in mean_squares.items()}
    advice = "Calibrate the same architecture."
    check_tensors(received, shapes, "Mean squares", advice)
    for name, value in mean_squares.items():
        if not np.isfinite(value).all() or np.min(value) < 0:
            raise ValueError(f"Mean square {name!r}: expected finite values from 0. {advice}")
