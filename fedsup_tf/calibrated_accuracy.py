"""Accuracy of subnets as deployed: calibrated, so that each image is classified independently.

Computes in a single process what `tff_programs.learning.calibration` obtains from clients' sums,
for any number of subnets without tracing each one.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from fedsup_tf import logistic_regression, slicing
from fedsup_tf.accuracy import count_correct
from fedsup_tf.architecture import Architecture
from fedsup_tf.calibration import mean_square_shapes, sum_mean_squares
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.logistic_regression import BIAS, CHOSEN, KERNEL
from fedsup_tf.resizing import resize_images
from fedsup_tf.supernet import Supernet

# After this many passes, root mean squares change by less than one percent.
_PASSES = 3
# Root mean squares over this many images are within one percent of those over all images.
_MAX_FOR_MEAN_SQUARES = 2_000
_BATCH = 50
_TEST_BATCH = 256


def build_calibrated_accuracy(
    supernet: Supernet,
    preprocessing: Preprocessing,
    images: np.ndarray,
    labels: np.ndarray,
    classifier_penalty: float | str | None = CHOSEN,
    held_out: np.ndarray | None = None,
) -> Callable[[Mapping[str, np.ndarray], Architecture, np.ndarray, np.ndarray], float]:
    """Builds a function that calibrates any subnet and computes its accuracy.

    Args:
      supernet: Model whose `forward` is called; its own variables are not read.
      preprocessing: Normalization of the images.
      images: Images to calibrate on, uint8 `(examples, height, width, channels)`, in random order.
      labels: Labels of `images`, `(examples,)`.
      classifier_penalty: Penalty of the refitted classifier (see `logistic_regression`).
        `logistic_regression.CHOSEN` chooses it on held-out images; None keeps the trained
        classifier.
      held_out: Mask of the images held out to choose the penalty, `(examples,)`; by default every
        fifth image.

    Returns:
      A function of the supernet's weights by name, an architecture, test images and their labels,
      which returns the accuracy, from 0 to 1. It is traced once for all subnets, or once per
      resolution if the space has resolutions. It caches the calibrations of the weights from its
      last call, so do not modify those weights in place.
    """
    if supernet.space.resolutions:
        rest = (labels, classifier_penalty, held_out)
        return _at_each_resolution(supernet, preprocessing, images, rest)
    shapes, elastic = supernet.weight_shapes, supernet.elastic_shapes()
    statistics = mean_square_shapes(elastic)
    space = supernet.space
    weights_spec = {name: tf.TensorSpec(shape) for name, shape in shapes.items()}
    code_spec = tf.TensorSpec([len(space.choices)], tf.int32)
    frozen_spec = {name: tf.TensorSpec([None]) for name in statistics}
    images_spec = tf.TensorSpec([None, *space.image_shape], tf.uint8)
    labels_spec = tf.TensorSpec([None], tf.int32)

    def cut(weights, code):
        subnet = slicing.take(weights, supernet.slices(code))
        return {name: tf.ensure_shape(subnet[name], elastic[name]) for name in subnet}

    def mean_squares(weights, code, frozen, images):
        sums = sum_mean_squares(
            supernet, {**cut(weights, code), **frozen}, images, _BATCH, preprocessing
        )
        count = tf.cast(tf.shape(images)[0], tf.float32)
        return {name: total / count for name, total in sums.items()}

    @tf.function(input_signature=[weights_spec, code_spec, images_spec], autograph=False)
    def first_mean_squares(weights, code, images):
        return mean_squares(weights, code, {}, images)

    @tf.function(
        input_signature=[weights_spec, code_spec, frozen_spec, images_spec], autograph=False
    )
    def next_mean_squares(weights, code, frozen, images):
        return mean_squares(weights, code, frozen, images)

    @tf.function(
        input_signature=[weights_spec, code_spec, frozen_spec, images_spec], autograph=False
    )
    def features_of(weights, code, frozen, images):
        subnet = {**cut(weights, code), **frozen}
        features, _ = supernet.features_with_statistics(subnet, preprocessing.normalize(images))
        return features

    @tf.function(
        input_signature=[
            weights_spec,
            code_spec,
            frozen_spec,
            tf.TensorSpec([None, space.classes]),
            tf.TensorSpec([space.classes]),
            images_spec,
            labels_spec,
        ],
        autograph=False,
    )
    def count(weights, code, frozen, kernel, bias, images, labels):
        head = {KERNEL: kernel, BIAS: bias}
        subnet = {**cut(weights, code), **frozen, **head}
        return count_correct(supernet, subnet, images, labels, _TEST_BATCH, preprocessing)

    def calibrate(weights, code, width):
        frozen = {}
        if statistics:
            some = images[:_MAX_FOR_MEAN_SQUARES]
            frozen = first_mean_squares(weights, code, some)
            for _ in range(_PASSES - 1):
                frozen = next_mean_squares(weights, code, frozen, some)
        start = {KERNEL: weights[KERNEL][:width], BIAS: weights[BIAS]}
        if classifier_penalty is None:
            return frozen, start
        parts = [
            features_of(weights, code, frozen, images[begin : begin + _TEST_BATCH])
            for begin in range(0, len(images), _TEST_BATCH)
        ]
        features = tf.concat(parts, 0)
        fitted = logistic_regression.fit(
            features, labels, *start.values(), classifier_penalty, held_out
        )
        return frozen, fitted

    # Calibrations for the last weights, so that a subnet evaluated on many clients is calibrated
    # only once.
    kept_weights, tensors, kept = None, {}, {}

    def accuracy(weights, architecture, test_images, test_labels):
        nonlocal kept_weights, tensors, kept
        if weights is not kept_weights:
            tensors = {name: tf.convert_to_tensor(weights[name]) for name in shapes}
            kept_weights, kept = weights, {}
        code = space.encode(architecture)
        if architecture not in kept:
            kept[architecture] = calibrate(tensors, code, architecture.widths[-1])
        frozen, head = kept[architecture]
        right = count(tensors, code, frozen, head[KERNEL], head[BIAS], test_images, test_labels)
        return int(right) / len(test_labels)

    return accuracy


def _at_each_resolution(supernet, preprocessing, images, rest):
    """Implements `build_calibrated_accuracy` with a separate supernet for each resolution."""

    @functools.cache
    def at(resolution):
        plain = Supernet(supernet.space.at_resolution(resolution), supernet.seed)
        resized = resize_images(images, *plain.space.image_shape[:2])
        return build_calibrated_accuracy(plain, preprocessing, resized, *rest)

    def accuracy(weights, architecture, test_images, test_labels):
        resized = resize_images(test_images, *supernet.space.image_shape_of(architecture)[:2])
        net = dataclasses.replace(architecture, resolution=None)
        return at(architecture.resolution)(weights, net, resized, test_labels)

    return accuracy
