"""Local update of a client: trains the received net, as in FedSup and E-FedSup.

One function implements both algorithms (arXiv 2206.01366, algorithms 1 and 2). With a sandwich of
one net, the client trains the net that it received (E-FedSup). With a sandwich of M nets, each step
also trains the smallest and M - 2 random subnets of the received net, which learn from its outputs
(in-place distillation). If the received net is the whole supernet, this is FedSup.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.frozen import check_frozen, is_frozen
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.ops import ops
from fedsup_tf.resizing import for_each_size
from fedsup_tf.sandwich import sandwich_gradients
from fedsup_tf.sgd import apply_sgd
from fedsup_tf.sliced_net import AnyArchitecture
from fedsup_tf.supernet import Supernet

# Name of a net's packed vectors; no tensor has this name.
_VECTORS = "vectors"


class ClientUpdate(NamedTuple):
    """Result of a client's training, which is sent to the server.

    Attributes:
      delta: Trained minus received weights, by tensor name, in the shapes of the received ones;
        tensors of frozen parts are empty, with every axis of length 0.
      examples: Number of the client's examples, float32 scalar.
      loss: Mean cross-entropy of the received net over all steps; 0 without examples.
    """

    delta: dict[str, tf.Tensor]
    examples: tf.Tensor
    loss: tf.Tensor


@tf.autograph.experimental.do_not_convert
def local_update(
    supernet: Supernet,
    weights: Mapping[str, tf.Tensor],
    architecture: AnyArchitecture,
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    learning_rate: tf.Tensor | float,
    training: LocalTraining,
    preprocessing: Preprocessing,
) -> ClientUpdate:
    """Trains a net on one client's examples with SGD.

    Args:
      supernet: Supernet that defines the subnets; its own variables are not read.
      weights: Received weights by tensor name; sizes may be statically unknown. For a sandwich,
        they must be cut with `Supernet.slices(..., nested=True)`.
      architecture: Architecture that `weights` belong to.
      images: `(examples, height, width, channels)`, uint8, of the space's `image_shape`. All nets
        of a step take them at the resolution of `architecture`.
      labels: `(examples,)`, int32.
      seed: Seed of the shuffles, augmentation and random subnets, int32 `(2,)`.
      learning_rate: Learning rate of this round, from the server's schedule.
      training: Hyper-parameters of the training.
      preprocessing: Normalization and augmentation of the images.

    Returns:
      The update; equal inputs give equal updates.

    Raises:
      ValueError: If a frozen part does not exist in the supernet, or all parts are frozen.
    """
    check_frozen(supernet.space, training.frozen)
    received = {name: tf.convert_to_tensor(weights[name]) for name in supernet.weight_shapes}
    kept = {name: value for name, value in received.items() if is_frozen(name, training.frozen)}
    initial = _Packed({name: value for name, value in received.items() if name not in kept})
    # SGD on variables (possibly of unknown shape) is much faster than on loop state.
    variables = {name: _variable(value) for name, value in initial.packed.items()}
    momenta = {name: _variable(tf.zeros_like(value)) for name, value in initial.packed.items()}
    examples = tf.shape(labels)[0]
    offsets = _logit_offsets(labels, supernet.space.classes, training.absent_class_weight)

    def step(indices, step_seed, resize):
        batch = resize(tf.gather(images, indices))
        batch = preprocessing.augment(preprocessing.normalize(batch), step_seed)
        current = {
            name: ops.with_static_shape(variables[name].read_value(), value.shape)
            for name, value in initial.packed.items()
        }
        loss, gradients = sandwich_gradients(
            supernet,
            {**initial.unpack(current), **kept},
            architecture,
            batch,
            tf.gather(labels, indices),
            step_seed,
            training,
            offsets,
        )
        gradients = initial.pack(gradients)
        if training.clip_norm != math.inf:
            clipped, _ = tf.clip_by_global_norm(list(gradients.values()), training.clip_norm)
            gradients = dict(zip(gradients, clipped, strict=True))
        apply_sgd(
            variables,
            momenta,
            current,
            gradients,
            learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            clip_value=training.clip_value,
        )
        return loss * tf.cast(tf.shape(indices)[0], tf.float32)

    def train_epochs(resize, epochs):
        def epoch(number, total):
            epoch_seed = tf.random.experimental.stateless_fold_in(seed, number)
            order = tf.argsort(tf.random.stateless_uniform([examples], epoch_seed))

            def batch(begin, total):
                indices = order[begin : begin + training.batch_size]
                step_seed = tf.random.experimental.stateless_fold_in(epoch_seed, begin + 1)
                return begin + training.batch_size, total + step(indices, step_seed, resize)

            _, total = tf.while_loop(
                lambda begin, _: begin < examples, batch, (0, total), parallel_iterations=1
            )
            return number + 1, total

        _, total = tf.while_loop(
            lambda number, _: number < epochs, epoch, (0, 0.0), parallel_iterations=1
        )
        return total

    @tf.function(autograph=False)
    def train():
        total = for_each_size(supernet.space, architecture, training.epochs, train_epochs)
        delta = {
            name: ops.with_static_shape(variables[name].read_value() - value, value.shape)
            for name, value in initial.packed.items()
        }
        return initial.unpack(delta), total

    delta, total = train()
    for name, value in kept.items():
        delta[name] = tf.zeros([0] * len(value.shape))
    seen = tf.cast(examples, tf.float32) * training.epochs
    return ClientUpdate(
        delta={name: delta[name] for name in received},
        examples=tf.cast(examples, tf.float32),
        loss=tf.math.divide_no_nan(total, seen),
    )


class _Packed:
    """A net's weights with all vectors concatenated, so that a step has fewer, larger operations.

    Attributes:
      packed: The kernels by name, and the concatenated vectors under `_VECTORS`.
    """

    def __init__(self, weights: Mapping[str, tf.Tensor]):
        """Packs a net's weights."""
        vectors = {name: value for name, value in weights.items() if len(value.shape) == 1}
        self._names = list(weights)
        self._shapes = {name: value.shape for name, value in vectors.items()}
        self._lengths = tf.stack([tf.size(value) for value in vectors.values()])
        self.packed = self.pack(weights)

    def pack(self, values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns values of the shapes of the weights, by tensor name, in `packed`'s format."""
        packed = {name: value for name, value in values.items() if name not in self._shapes}
        packed[_VECTORS] = tf.concat([values[name] for name in self._shapes], 0)
        return packed

    def unpack(self, packed: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the tensors by name from values in the format of `packed`."""
        parts = tf.split(packed[_VECTORS], self._lengths, num=len(self._shapes))
        vectors = {
            name: ops.with_static_shape(part, shape)
            for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)
        }
        return {name: vectors[name] if name in vectors else packed[name] for name in self._names}


def _logit_offsets(labels: tf.Tensor, classes: int, absent_class_weight: float) -> tf.Tensor | None:
    """Returns offsets for the logits of a client with these labels, `(classes,)`, or None."""
    if absent_class_weight == 1:
        return None
    is_present = tf.math.unsorted_segment_sum(tf.ones_like(labels), labels, classes) > 0
    return tf.where(is_present, 0.0, tf.math.log(absent_class_weight))


def _variable(value):
    return tf.Variable(value, shape=value.shape, validate_shape=value.shape.is_fully_defined())
