"""Gradient of a step in which the nets of a sandwich learn jointly and from each other."""

from collections.abc import Mapping

import tensorflow as tf

from fedsup_tf import slicing
from fedsup_tf.frozen import is_frozen
from fedsup_tf.label_targets import smoothed_targets
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.sliced_net import AnyArchitecture
from fedsup_tf.slicing import Slice
from fedsup_tf.supernet import Supernet, is_shortcut


def sandwich_gradients(
    supernet: Supernet,
    weights: Mapping[str, tf.Tensor],
    architecture: AnyArchitecture,
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    training: LocalTraining,
    offsets: tf.Tensor | None = None,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Computes the gradient of a step in which the nets of a sandwich learn jointly.

    Args:
      supernet: Supernet that defines the subnets; its own variables are not read.
      weights: Received weights by tensor name.
      architecture: Architecture that the received weights belong to.
      images: Normalized images, float32 `(batch, height, width, channels)`.
      labels: `(batch,)`, int32.
      seed: Seed of the random subnets, int32 `(2,)`.
      training: Hyper-parameters of the training.
      offsets: Offsets that are added to all nets' logits, `(classes,)`, or None.

    Returns:
      The received net's cross-entropy with the labels, and the gradient of the sum of all nets'
      losses, by the names of the weights that are not frozen.
    """
    smoothing = training.label_smoothing
    targets = smoothed_targets(labels, supernet.space.classes, smoothing, offsets)
    trained = [name for name in weights if not is_frozen(name, training.frozen)]
    nets = _slices_of_nets(supernet, architecture, seed, training.sandwich)
    # Cut, and their gradients added up, outside the tape: the gradient of a slice is slow to trace.
    subnets = [{**weights, **slicing.take(weights, slices)} for slices in nets]
    watched = [{name: subnet[name] for name in trained} for subnet in subnets]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(watched)
        logits = [supernet.forward(subnet, images) for subnet in subnets]
        if offsets is not None:
            logits = [of_net + offsets for of_net in logits]
        label_losses = [_mean_cross_entropy(targets, of_net) for of_net in logits]
        losses = _losses_with_teacher(label_losses, logits, training)
        if len(nets) > 1:
            losses[0] *= training.received_weight
        total = tf.add_n(losses)
    gradients = tape.gradient(total, watched, unconnected_gradients="zero")
    for slices, of_net in zip(nets, gradients, strict=True):
        for name in of_net:
            if name in slices:
                of_net[name] = _scattered(of_net[name], slices[name], weights[name])
    summed = {name: tf.add_n([of_net[name] for of_net in gradients]) for name in trained}
    return label_losses[0], summed


def _slices_of_nets(
    supernet: Supernet, architecture: AnyArchitecture, seed: tf.Tensor, sandwich: int
) -> list[dict[str, Slice]]:
    """Returns, for each net of a sandwich, the slices of tensors that it does not use whole."""
    if sandwich == 1:
        return [{}]
    nets = [supernet.space.smallest()]
    for number in range(1, sandwich - 1):
        net_seed = tf.random.experimental.stateless_fold_in(seed, number)
        nets.append(random_subnet(supernet, architecture, net_seed))
    received, *others = (supernet.slices(net, within=architecture) for net in (architecture, *nets))
    # Some shortcut convolutions are received for the subnets alone.
    shortcuts = {name: part for name, part in received.items() if is_shortcut(name)}
    return [shortcuts, *others]


def _scattered(gradient: tf.Tensor, part: Slice, whole: tf.Tensor) -> tf.Tensor:
    """Returns the gradient of a slice as one of the whole tensor, of statically unknown shape."""
    before = tf.stack(part.begin)
    after = tf.shape(whole) - tf.shape(gradient) - before
    return tf.pad(gradient, tf.stack([before, after], 1))


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
    # Without the reshapes of tf.nn.softmax_cross_entropy_with_logits, which do nothing here.
    losses = tf.raw_ops.SoftmaxCrossEntropyWithLogits(features=logits, labels=targets).loss
    return tf.reduce_mean(losses)


def random_subnet(supernet: Supernet, within: AnyArchitecture, seed: tf.Tensor) -> tf.Tensor:
    """Returns the int32 code of a subnet drawn uniformly from those of the net `within`."""
    if not isinstance(within, tf.Tensor):
        within = tf.constant(supernet.space.encode(within))
    table = tf.constant(supernet.space.choice_table)
    allowed = tf.reduce_sum(tf.cast(table <= tf.expand_dims(within, 1), tf.int32), 1)
    draws = tf.random.stateless_uniform(allowed.shape, seed) * tf.cast(allowed, tf.float32)
    return tf.gather(table, tf.cast(draws, tf.int32), axis=1, batch_dims=1)
