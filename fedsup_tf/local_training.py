"""Local update of a client: trains the net that it received, as in FedSup and E-FedSup.

Both algorithms (arXiv 2206.01366, algorithms 1 and 2) are one function. With a sandwich of one net
the client trains what it received (E-FedSup). With a sandwich of M nets each step also trains the
smallest and M - 2 random subnets of what it received, which learn from its outputs (in-place
distillation); if that is the whole supernet, this is FedSup.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from fedsup_tf import slicing
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.json_schema import quoted
from fedsup_tf.files.validation import check_choice, check_number, check_whole_number
from fedsup_tf.frozen import check_frozen, is_frozen
from fedsup_tf.ops import ops
from fedsup_tf.resizing import for_each_size
from fedsup_tf.sgd import apply_sgd
from fedsup_tf.supernet import AnyArchitecture, Supernet

TEACHERS = ("received", "ensemble")
# Values without effect of hyper-parameters that earlier versions did not have.
WITHOUT_EFFECT = {"frozen": [], "clip_norm": math.inf, "received_weight": 1.0}
# Greatest number of nets of a sandwich: each has its part of the graph of a step.
MOST_SANDWICH = 64
# Greatest number of epochs and of images of a step; a shape has it as an int32.
_MOST_COUNT = 2**31 - 1
# Under what name a net's vectors are packed; no tensor is called so.
_VECTORS = "vectors"


@dataclasses.dataclass(frozen=True)
class LocalTraining:
    """Hyper-parameters of a client's training; the defaults are the reference's.

    Attributes:
      epochs: Passes over the client's examples.
      batch_size: Examples in a step; the last step of an epoch takes what is left.
      momentum: Momentum of SGD; each round starts with zero momentum.
      weight_decay: L2 decay of convolution and classifier kernels; PN and bias do not decay.
      clip_norm: Largest l2 norm of a step's gradient, of all weights together; infinity to leave
        it. A step far longer than the others is how a training at a high rate diverges.
      clip_value: Largest absolute value of an entry of the gradient; infinity to leave it.
      label_smoothing: Share of the target spread evenly over the classes.
      sandwich: Number of nets trained in each step, M; 1 trains only what was received.
      temperature: Temperature of the distillation.
      teacher: What the nets of a sandwich learn from beside the labels. `"received"`: the smaller
        nets from the net that the client received, which learns from the labels alone (in-place
        distillation of FedSup). `"ensemble"`: each net, the received one too, from the mean of all
        nets' predictions (deep mutual learning, Zhang et al., arXiv 1706.00384).
      label_share: Share of the labels' cross-entropy in the loss of each net that has a teacher;
        the rest is distillation.
      received_weight: Weight of the received net's loss, beside 1 for each other net of a sandwich.
        Weights that the smaller nets lack have this net's gradient alone, those that all share the
        sum of all nets' (a greater weight of the largest net: SuperFedNAS, Khare et al., arXiv
        2301.10879).
      absent_class_weight: Weight, in the sum of the softmax, of a class that the client has no
        example of; 1 is the plain softmax. A client can only learn that its classes are likelier
        than those it never sees, which the other clients contradict: with a small weight it hardly
        does (logit adjustment by the client's own label prior, Menon et al., arXiv 2007.07314;
        restricted softmax, Li & Zhan, KDD 2021).
      frozen: Parts of the net that keep their weights, `frozen.parts_to_freeze` of its space: they
        get no gradient and are not sent back.
    """

    epochs: int = 1
    batch_size: int = 32
    momentum: float = 0.5
    weight_decay: float = 1e-4
    clip_norm: float = math.inf
    clip_value: float = 1.0
    label_smoothing: float = 0.0
    sandwich: int = 1
    temperature: float = 1.0
    teacher: str = "received"
    label_share: float = 0.0
    received_weight: float = 1.0
    absent_class_weight: float = 1.0
    frozen: tuple[str, ...] = ()

    def __post_init__(self):
        what = "Local training"
        most = {"epochs": _MOST_COUNT, "batch_size": _MOST_COUNT, "sandwich": MOST_SANDWICH}
        for field, limit in most.items():
            value = check_whole_number(getattr(self, field), field, 1, limit, what=what)
            object.__setattr__(self, field, value)
        bounds = {
            "momentum": {"least": 0, "most": 1},
            "weight_decay": {"least": 0},
            "clip_norm": {"above": 0, "allow_infinity": True},
            "clip_value": {"above": 0, "allow_infinity": True},
            "label_smoothing": {"least": 0, "most": 1},
            "temperature": {"above": 0},
            "label_share": {"least": 0, "most": 1},
            "received_weight": {"above": 0},
            "absent_class_weight": {"above": 0, "most": 1},
        }
        for field, limits in bounds.items():
            value = check_number(getattr(self, field), field, what=what, **limits)
            # JSON knows no numbers of NumPy.
            object.__setattr__(self, field, value.item() if hasattr(value, "item") else value)
        check_choice(self.teacher, "teacher", TEACHERS, what=what)
        frozen = self.frozen
        if not isinstance(frozen, list | tuple) or not all(isinstance(n, str) for n in frozen):
            raise ValueError(
                "Local training: expected frozen to be a list of names of parts, received "
                f"{quoted(frozen)}."
            )
        object.__setattr__(self, "frozen", tuple(frozen))

    def fields(self) -> dict[str, Any]:
        """Returns the hyper-parameters as JSON values by name.

        Those that earlier versions did not have are there only where they have an effect.
        """
        values = {**dataclasses.asdict(self), "frozen": list(self.frozen)}
        return {
            name: value
            for name, value in values.items()
            if name not in WITHOUT_EFFECT or value != WITHOUT_EFFECT[name]
        }


class ClientUpdate(NamedTuple):
    """Result of a client's training, which it sends back.

    Attributes:
      delta: Trained minus received weights, by tensor name, shaped as received; a tensor of a
        frozen part is empty, each of its axes of length 0.
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
      supernet: Whose subnets are trained; its own variables are not used.
      weights: The received weights by tensor name, of static or unknown sizes; for a sandwich
        those of `Supernet.slices(..., nested=True)`.
      architecture: Which subnet they are.
      images: `(examples, height, width, channels)`, uint8, of the space's `image_shape`. All
        nets of a step compute them at the resolution of the architecture.
      labels: `(examples,)`, int32.
      seed: `(2,)`, int32; decides the shuffles, augmentation and random subnets.
      learning_rate: This round's, from the server's schedule.
      training: The hyper-parameters.
      preprocessing: Normalization and augmentation of the images.

    Returns:
      The update; equal inputs give equal updates.

    Raises:
      ValueError: If a frozen part is none of the supernet's, or all are frozen.
    """
    check_frozen(supernet.space, training.frozen)
    received = {name: tf.convert_to_tensor(weights[name]) for name in supernet.weight_shapes}
    kept = {name: value for name, value in received.items() if is_frozen(name, training.frozen)}
    initial = _Packed({name: value for name, value in received.items() if name not in kept})
    # SGD on variables, which may have unknown shapes, is much faster than on loop state.
    variables = {name: _variable(value) for name, value in initial.packed.items()}
    momenta = {name: _variable(tf.zeros_like(value)) for name, value in initial.packed.items()}
    examples = tf.shape(labels)[0]
    offsets = _logit_offsets(labels, supernet.space.classes, training.absent_class_weight)

    def step(indices, step_seed, resize):
        batch = resize(tf.gather(images, indices))
        batch = preprocessing.augment(preprocessing.normalize(batch), step_seed)
        current = {
            name: ops.known(variables[name].read_value(), value.shape)
            for name, value in initial.packed.items()
        }
        loss, gradients = sandwich_gradients(
            supernet,
            current,
            architecture,
            batch,
            tf.gather(labels, indices),
            step_seed,
            training,
            lambda packed: {**initial.unpack(packed), **kept},
            offsets,
        )
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
            name: ops.known(variables[name].read_value() - value, value.shape)
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
    """A net's weights with all vectors as one, so that a step has fewer and larger operations.

    Attributes:
      packed: The kernels by name, and the vectors one behind the other under `_VECTORS`.
    """

    def __init__(self, weights: Mapping[str, tf.Tensor]):
        """Packs a net's weights."""
        vectors = {name: value for name, value in weights.items() if len(value.shape) == 1}
        self._names = list(weights)
        self._shapes = {name: value.shape for name, value in vectors.items()}
        self._lengths = tf.stack([tf.size(value) for value in vectors.values()])
        self.packed = {name: value for name, value in weights.items() if name not in vectors}
        self.packed[_VECTORS] = tf.concat(list(vectors.values()), 0)

    def unpack(self, packed: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Each tensor under its name, of values packed as `packed` is."""
        parts = tf.split(packed[_VECTORS], self._lengths, num=len(self._shapes))
        vectors = {
            name: ops.known(part, shape)
            for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)
        }
        return {name: vectors[name] if name in vectors else packed[name] for name in self._names}


def sandwich_gradients(
    supernet, packed, architecture, images, labels, seed, training, unpack=dict, offsets=None
):
    """Computes the gradient of a step, in which the nets of a sandwich learn together.

    Args:
      supernet: Whose subnets are trained.
      packed: The received weights; gradients are by these names.
      architecture: Which subnet they are.
      images: `(batch, height, width, channels)`, float32, normalized.
      labels: `(batch,)`, int32.
      seed: `(2,)`, int32; decides the random subnets.
      training: The hyper-parameters.
      unpack: Makes the weights by tensor name from `packed`.
      offsets: `(classes,)`, added to all logits, or None.

    Returns:
      The received net's loss from labels, and the gradient of the nets' summed losses.
    """
    classes = supernet.space.classes
    targets = tf.one_hot(labels, classes) * (1 - training.label_smoothing)
    targets += training.label_smoothing / classes
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


def _logit_offsets(labels: tf.Tensor, classes: int, absent_class_weight: float) -> tf.Tensor | None:
    """Returns what is added to the logits of a client that has these labels, `(classes,)`."""
    if absent_class_weight == 1:
        return None
    is_present = tf.math.unsorted_segment_sum(tf.ones_like(labels), labels, classes) > 0
    return tf.where(is_present, 0.0, tf.math.log(absent_class_weight))


def _losses_with_teacher(
    label_losses: list[tf.Tensor], logits: list[tf.Tensor], training: LocalTraining
) -> list[tf.Tensor]:
    """Returns the loss of each net of a sandwich, of which the first is the received one."""
    temperature, share = training.temperature, training.label_share
    if len(logits) == 1 or share == 1:
        return list(label_losses)
    predictions = [tf.nn.softmax(tf.stop_gradient(of_net) / temperature) for of_net in logits]
    if training.teacher == "ensemble":
        teacher, untaught = tf.add_n(predictions) / len(predictions), 0
    else:
        teacher, untaught = predictions[0], 1
    losses = label_losses[:untaught]
    for label_loss, of_net in zip(label_losses[untaught:], logits[untaught:], strict=True):
        # The square keeps the gradient's size the same at every temperature.
        distillation = temperature**2 * _mean_cross_entropy(teacher, of_net / temperature)
        losses.append(share * label_loss + (1 - share) * distillation)
    return losses


def _mean_cross_entropy(targets, logits):
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))


def random_subnet(supernet: Supernet, within: AnyArchitecture, seed: tf.Tensor) -> tf.Tensor:
    """Code of a uniformly drawn subnet of the net `within`, int32."""
    if not isinstance(within, tf.Tensor):
        within = tf.constant(supernet.space.encode(within))
    draws = tf.random.stateless_uniform(tf.shape(within), seed)
    code = []
    for number, values in enumerate(supernet.space.choices):
        values = tf.constant(values, tf.int32)
        allowed = tf.reduce_sum(tf.cast(values <= within[number], tf.int32))
        code.append(values[tf.cast(draws[number] * tf.cast(allowed, tf.float32), tf.int32)])
    return tf.stack(code)


def _variable(value):
    return tf.Variable(value, shape=value.shape, validate_shape=value.shape.is_fully_defined())
