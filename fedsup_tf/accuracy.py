"""Accuracy of subnets in batches of a given size, on which the results of PN depend."""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from fedsup_tf import slicing
from fedsup_tf.architecture import Architecture
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.resizing import for_each_size
from fedsup_tf.sliced_net import AnyArchitecture
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet


@tf.autograph.experimental.do_not_convert
def count_correct(
    supernet: Supernet,
    weights: Mapping[str, tf.Tensor],
    images: tf.Tensor,
    labels: tf.Tensor,
    batch_size: int | tf.Tensor,
    preprocessing: Preprocessing,
    architecture: AnyArchitecture | None = None,
) -> tf.Tensor:
    """Counts the images whose largest logit is that of their label.

    Args:
      supernet: Model whose `forward` is called; its own variables are not read.
      weights: A subnet's weights by tensor name.
      images: `(examples, height, width, channels)`, uint8.
      labels: `(examples,)`, int32.
      batch_size: Number of images per batch; the last batch may be smaller.
      preprocessing: Normalization of the images.
      architecture: Architecture that `weights` belong to. Needed only if the space has resolutions
        and `images` still have to be resized.

    Returns:
      The count, an int32 scalar.
    """

    def count(resize, examples):
        def batch(begin, correct):
            part = preprocessing.normalize(resize(images[begin : begin + batch_size]))
            guess = tf.argmax(supernet.forward(weights, part), 1, tf.int32)
            # Inside a TFF computation, == compares the identity of tensors.
            right = tf.cast(tf.equal(guess, labels[begin : begin + batch_size]), tf.int32)
            return begin + batch_size, correct + tf.reduce_sum(right)

        _, correct = tf.while_loop(
            lambda begin, _: begin < examples, batch, (0, 0), parallel_iterations=1
        )
        return correct

    return for_each_size(supernet.space, architecture, tf.shape(labels)[0], count)


def build_accuracy(
    supernet: Supernet, preprocessing: Preprocessing
) -> Callable[[Mapping[str, np.ndarray], Architecture, np.ndarray, np.ndarray, int], float]:
    """Builds a function that computes the accuracy of any subnet.

    Args:
      supernet: Model whose `forward` is called; its own variables are not read.
      preprocessing: Normalization of the images.

    Returns:
      A function of the supernet's weights by name, an architecture, uint8 images `(examples,
      height, width, channels)`, labels `(examples,)` and a batch size. It returns the accuracy,
      from 0 to 1, and is traced once for all subnets and batch sizes.
    """
    shapes = supernet.weight_shapes
    signature = [
        {name: tf.TensorSpec(shape) for name, shape in shapes.items()},
        tf.TensorSpec([len(supernet.space.choices)], tf.int32),
        tf.TensorSpec([None, *supernet.space.image_shape], tf.uint8),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([], tf.int32),
    ]

    @tf.function(input_signature=signature, autograph=False)
    def count(weights, code, images, labels, batch_size):
        subnet = slicing.take(weights, supernet.slices(code))
        elastic = supernet.elastic_shapes()
        subnet = {name: tf.ensure_shape(subnet[name], elastic[name]) for name in subnet}
        return count_correct(supernet, subnet, images, labels, batch_size, preprocessing, code)

    def accuracy(weights, architecture, images, labels, batch_size):
        if not len(labels):
            raise ValueError(
                "Expected test examples, received none. Give data with some, or clients with at "
                "least two examples of a class, of which one is then set aside."
            )
        code = supernet.space.encode(architecture)
        weights = {name: tf.convert_to_tensor(weights[name]) for name in shapes}
        return int(count(weights, code, images, labels, batch_size)) / len(labels)

    return accuracy


def random_subnet_accuracies(
    accuracy: Callable,
    space: SearchSpace,
    weights: Mapping[str, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    subnets: int,
    seed: int = 0,
    max_images: int = 2_000,
) -> list[tuple[Architecture, float]]:
    """Computes the accuracies of subnets that are drawn uniformly from the space.

    Args:
      accuracy: Function of weights, an architecture, images and labels that returns the accuracy.
      space: Search space of the subnets.
      weights: The supernet's weights by tensor name.
      images: `(examples, height, width, channels)`, uint8.
      labels: `(examples,)`, int32.
      subnets: Number of subnets to draw.
      seed: Seed of the draws.
      max_images: Maximum number of images to use; if there are more, evenly spaced ones are taken.

    Returns:
      Pairs of a drawn architecture and its accuracy, from 0 to 1.
    """
    rng = np.random.default_rng(seed)
    used = np.linspace(0, len(labels) - 1, min(max_images, len(labels))).astype(int)
    images, labels = images[used], labels[used]
    drawn = [space.sample(rng) for _ in range(subnets)]
    return [(net, accuracy(weights, net, images, labels)) for net in drawn]
