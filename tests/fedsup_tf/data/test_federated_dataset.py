"""Tests of federated datasets: each client's own examples, and inconsistent data refused."""

import numpy as np
import pytest

from fedsup_tf.data.data_settings import DataSettings
from fedsup_tf.data.datasets import ImageDataset, load_dataset
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.data.partition import ClientIndices, partition
from fedsup_tf.data.preprocessing import Preprocessing

DIGITS = load_dataset("digits")
INDICES = partition("shard", DIGITS.train_labels, DIGITS.test_labels, 6, 3, classes_per_client=5)
FEDERATED = FederatedDataset.divide(DIGITS, "shard", clients=6, seed=3, classes_per_client=5)


def small(labels, clients, names=()):
    labels = np.array(labels, np.int32)
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    dataset = ImageDataset(
        "small", images, labels, images, labels, ("a", "b"), Preprocessing((0.0,), (1.0,))
    )
    indices = tuple(ClientIndices(np.array(c, int), np.array(c, int)) for c in clients)
    return FederatedDataset(dataset, indices, names)


def test_each_client_has_its_own_examples():
    assert len(FEDERATED) == 6
    assert FEDERATED.client_names == ("0", "1", "2", "3", "4", "5")
    assert FEDERATED.image_shape == (8, 8, 1)
    assert FEDERATED.class_names == DIGITS.class_names
    for client, own in enumerate(INDICES):
        images, labels = FEDERATED.train_examples(client)
        np.testing.assert_array_equal(images, DIGITS.train_images[own.train])
        np.testing.assert_array_equal(labels, DIGITS.train_labels[own.train])
        images, labels = FEDERATED.test_examples(client)
        np.testing.assert_array_equal(images, DIGITS.test_images[own.test])
        assert FEDERATED.train_sizes[client] == len(own.train)
        assert FEDERATED.test_sizes[client] == len(labels) == len(own.test)
    assert FEDERATED.label_counts().sum() == len(DIGITS.train_labels)


def test_a_part_of_the_test_examples_is_taken_from_all_clients_alike():
    is_even = np.arange(len(DIGITS.test_labels)) % 2 == 0
    for client, own in enumerate(INDICES):
        _, labels = FEDERATED.test_examples(client, is_even)
        np.testing.assert_array_equal(labels, DIGITS.test_labels[own.test[own.test % 2 == 0]])


def test_settings_load_the_same_clients_and_ignore_what_their_partition_does_not_use():
    settings = DataSettings(clients=6, seed=3, beta=-1.0)
    for ours, theirs in zip(settings.load().clients, INDICES, strict=True):
        np.testing.assert_array_equal(ours.train, theirs.train)
        np.testing.assert_array_equal(ours.test, theirs.test)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda labels: labels + 1,
            "expected train labels from 0 to 9.*received 1 to 10.*from_arrays",
        ),
        (lambda labels: labels[:, np.newaxis], r"received int32 of shape \(1438, 1\)"),
        (lambda labels: labels.astype(float), r"received float64 of shape \(1438,\)"),
        (lambda labels: labels.astype(str), "received <U"),
    ],
)
def test_labels_outside_of_the_classes_never_reach_a_training(change, told):
    dataset = DIGITS._replace(train_labels=change(DIGITS.train_labels))
    with pytest.raises(ValueError, match=told):
        FederatedDataset(dataset, tuple(INDICES))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (([0, 2], [[0], [1]]), "expected train labels from 0 to 1.*received 0 to 2"),
        (([-1, 0], [[0], [1]]), "received -1 to 0"),
        (([0, 1], [[0], [2]]), "client 1: expected indices of train examples from 0 to 1"),
        (([0, 1], []), "at least one client"),
        (([0, 1], [[0], [1]], ("x", "x")), "received 2 names, 1 of them different"),
        (([0, 1], [[0], [1]], ("x",)), "received 1 names"),
    ],
)
def test_what_does_not_belong_together_is_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        small(*arguments)
