"""Gradient of a step in which the nets of a sandwich learn jointly and from each other."""

import tensorflow as tf

from fedsup_tf import slicing
from fedsup_tf.label_targets import smoothed_targets
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.sliced_net import AnyArchitecture
from fedsup_tf.supernet import Supernet


def sandwich_gradients(
    supernet, packed, architecture, images, labels, seed, training, unpack=dict, offsets=None
):
    """Computes the gradient of a step in which the nets of a sandwich learn jointly.

    Args:
      supernet: Supernet that defines the subnets; its own variables are not read.
      packed: Received weights, by the names under which gradients are returned.
      architecture: Architecture that the received weights belong to.
      images: Normalized images, float32 `(batch, height, width, channels)`.
      labels: `(batch,)`, int32.
      seed: Seed of the random subnets, int32 `(2,)`.
      training: Hyper-parameters of the training.
      unpack: Function that returns the weights by tensor name, given `packed`.
      offsets: Offsets that are added to all nets' logits, `(classes,)`, or None.

    Returns:
      The received net's cross-entropy with the labels, and the gradient of the sum of all nets'
      losses, by the names of `packed`.
    """
    smoothing = training.label_smoothing
    targets = smoothed_targets(labels, supernet.space.classes, smoothing, offsets)
    nets = [architecture]
    if training.sandwich > 1:
        nets.append(supernet.space.smallest())
    for number in range(1, training.sandwich - 1):
        net_seed = tf.random.experimental.stateless_fold_in(seed, number)
        nets.append(random_subnet(supernet, architecture, net_seed))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(packed)
        weights = unpack(packed)
        logits = []
        for net in nets:
            subnet = weights
            if training.sandwich > 1:
                subnet = slicing.take(weights, supernet.slices(net, within=architecture))
            of_net = supernet.forward(subnet, images)
            logits.append(of_net if offsets is None else of_net + offsets)
        label_losses = [_mean_cross_entropy(targets, of_net) for of_net in logits]
        losses = _losses_with_teacher(label_losses, logits, training)
        if len(nets) > 1:
            losses[0] *= training.received_weight
        total = tf.add_n(losses)
    return label_losses[0], tape.gradient(total, packed, unconnected_gradients="zero")


def _losses_with_teacher(
    label_losses: list[tf.Tensor], logits: list[tf.Tensor], training: LocalTraining
) -> list[tf.Tensor]:
    """Returns the loss of each net of a sandwich; the first net is the received one."""
    temperature, share = training.temperature, training.label_share
    if len(logits) == 1 or share == 1:
        return list(label_losses)
    predictions = [tf.nn.softmax(tf.stop_gradient(of_net) / temperature) for of_net in logits]
    if training.teacher == "ensemble":
        teacher, first_student = tf.add_n(predictions) / len(predictions), 0
    else:
        teacher, first_student = predictions[0], 1
    losses = label_losses[:first_student]
    students = slice(first_student, None)
    for label_loss, of_net in zip(label_losses[students], logits[students], strict=True):
        # The square keeps the scale of the gradient the same at every temperature.
        distillation = temperature**2 * _mean_cross_entropy(teacher, of_net / temperature)
        losses.append(share * label_loss + (1 - share) * distillation)
    return losses


def _mean_cross_entropy(targets, logits):
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))


def random_subnet(supernet: Supernet, within: AnyArchitecture, seed: tf.Tensor) -> tf.Tensor:
    """Returns the int32 code of a subnet drawn uniformly from those of the net `within`."""
    if not isinstance(within, tf.Tensor):
        within = tf.constant(supernet.space.encode(within))
    draws = tf.random.stateless_uniform(tf.shape(within), seed)
    code = []
    for number, values in enumerate(supernet.space.choices):
        values = tf.constant(values, tf.int32)
        allowed = tf.reduce_sum(tf.cast(values <= within[number], tf.int32))
        code.append(values[tf.cast(draws[number] * tf.cast(allowed, tf.float32), tf.int32)])
    return tf.stack(code)
