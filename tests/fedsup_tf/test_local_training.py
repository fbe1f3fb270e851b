"""Compares a client's local update with its formulas written out."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf
from local_updates import update_eagerly, update_in_graph

from fedsup_tf import sandwich, slicing
from fedsup_tf.architecture import Architecture
from fedsup_tf.client_update import local_update
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.frozen import check_frozen, untrained_parts
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet

SPACE = SearchSpace(
    "tiny",
    image_shape=(4, 4, 1),
    classes=3,
    stem_width=3,
    stem_stride=1,
    stages=(Stage("first", (2, 4), (1,), (1, 3)), Stage("second", (3, 6), (1, 2), (3,), 2)),
)
MIDDLE = Architecture((4, 3), (1, 2), (3, 3))
SUPERNET = Supernet(SPACE)
PREPROCESSING = Preprocessing((100.0,), (60.0,))
# One step per epoch for the clients below.
WHOLE = LocalTraining(batch_size=20, weight_decay=0.0, clip_value=float("inf"))
SEED = np.array([3, 4], np.int32)


def weights_of(architecture, supernet=SUPERNET):
    """Returns random weights of a subnet; initially, the residual branches would output zeros."""
    rng = np.random.default_rng(0)
    return {
        name: (0.5 * rng.normal(size=part.size)).astype(np.float32)
        for name, part in supernet.slices(architecture, nested=True).items()
    }


def client(examples, seed=1):
    rng = np.random.default_rng(seed)
    images = rng.integers(256, size=(examples, *SPACE.image_shape)).astype(np.uint8)
    return images, rng.integers(SPACE.classes, size=examples).astype(np.int32)


def in_a_graph(training, architecture=None, preprocessing=PREPROCESSING, supernet=SUPERNET):
    """Returns `local_update` traced in a graph: for one architecture, or for all if it is None."""
    run = update_in_graph(supernet, training, preprocessing, architecture)

    def run_client(weights, images, labels, seed=SEED, learning_rate=0.3, architecture=None):
        return run(weights, images, labels, seed, learning_rate, architecture)

    return run_client


def without_a_graph(
    training,
    weights,
    images,
    labels,
    architecture=MIDDLE,
    learning_rate=0.3,
    preprocessing=PREPROCESSING,
):
    """Returns the eager `local_update` of a subnet."""
    arguments = (images, labels, SEED, learning_rate, training, preprocessing)
    return update_eagerly(SUPERNET, weights, architecture, *arguments)


@functools.cache
def any_net(**changes):
    """Returns `in_a_graph` for every architecture, traced once for all tests."""
    return in_a_graph(dataclasses.replace(WHOLE, **changes))


def cross_entropy(targets, logits):
    shifted = logits - tf.reduce_max(logits, 1, keepdims=True)
    log_softmax = shifted - tf.math.log(tf.reduce_sum(tf.exp(shifted), 1, keepdims=True))
    return -tf.reduce_mean(tf.reduce_sum(targets * log_softmax, 1))


def one_net(weights, images, labels, smoothing=0.0):
    """Returns loss, logits and gradients of the received net."""
    weights = {name: tf.constant(value) for name, value in weights.items()}
    images = (images.astype(np.float32) - 100) / 60
    targets = np.eye(SPACE.classes)[labels] * (1 - smoothing) + smoothing / SPACE.classes
    with tf.GradientTape() as tape:
        tape.watch(weights)
        logits = SUPERNET.forward(weights, images)
        loss = cross_entropy(targets.astype(np.float32), logits)
    return loss, logits, tape.gradient(loss, weights, unconnected_gradients="zero")


def student_net(weights, within, student, images, teacher, temperature):
    """Returns the gradients of distillation into a subnet, placed where its weights came from."""
    slices = SUPERNET.slices(student, within=within)
    subnet = Supernet(SPACE.fixed_architecture(student))
    cut = slicing.take(weights, slices)
    own = {name: cut[name] for name in subnet.weight_shapes}
    soft = tf.nn.softmax(teacher / temperature)
    images = (images.astype(np.float32) - 100) / 60
    with tf.GradientTape() as tape:
        tape.watch(own)
        logits = subnet.forward(own, images)
        loss = temperature**2 * cross_entropy(soft, logits / temperature)
    gradients = {name: tf.zeros(part.size) for name, part in slices.items()}
    gradients.update(tape.gradient(loss, own))
    return slicing.scatter(gradients, slices, {name: weights[name].shape for name in weights})


def descend(weights, gradients_of, training, learning_rate=0.3):
    """Runs SGD like the paper's reference: clipping by value, weight decay of kernels, momentum."""
    current = dict(weights)
    momenta = {name: np.zeros_like(value) for name, value in weights.items()}
    for _ in range(training.epochs):
        for name, gradient in gradients_of(current).items():
            gradient = np.clip(gradient, -training.clip_value, training.clip_value)
            if name.rpartition("/")[2] == "kernel":
                gradient = gradient + training.weight_decay * current[name]
            momenta[name] = training.momentum * momenta[name] + gradient
            current[name] = current[name] - learning_rate * momenta[name]
    return {name: current[name] - weights[name] for name in weights}


def assert_close(actual, expected, atol=2e-5):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, atol=atol, rtol=1e-3, err_msg=name)


# ------------------------------------------------------------------------ SGD, written out

STEPS = dict(epochs=2, momentum=0.5, weight_decay=0.1, clip_value=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [SPACE.smallest(), MIDDLE, SPACE.largest()], ids=str)
def test_two_steps_on_weights_of_unknown_shapes_are_the_formula(architecture):
    training = dataclasses.replace(WHOLE, **STEPS)
    weights, data = weights_of(architecture), client(9)
    update = any_net(**STEPS)(weights, *data, architecture=architecture)
    assert_close(update.delta, descend(weights, lambda now: one_net(now, *data)[2], training))


@pytest.mark.slow
def test_two_steps_on_weights_of_known_shapes_are_the_formula():
    training = dataclasses.replace(WHOLE, **STEPS)
    weights, (images, labels) = weights_of(MIDDLE), client(9)
    own = SUPERNET.values_by_name()
    update = local_update(
        SUPERNET, weights, MIDDLE, images, labels, SEED, 0.3, training, PREPROCESSING
    )
    # The supernet's own variables are not used.
    for name, value in SUPERNET.values_by_name().items():
        np.testing.assert_array_equal(value, own[name])
    expected = descend(weights, lambda now: one_net(now, images, labels)[2], training)
    assert_close(update.delta, expected)
    assert {name: value.shape for name, value in update.delta.items()} == {
        name: value.shape for name, value in weights.items()
    }
    # The loss is the mean of both steps, each before its step is taken.
    first = one_net(weights, images, labels)[0]
    one_step = descend(
        weights,
        lambda now: one_net(now, images, labels)[2],
        dataclasses.replace(training, epochs=1),
    )
    second = one_net({name: weights[name] + one_step[name] for name in weights}, images, labels)[0]
    np.testing.assert_allclose(update.loss, (first + second) / 2, rtol=1e-5)
    assert update.examples == 9


def test_the_formula_clips_some_entries_and_not_others():
    gradients = one_net(weights_of(MIDDLE), *client(9))[2]
    entries = np.abs(np.concatenate([np.ravel(value) for value in gradients.values()]))
    assert 0.01 < np.mean(entries > STEPS["clip_value"]) < 0.99


def test_an_infinite_clip_value_does_not_clip():
    weights, data = weights_of(MIDDLE), client(9)
    update = without_a_graph(WHOLE, weights, *data)
    assert_close(update.delta, descend(weights, lambda now: one_net(now, *data)[2], WHOLE))


def test_weight_decay_pulls_kernels_and_nothing_else():
    weights = weights_of(MIDDLE)
    # No learning except for weight decay, which is added to the clipped gradient.
    training = dataclasses.replace(WHOLE, weight_decay=0.5, clip_value=1e-30)
    delta = without_a_graph(training, weights, *client(9), learning_rate=0.1).delta
    for name, value in weights.items():
        expected = -0.1 * 0.5 * value if name.endswith("/kernel") else np.zeros_like(value)
        np.testing.assert_allclose(delta[name], expected, rtol=1e-5, atol=1e-8, err_msg=name)


def test_label_smoothing_spreads_a_share_of_the_target():
    weights, data = weights_of(MIDDLE), client(9)
    training = dataclasses.replace(WHOLE, label_smoothing=0.3)
    update = without_a_graph(training, weights, *data)
    loss, _, gradients = one_net(weights, *data, smoothing=0.3)
    np.testing.assert_allclose(update.loss, loss, rtol=1e-5)
    assert_close(update.delta, descend(weights, lambda now: gradients, WHOLE))
    assert abs(loss - one_net(weights, *data)[0]) > 1e-2


# --------------------------------------------------------------------------- the sandwich

OF_TWO = dict(sandwich=2, temperature=2.0, clip_value=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [MIDDLE, SPACE.largest()], ids=str)
def test_a_sandwich_of_two_adds_the_smallest_taught_by_the_received(architecture):
    weights, (images, labels) = weights_of(architecture), client(9)
    loss, logits, own = one_net(weights, images, labels)
    student = student_net(weights, architecture, SPACE.smallest(), images, logits, 2.0)
    gradients = {name: own[name] + student[name] for name in own}
    update = any_net(**OF_TWO)(weights, images, labels, architecture=architecture)
    # The sum of both nets' gradients is clipped, not each of them.
    expected = descend(weights, lambda now: gradients, dataclasses.replace(WHOLE, **OF_TWO))
    assert_close(update.delta, expected)
    # The loss is that of the received net alone.
    np.testing.assert_allclose(update.loss, loss, rtol=1e-5)


def test_a_sandwich_of_four_adds_two_random_subnets_of_the_received(monkeypatch):
    drawn, draw = [], sandwich.random_subnet

    def recording(*arguments):
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(sandwich, "random_subnet", recording)
    weights, (images, labels) = weights_of(SPACE.largest()), client(9)
    training = dataclasses.replace(WHOLE, sandwich=4, temperature=0.5)
    loss, gradients = sandwich.sandwich_gradients(
        SUPERNET,
        {name: tf.constant(value) for name, value in weights.items()},
        SPACE.largest(),
        PREPROCESSING.normalize(images),
        labels,
        tf.constant([1, 6]),
        training,
    )
    assert len({tuple(code.numpy()) for code in drawn}) == 2
    students = [SPACE.smallest(), *(SPACE.decode(code) for code in drawn)]
    own_loss, logits, expected = one_net(weights, images, labels)
    for student in students:
        added = student_net(weights, SPACE.largest(), student, images, logits, 0.5)
        expected = {name: expected[name] + added[name] for name in expected}
    assert_close(gradients, expected)
    np.testing.assert_allclose(loss, own_loss, rtol=1e-5)


@pytest.mark.parametrize("received_weight", [1, 3])
@pytest.mark.parametrize("teacher", ["received", "ensemble"])
def test_nets_with_a_teacher_also_learn_from_the_labels(teacher, received_weight):
    """Compares both teachers with their formula, on the received net and the smallest one."""
    weights, (images, labels) = weights_of(SPACE.largest()), client(9)
    training = dataclasses.replace(
        WHOLE, sandwich=2, teacher=teacher, label_share=0.25, received_weight=received_weight
    )
    inputs = PREPROCESSING.normalize(images)
    variables = {name: tf.constant(value) for name, value in weights.items()}
    reported, gradients = sandwich.sandwich_gradients(
        SUPERNET, variables, SPACE.largest(), inputs, labels, tf.constant([1, 6]), training
    )
    hard = np.eye(SPACE.classes, dtype=np.float32)[labels]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        logits = [
            SUPERNET.forward(slicing.take(variables, SUPERNET.slices(net)), inputs)
            for net in (SPACE.largest(), SPACE.smallest())
        ]
        soft = [tf.nn.softmax(of_net).numpy() for of_net in logits]
        of_labels = [cross_entropy(hard, of_net) for of_net in logits]
        target = np.mean(soft, 0) if teacher == "ensemble" else soft[0]
        losses = [
            0.25 * of_label + 0.75 * cross_entropy(target, of_net)
            for of_label, of_net in zip(of_labels, logits, strict=True)
        ]
        if teacher == "received":
            losses[0] = of_labels[0]
        loss = received_weight * losses[0] + losses[1]
    np.testing.assert_allclose(reported, of_labels[0], rtol=1e-5)
    assert_close(gradients, tape.gradient(loss, variables, unconnected_gradients="zero"))


def test_a_steps_gradient_is_clipped_by_its_norm():
    weights, data = weights_of(MIDDLE), client(9)
    # One net's gradient exceeds the norm limit; with a smaller head, it does not.
    dull = {**weights, "head/kernel": weights["head/kernel"] / 4}
    free = [without_a_graph(WHOLE, net, *data).delta for net in (weights, dull)]
    norms = [
        np.sqrt(sum(np.sum(np.square(value)) for value in delta.values())) / 0.3 for delta in free
    ]
    limit = float(np.sqrt(norms[0] * norms[1]))
    assert norms[1] < limit / 1.2 < norms[0] / 1.2**2
    clipping = dataclasses.replace(WHOLE, clip_norm=limit)
    for net, delta, scale in zip((weights, dull), free, (limit / norms[0], 1), strict=True):
        expected = {name: scale * value for name, value in delta.items()}
        assert_close(without_a_graph(clipping, net, *data).delta, expected)


def test_a_device_trains_its_net_alone_and_does_not_clip_the_norm():
    shared = dict(epochs=2, momentum=0.1, absent_class_weight=0.2, frozen=("stem",))
    others = dict(clip_norm=2.0, sandwich=3, teacher="ensemble", label_share=0.5, temperature=2.0)
    training = LocalTraining(**shared, **others, received_weight=3.0)
    assert training.on_device() == LocalTraining(**shared)


def test_hyper_parameters_that_are_new_are_told_only_where_they_have_an_effect():
    assert not {"clip_norm", "received_weight", "frozen"} & LocalTraining().fields().keys()
    fields = LocalTraining(clip_norm=2.0, received_weight=3.0, frozen=("stem",)).fields()
    assert (fields["clip_norm"], fields["received_weight"], fields["frozen"]) == (2, 3, ["stem"])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_classes_that_a_client_lacks_weigh_less_in_its_softmax_and_in_its_targets(smoothing):
    weights, (images, labels) = weights_of(SPACE.largest()), client(9)
    labels = np.where(labels == 1, 2, labels)
    class_weights = np.float32([1, 0.05, 1])
    training = dataclasses.replace(WHOLE, absent_class_weight=0.05, label_smoothing=smoothing)
    delta = without_a_graph(training, weights, images, labels, SPACE.largest())
    targets = (1 - smoothing) * np.eye(3, dtype=np.float32)[labels]
    targets += smoothing * class_weights / 2.05
    variables = {name: tf.constant(value) for name, value in weights.items()}
    with tf.GradientTape() as tape:
        tape.watch(variables)
        logits = SUPERNET.forward(variables, PREPROCESSING.normalize(images))
        powers = class_weights * tf.exp(logits)
        shares = powers / tf.reduce_sum(powers, 1, keepdims=True)
        loss = -tf.reduce_mean(tf.reduce_sum(targets * tf.math.log(shares), 1))
    gradients = tape.gradient(loss, variables)
    expected = {name: -0.3 * gradient for name, gradient in gradients.items()}
    assert_close(delta.delta, expected)
    np.testing.assert_allclose(delta.loss, loss, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("within", [SPACE.largest(), MIDDLE, SPACE.smallest()], ids=str)
@pytest.mark.parametrize("as_code", [False, True])
def test_random_subnets_are_uniform_over_those_of_the_received(within, as_code):
    net = tf.constant(SPACE.encode(within)) if as_code else within

    @tf.function(input_signature=[tf.TensorSpec([2], tf.int32)])
    def draw(seed):
        return sandwich.random_subnet(SUPERNET, net, seed)

    draws = np.array([draw(tf.constant([seed, 7])) for seed in range(400)])
    for entries, choices, maximum in zip(draws.T, SPACE.choices, SPACE.encode(within), strict=True):
        allowed = [value for value in choices if value <= maximum]
        shares = [np.mean(entries == value) for value in allowed]
        assert sum(shares) == pytest.approx(1)
        # For a fair coin thrown 400 times, 0.1 is 4 standard deviations.
        np.testing.assert_allclose(shares, 1 / len(allowed), atol=0.1)


@pytest.fixture(scope="module")
def sandwich_in_the_middle():
    """Traces three nets per step, with a subnet as the received one."""
    return in_a_graph(LocalTraining(batch_size=4, sandwich=3), MIDDLE)


@pytest.mark.slow
def test_a_sandwich_inside_a_subnet_trains_it(sandwich_in_the_middle):
    weights, data = weights_of(MIDDLE), client(9)
    delta = sandwich_in_the_middle(weights, *data).delta
    for name, value in weights.items():
        assert delta[name].shape == value.shape
        assert np.isfinite(delta[name]).all()
        assert not value.size or np.count_nonzero(delta[name])


# A block with 4 input and 4 output channels has no shortcut convolution. In the smallest subnet, 2
# channels become 4, so that it has one.
EQUAL_WIDTHS = Architecture((4, 4), (1, 1), (3, 3))
EQUAL_WIDTHS_SUPERNET = Supernet(
    dataclasses.replace(
        SPACE, stages=(Stage("first", (2, 4), (1,), (3,)), Stage("second", (4, 6), (1,), (3,)))
    )
)


@pytest.mark.parametrize("seed", range(4))
def test_a_sandwich_of_four_trains_a_subnet_without_a_shortcut_convolution(seed):
    weights, (images, labels) = weights_of(EQUAL_WIDTHS, supernet=EQUAL_WIDTHS_SUPERNET), client(9)
    _, gradients = sandwich.sandwich_gradients(
        EQUAL_WIDTHS_SUPERNET,
        {name: tf.constant(value) for name, value in weights.items()},
        EQUAL_WIDTHS,
        PREPROCESSING.normalize(images),
        labels,
        tf.constant([seed, 0]),
        dataclasses.replace(WHOLE, sandwich=4),
    )
    for name, value in weights.items():
        assert gradients[name].shape == value.shape
        assert np.isfinite(gradients[name]).all()


@pytest.mark.slow
def test_a_sandwich_of_two_trains_such_a_subnet_of_unknown_shapes():
    weights = weights_of(EQUAL_WIDTHS, supernet=EQUAL_WIDTHS_SUPERNET)
    training = dataclasses.replace(WHOLE, sandwich=2)
    run = in_a_graph(training, supernet=EQUAL_WIDTHS_SUPERNET)
    delta = run(weights, *client(9), architecture=EQUAL_WIDTHS).delta
    for name, value in weights.items():
        assert np.isfinite(delta[name]).all()
        assert not value.size or np.count_nonzero(delta[name])


# ------------------------------------------------------------------- randomness and clients


@dataclasses.dataclass(frozen=True)
class Recording(Preprocessing):
    """Preprocessing that records the first pixel of each image, and each step's seed."""

    steps: list = dataclasses.field(default_factory=list)

    def augment(self, images, seed):
        """Records the images and the seed of a step."""

        def write(images, seed):
            self.steps.append((images[:, 0, 0, 0].tolist(), tuple(seed.tolist())))
            return images

        recorded = tf.numpy_function(write, [images, seed], tf.float32)
        return tf.ensure_shape(recorded, images.shape)


@pytest.fixture(scope="module")
def recorded():
    """Runs three epochs in batches of 4 for three seeds, on examples with pixels from 0 to 9."""
    preprocessing = Recording((0.0,), (1.0,))
    training = LocalTraining(epochs=3, batch_size=4)
    run = in_a_graph(training, SPACE.smallest(), preprocessing)
    images = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None, None], (10, 4, 4, 1))
    steps = []
    for seed in ([1, 2], [1, 2], [1, 3]):
        preprocessing.steps.clear()
        run(weights_of(SPACE.smallest()), images, np.zeros(10, np.int32), np.array(seed, np.int32))
        steps.append(list(preprocessing.steps))
    return steps


def examples_of(steps):
    """Returns the examples of consecutive steps."""
    return list(itertools.chain.from_iterable(batch for batch, _ in steps))


def test_an_epoch_sees_every_example_once_in_batches(recorded):
    for steps in recorded:
        assert [len(batch) for batch, _ in steps] == [4, 4, 2] * 3
        for epoch in (steps[:3], steps[3:6], steps[6:]):
            assert sorted(examples_of(epoch)) == list(range(10))


def test_each_epoch_and_each_seed_has_an_order_of_its_own(recorded):
    first, again, other = recorded
    assert first == again
    orders = [
        tuple(examples_of(steps[begin : begin + 3]))
        for steps in (first, other)
        for begin in (0, 3, 6)
    ]
    assert len(set(orders)) == 6


def test_each_step_has_a_seed_of_its_own(recorded):
    first, _, other = recorded
    assert len({seed for _, seed in first + other}) == 18


@pytest.mark.slow
def test_equal_seeds_give_equal_updates_and_others_do_not(sandwich_in_the_middle):
    weights, data = weights_of(MIDDLE), client(11)
    first, again, other = (
        sandwich_in_the_middle(weights, *data, seed=np.array(seed, np.int32))
        for seed in ([1, 2], [1, 2], [2, 1])
    )
    for name, value in first.delta.items():
        np.testing.assert_array_equal(again.delta[name], value)
    assert first.loss == again.loss
    assert np.abs(first.delta["head/kernel"] - other.delta["head/kernel"]).max() > 1e-6


def test_images_are_augmented_as_the_preprocessing_says():
    flipping = dataclasses.replace(PREPROCESSING, flip=True)
    weights, (images, labels) = weights_of(MIDDLE), client(9)
    run = functools.partial(without_a_graph, WHOLE, preprocessing=flipping)
    assert abs(run(weights, images, labels).loss - one_net(weights, images, labels)[0]) > 1e-4
    # Flipping does not change images that are symmetric.
    symmetric = np.concatenate([images[:, :, :2], images[:, :, 1::-1]], axis=2)
    update = run(weights, symmetric, labels)
    np.testing.assert_allclose(update.loss, one_net(weights, symmetric, labels)[0], rtol=1e-5)


@pytest.mark.slow
def test_a_client_without_examples_changes_nothing():
    weights = weights_of(MIDDLE)
    update = any_net(**STEPS)(weights, *client(0), architecture=MIDDLE)
    for name, value in weights.items():
        np.testing.assert_array_equal(update.delta[name], np.zeros_like(value))
    assert (update.examples, update.loss) == (0, 0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "to be a whole number from 1 to 2,147,483,647, received 0"),
        ("batch_size", 0, "to be a whole number from 1 to 2,147,483,647, received 0"),
        ("momentum", -0.1, "to be a finite number of at least 0 and of at most 1, received -0.1"),
        ("momentum", 1.1, "to be a finite number of at least 0 and of at most 1, received 1.1"),
        ("weight_decay", -1e-4, "to be a finite number of at least 0, received -0.0001"),
        ("clip_norm", 0.0, "to be a number or infinity above 0, received 0.0"),
        ("received_weight", 0, "to be a finite number above 0, received 0"),
        ("clip_value", -1.0, "to be a number or infinity above 0, received -1.0"),
        ("clip_value", 0.0, "to be a number or infinity above 0, received 0.0"),
        ("clip_value", float("nan"), "to be a number or infinity above 0, received nan"),
        (
            "label_smoothing",
            1.5,
            "to be a finite number of at least 0 and of at most 1, received 1.5",
        ),
        ("sandwich", 0, "to be a whole number from 1 to 64, received 0"),
        ("label_share", 1.5, "to be a finite number of at least 0 and of at most 1, received 1.5"),
        ("absent_class_weight", 0, "to be a finite number of at least 1e-30 and of at most 1, rec"),
        (
            "absent_class_weight",
            2.0,
            "to be a finite number of at least 1e-30 and of at most 1, received 2.0",
        ),
        ("teacher", "nobody", "to be one of received, ensemble, received 'nobody'"),
        ("temperature", 0.0, "to be a finite number above 0, received 0"),
        ("temperature", -1.0, "to be a finite number above 0, received -1.0"),
    ],
)
def test_a_bad_hyper_parameter_is_an_error_that_names_it(field, value, message):
    with pytest.raises(ValueError, match=f"expected {field} {message}"):
        LocalTraining(**{field: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 1.5},
        {"batch_size": 2.5},
        {"sandwich": 2.5},
        {"temperature": float("inf")},
        {"weight_decay": float("inf")},
    ],
)
def test_hyper_parameters_of_the_wrong_kind_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        LocalTraining(**changes)


@pytest.mark.parametrize("sandwich", [1, 2])
def test_frozen_parts_are_empty_and_leave_the_others_step_as_it_is(sandwich):
    weights, data = weights_of(MIDDLE), client(20)
    changes = OF_TWO if sandwich == 2 else {}
    whole, update = (
        without_a_graph(dataclasses.replace(WHOLE, **changes, frozen=frozen), weights, *data)
        for frozen in ((), ("stem", "second"))
    )
    assert list(update.delta) == list(whole.delta)
    for name, delta in update.delta.items():
        if name.startswith(("stem/", "stem_norm/", "second_")):
            assert delta.shape == (0,) * len(whole.delta[name].shape)
        else:
            np.testing.assert_allclose(delta, whole.delta[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_frozen_parts_keep_what_later_steps_compute_with():
    weights, data = weights_of(MIDDLE), client(20)
    training = dataclasses.replace(WHOLE, epochs=3, frozen=("stem", "first", "second"))
    update = local_update(SUPERNET, weights, MIDDLE, *data, SEED, 0.3, training, PREPROCESSING)
    trained = {name: value.copy() for name, value in weights.items()}
    momenta = {name: 0 for name in ("head/kernel", "head/bias")}
    for _ in range(3):
        _, _, gradients = one_net(trained, *data)
        for name in momenta:
            momenta[name] = training.momentum * momenta[name] + gradients[name].numpy()
            trained[name] = trained[name] - 0.3 * momenta[name]
    for name in momenta:
        expected = trained[name] - weights[name]
        np.testing.assert_allclose(update.delta[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("frozen", "told"),
    [
        (("stem", "third"), "stem, first, second, head.*received 'third'"),
        (("stem", "first", "second", "head"), "received all of them"),
        (("stem", 3), "list of names"),
        ("stem", "list of names"),
    ],
)
def test_frozen_parts_that_are_none_are_refused(frozen, told):
    with pytest.raises(ValueError, match=told):
        local_update(
            SUPERNET,
            weights_of(MIDDLE),
            MIDDLE,
            *client(4),
            SEED,
            0.3,
            LocalTraining(frozen=frozen),
            PREPROCESSING,
        )


@pytest.mark.parametrize("name", ["stem", "head"])
def test_a_frozen_part_named_as_a_stage_is_refused(name):
    first, *others = SPACE.stages
    stages = (dataclasses.replace(first, name=name), *others)
    space = dataclasses.replace(SPACE, stages=stages)
    with pytest.raises(ValueError, match=f"of one meaning each, received '{name}'.*Rename"):
        check_frozen(space, (name,))
    check_frozen(space, (others[0].name,))


def test_frozen_parts_that_begin_at_random_are_found():
    new = ("stem/kernel", "head/bias", "a_b_1/pointwise/kernel")
    assert untrained_parts(("stem", "a", "a_b"), new) == ("stem", "a_b")
    assert untrained_parts(("a", "head"), ()) == ()
    assert untrained_parts(("a", "head"), None) == ("a", "head")


def test_fields_are_those_of_earlier_versions_unless_a_part_is_frozen():
    assert "frozen" not in LocalTraining().fields()
    fields = LocalTraining(frozen=("stem",)).fields()
    assert fields["frozen"] == ["stem"]
    assert LocalTraining(**fields) == LocalTraining(frozen=("stem",))
