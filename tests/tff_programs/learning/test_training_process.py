"""Law 3 and law 4 (docs/laws.md): compares TFF rounds with plain loops."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from local_updates import update_eagerly
from spaces import FEWER_CHOICES as SPACE

from fedsup_tf import slicing
from fedsup_tf.architecture import Architecture
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators.compression import EightBitUpload
from tff_programs.aggregators.overlap_mean import OverlapMeanFactory
from tff_programs.learning.message_size import traffic_counter
from tff_programs.learning.nesterov import build_nesterov
from tff_programs.learning.training_process import build_fedsup_process
from tff_programs.simulation.clients import client_element

SUPERNET = Supernet(SPACE)
# The same net for two resolutions.
RESOLUTIONS = Supernet(dataclasses.replace(SPACE, resolutions=(3, 6)))
PREPROCESSING = Preprocessing((128.0,), (64.0,))
TRAINING = LocalTraining(epochs=2, batch_size=8)
RATE = 0.05


@functools.cache
def plain_process():
    """Returns E-FedSup with default settings, built and compiled once for all tests."""
    return build_fedsup_process(SPACE, TRAINING, PREPROCESSING, RATE)


class Client:
    """A client's data in a round."""

    def __init__(self, number, architecture, examples, supernet=SUPERNET):
        rng = np.random.default_rng(number)
        self.number, self.architecture, self.supernet = number, architecture, supernet
        self.images = rng.integers(0, 256, (examples, 6, 6, 1)).astype(np.uint8)
        self.labels = rng.integers(0, 3, examples).astype(np.int32)
        self.seed = np.array([5, number], np.int32)

    def element(self):
        space = self.supernet.space
        return client_element(
            space, self.images, self.labels, self.architecture, self.number, self.seed
        )


def cohort():
    rng = np.random.default_rng(0)
    architectures = [SPACE.smallest(), SPACE.largest(), SPACE.sample(rng), SPACE.sample(rng)]
    return [Client(n, a, 11 + 5 * n) for n, a in enumerate(architectures)]


def run(execution, process, clients, rounds=1, weights=None):
    state = execution(process.initialize)
    if weights is not None:
        state = execution(
            lambda: process.set_model_weights(
                state, tff.learning.models.ModelWeights(tuple(weights.values()), ())
            )
        )
    for _ in range(rounds):
        iterator = Elements(clients)
        output = execution(lambda state=state, it=iterator: process.next(state, it.select()))
        state = output.state
    trained = execution(lambda: process.get_model_weights(state)).trainable
    named = SUPERNET.named(map(np.asarray, trained))
    return named, output.metrics["client_work"]["train"], state


class Elements:
    """Clients of one round."""

    def __init__(self, clients):
        self.clients = clients

    def select(self):
        return [client.element() for client in self.clients]


def plain_update(weights, client, training=TRAINING):
    slices = client.supernet.slices(client.architecture, nested=training.sandwich > 1)
    return update_eagerly(
        client.supernet,
        slicing.take(weights, slices),
        client.architecture,
        client.images,
        client.labels,
        client.seed,
        RATE,
        training,
        PREPROCESSING,
    )


def plain_round(weights, clients, divisor="coverage", weighting="examples"):
    """Computes the same round in a loop; returns the new weights and the clients' losses."""
    total = {name: np.zeros(shape, np.float64) for name, shape in SUPERNET.weight_shapes.items()}
    coverage = {name: np.zeros_like(value) for name, value in total.items()}
    everyone, losses = 0.0, []
    for client in clients:
        update = plain_update(weights, client)
        losses.append(update.loss)
        weight = len(client.labels) if weighting == "examples" else 1.0
        everyone += weight
        for name, part in client.supernet.slices(client.architecture).items():
            box = part.indices()
            total[name][box] += weight * update.delta[name]
            coverage[name][box] += weight
    new = {}
    for name, value in weights.items():
        covering = np.maximum(coverage[name], 1e-30)
        weights_of_kind = {
            "coverage": covering,
            "diluted": everyone,
        }
        new[name] = value + (total[name] / weights_of_kind[divisor]).astype(np.float32)
    return new, losses


def initial_weights():
    """Returns weights without zero residual branches, so that every tensor is trained."""
    rng = np.random.default_rng(1)
    named = {name: value.numpy() for name, value in Supernet(SPACE).weights_by_name().items()}
    return {
        name: rng.uniform(0.5, 1, value.shape).astype(np.float32) if "gamma" in name else value
        for name, value in named.items()
    }


def assert_close(actual, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    ("divisor", "weighting"),
    [("coverage", "examples"), ("diluted", "uniform")],
)
def test_a_round_equals_a_plain_loop(execution, divisor, weighting):
    clients, weights = cohort(), initial_weights()
    if (divisor, weighting) == ("coverage", "examples"):
        process = plain_process()
    else:
        process = build_fedsup_process(
            SPACE, TRAINING, PREPROCESSING, RATE, aggregation=divisor, weighting=weighting
        )
    actual, metrics, _ = run(execution, process, clients, weights=weights)
    expected, losses = plain_round(weights, clients, divisor, weighting)
    assert_close(actual, expected)
    sizes = [len(client.labels) for client in clients]
    np.testing.assert_allclose(metrics["loss"], np.average(losses, weights=sizes), rtol=1e-4)
    assert metrics["examples"] == sum(sizes)
    assert metrics["clients"] == len(clients)
    assert len(metrics["rejected"]) == 0


def test_a_round_of_clients_of_different_resolutions_equals_a_plain_loop(execution):
    space = RESOLUTIONS.space
    architectures = [
        space.smallest(),
        space.largest(),
        dataclasses.replace(space.largest(), resolution=3),
        dataclasses.replace(space.smallest(), resolution=6),
    ]
    clients = [Client(n, a, 9 + 4 * n, RESOLUTIONS) for n, a in enumerate(architectures)]
    process = build_fedsup_process(space, TRAINING, PREPROCESSING, RATE)
    weights = initial_weights()
    actual, metrics, _ = run(execution, process, clients, weights=weights)
    expected, _ = plain_round(weights, clients)
    assert_close(actual, expected)
    assert metrics["examples"] == sum(len(client.labels) for client in clients)
    # The resolution matters: with a single one, the round's result differs.
    assert {client.architecture.resolution for client in clients} == {3, 6}
    alike = [
        Client(n, dataclasses.replace(a, resolution=6), 9 + 4 * n, RESOLUTIONS)
        for n, a in enumerate(architectures)
    ]
    other, _ = plain_round(weights, alike)
    assert max(np.abs(other[name] - expected[name]).max() for name in expected) > 1e-3


@pytest.mark.parametrize("optimizer", ["none", "nesterov", "sgdm", "adam"])
def test_entries_that_nobody_trained_stay_bit_identical(execution, optimizer):
    if optimizer == "none":
        process = plain_process()
    else:
        optimizers = {
            "nesterov": build_nesterov(0.3),
            "sgdm": tff.learning.optimizers.build_sgdm(1.0, momentum=0.9),
            "adam": tff.learning.optimizers.build_adam(0.01, epsilon=1e-3),
        }
        process = build_fedsup_process(
            SPACE, TRAINING, PREPROCESSING, RATE, server_optimizer=optimizers[optimizer]
        )
    everyone = [Client(0, SPACE.largest(), 16)]
    warm, _, state = run(execution, process, everyone, rounds=1, weights=initial_weights())
    # Momentum of the first round must not change entries that the second round does not train.
    clients = [Client(1, SPACE.smallest(), 16)]
    output = execution(lambda: process.next(state, Elements(clients).select()))
    trained = execution(lambda: process.get_model_weights(output.state)).trainable
    for (name, before), after in zip(warm.items(), map(np.asarray, trained), strict=True):
        part = SUPERNET.slices(SPACE.smallest())[name]
        covered = np.zeros(before.shape, bool)
        covered[part.indices()] = True
        np.testing.assert_array_equal(after[~covered], before[~covered], err_msg=name)
        if covered.any():
            assert (after[covered] != before[covered]).any(), name


@pytest.mark.parametrize("end", ["largest", "smallest"])
def test_everyone_on_one_net_is_federated_averaging(execution, end):
    net = SPACE.largest() if end == "largest" else SPACE.smallest()
    clients = [Client(n, net, 9 + 8 * n) for n in range(3)]
    weights = initial_weights()
    broadcast = build_fedsup_process(SPACE, TRAINING, PREPROCESSING, RATE, architecture=net)
    expected, _ = plain_round(weights, clients)
    for process in (plain_process(), broadcast):
        actual, _, _ = run(execution, process, clients, weights=weights)
        assert_close(actual, expected)


def test_fedsup_trains_a_sandwich_in_every_client(execution):
    training = LocalTraining(batch_size=8, sandwich=3, temperature=2.0)
    process = build_fedsup_process(
        SPACE, training, PREPROCESSING, RATE, architecture=SPACE.largest()
    )
    client, weights = Client(0, SPACE.largest(), 16), initial_weights()
    actual, _, _ = run(execution, process, [client], weights=weights)
    update = plain_update(weights, client, training)
    assert_close(actual, {name: weights[name] + update.delta[name] for name in weights})


def test_a_sandwich_within_each_clients_own_subnet(execution):
    training = LocalTraining(batch_size=8, sandwich=3)
    process = build_fedsup_process(SPACE, training, PREPROCESSING, RATE)
    # Stage b keeps the width in this net, but changes it in its smallest subnet.
    architecture = Architecture((16, 16), (1, 1), (5, 3))
    client, weights = Client(0, architecture, 16), initial_weights()
    actual, _, _ = run(execution, process, [client], weights=weights)
    delta = plain_update(weights, client, training).delta
    slices = SUPERNET.slices(architecture, nested=True)
    placed = slicing.scatter(delta, slices, SUPERNET.weight_shapes)
    assert_close(actual, {name: weights[name] + placed[name].numpy() for name in weights})
    assert np.abs(placed["b_0/shortcut/kernel"]).max() > 0


def test_an_update_that_is_not_finite_is_left_out_and_named(execution):
    clients, weights = cohort(), initial_weights()
    # Only the largest net has this entry, so only the client that trains it fails.
    poisoned = {name: value.copy() for name, value in weights.items()}
    poisoned["b_1/pointwise/kernel"][0, 0, -1, -1] = np.nan
    holders = [
        client.number
        for client in clients
        if SUPERNET.slices(client.architecture)["b_1/pointwise/kernel"].size[2:] == (24, 24)
    ]
    actual, metrics, _ = run(execution, plain_process(), clients, weights=poisoned)
    assert sorted(metrics["rejected"]) == holders
    assert metrics["clients"] == len(clients) - len(holders)
    others = [client for client in clients if client.number not in holders]
    expected, _ = plain_round(poisoned, others)
    assert_close(actual, expected)
    assert np.isfinite(metrics["loss"])


def test_a_client_without_examples_changes_nothing(execution):
    weights, nobody = initial_weights(), [Client(0, SPACE.largest(), 0)]
    actual, metrics, _ = run(execution, plain_process(), nobody, weights=weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(actual[name], value)
    assert metrics["loss"] == 0


def test_averaging_shows_an_average_and_trains_the_same(execution):
    clients, weights = [Client(0, SPACE.smallest(), 16)], initial_weights()
    averaged = build_fedsup_process(SPACE, TRAINING, PREPROCESSING, RATE, averaging=0.9)
    plain = plain_process()
    first, _, _ = run(execution, plain, clients, rounds=1, weights=weights)
    second, _, _ = run(execution, plain, clients, rounds=2, weights=weights)
    shown, _, state = run(execution, averaged, clients, rounds=2, weights=weights)
    for number, (name, start) in enumerate(weights.items()):
        trained = np.asarray(state.global_model_weights.trainable[number])
        np.testing.assert_allclose(trained, second[name], rtol=1e-5, atol=1e-6)
        average = start + (1 - 1 / 10) * (first[name] - start)
        average += (1 - 2 / 11) * (second[name] - average)
        np.testing.assert_allclose(shown[name], average, rtol=1e-5, atol=1e-6)
        untrained = second[name] == start
        np.testing.assert_array_equal(shown[name][untrained], start[untrained])


def test_the_learning_rate_follows_the_round(execution):
    process = build_fedsup_process(
        SPACE, TRAINING, PREPROCESSING, lambda number: 0.1 / (1.0 + tf.cast(number, tf.float32))
    )
    _, metrics, _ = run(execution, process, [Client(0, SPACE.smallest(), 8)], rounds=3)
    np.testing.assert_allclose(metrics["learning_rate"], 0.1 / 3, rtol=1e-6)


@pytest.mark.slow
def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="weighting"):
        build_fedsup_process(SPACE, TRAINING, PREPROCESSING, RATE, weighting="age")
    with pytest.raises(ValueError, match="averaging"):
        build_fedsup_process(SPACE, TRAINING, PREPROCESSING, RATE, averaging=1.0)
    with pytest.raises(ValueError, match="aggregation"):
        build_fedsup_process(SPACE, TRAINING, PREPROCESSING, RATE, aggregation="median")


@pytest.mark.parametrize("aggregation", ["coverage", "8bit"])
def test_frozen_parts_stay_to_the_bit_and_are_not_sent_back(execution, aggregation):
    frozen, weights = ("stem", "b"), initial_weights()
    upload = EightBitUpload() if aggregation == "8bit" else None
    process = build_fedsup_process(
        SPACE,
        dataclasses.replace(TRAINING, frozen=frozen),
        PREPROCESSING,
        RATE,
        aggregation=OverlapMeanFactory(SUPERNET, upload=upload),
        server_optimizer=build_nesterov(0.3, 0.9),
        averaging=0.9,
    )
    found, metrics, _ = run(execution, process, cohort(), rounds=2, weights=weights)
    assert metrics["clients"] == len(cohort())
    for name, value in weights.items():
        is_kept = name.startswith(("stem/", "stem_norm/", "b_"))
        assert (found[name].tobytes() == value.tobytes()) == is_kept, name
    kept = sum(4 * value.size for name, value in weights.items() if name.startswith(("stem", "b_")))
    _, whole = traffic_counter(SUPERNET)(SPACE.largest())
    _, less = traffic_counter(SUPERNET, frozen=frozen)(SPACE.largest())
    assert kept <= whole - less < kept + 40 * len(weights)
