"""Counting correct answers on server and clients; law 5 (docs/laws.md): bytes of a round."""

import math

import numpy as np
import pytest
from spaces import FEWER_CHOICES as SPACE

from fedsup_tf.accuracy import build_accuracy
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.presets import fedsup_cifar
from fedsup_tf.search.costs import count_parameters
from fedsup_tf.supernet import Supernet
from tff_programs.learning.evaluation import build_federated_evaluation
from tff_programs.learning.message_size import traffic_counter
from tff_programs.simulation.clients import client_element
from tff_programs.simulation.tiers import default_tiers

PREPROCESSING = Preprocessing((4.0,), (6.0,))


def examples(number, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 17, (number, *SPACE.image_shape)).astype(np.uint8)
    return images, rng.integers(0, SPACE.classes, number).astype(np.int32)


def plain_count(supernet, architecture, images, labels, batch_size):
    correct = 0
    for begin in range(0, len(labels), batch_size):
        batch = PREPROCESSING.normalize(images[begin : begin + batch_size])
        logits = supernet(batch, architecture).numpy()
        correct += (logits.argmax(1) == labels[begin : begin + batch_size]).sum()
    return int(correct)


@pytest.mark.slow
def test_accuracy_counts_in_batches_of_the_given_size():
    supernet = Supernet(SPACE)
    images, labels = examples(11, 0)
    weights = {name: value.numpy() for name, value in supernet.weights_by_name().items()}
    accuracy = build_accuracy(supernet, PREPROCESSING)
    for architecture in (SPACE.smallest(), SPACE.largest()):
        for batch_size in (1, 4, 100):
            expected = plain_count(supernet, architecture, images, labels, batch_size)
            assert accuracy(
                weights, architecture, images, labels, batch_size
            ) * 11 == pytest.approx(expected)


def test_federated_evaluation_sums_the_clients_counts(execution):
    supernet = Supernet(SPACE)
    evaluate = build_federated_evaluation(SPACE, PREPROCESSING, 8)
    clients = [
        (SPACE.smallest(), *examples(30, 1)),
        (SPACE.largest(), *examples(41, 2)),
        (SPACE.largest(), *examples(0, 3)),
    ]
    weights = tuple(value.numpy() for value in supernet.weights_by_name().values())

    def select():
        return [
            client_element(SPACE, images, labels, architecture, number, (0, 0))
            for number, (architecture, images, labels) in enumerate(clients)
        ]

    counts = execution(lambda: evaluate(weights, select()))
    expected = sum(plain_count(supernet, *client, 8) for client in clients)
    assert expected > 0
    assert counts["correct"] == expected
    assert counts["examples"] == 71


def test_bytes_are_those_of_the_slices_and_within_a_percent_nothing_else():
    space = fedsup_cifar()
    supernet = Supernet(space)
    count = traffic_counter(supernet)
    for tier in default_tiers(space, 0):
        values = 4 * count_parameters(space, tier.architecture)
        slices = supernet.slices(tier.architecture).values()
        assert values == 4 * sum(math.prod(part.size) for part in slices)
        down, up = count(tier.architecture)
        assert values < down < up < 1.01 * values
