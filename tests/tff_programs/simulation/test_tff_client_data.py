"""Tests of converting TFF client data to federated datasets and back, with TFF's classes."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.data import client_data_examples
from fedsup_tf.data.datasets import DatasetError, load_dataset
from fedsup_tf.data.federated_dataset import FederatedDataset
from tff_programs.simulation.tff_client_data import to_client_data

ClientData = tff.simulation.datasets.ClientData
DIGITS = FederatedDataset.divide(load_dataset("digits"), "iid", clients=3, seed=0)


def assert_same_examples(ours, theirs):
    assert ours.client_names == theirs.client_names
    assert ours.class_names == theirs.class_names
    for client in range(len(ours)):
        for part in ("train_examples", "test_examples"):
            for mine, other in zip(
                getattr(ours, part)(client), getattr(theirs, part)(client), strict=True
            ):
                np.testing.assert_array_equal(mine, other)


@pytest.mark.slow
def test_ours_becomes_theirs_and_comes_back():
    train, test = (to_client_data(DIGITS, part) for part in ("train", "test"))
    assert train.client_ids == ["0", "1", "2"]
    assert train.element_type_structure["image"].shape == (8, 8, 1)
    assert_same_examples(DIGITS, FederatedDataset.from_tff(train, test))
    # In a graph, as in TFF's computations.
    count = tf.function(lambda name: train.serializable_dataset_fn(name).cardinality())
    assert int(count(tf.constant("2"))) == DIGITS.train_sizes[2]
    merged = train.create_tf_dataset_from_all_clients()
    assert sum(1 for _ in merged) == len(DIGITS.dataset.train_labels)
    halved = train.preprocess(lambda dataset: dataset.take(2).batch(2))
    assert FederatedDataset.from_tff(halved, test).train_sizes == (2, 2, 2)
    with pytest.raises(ValueError, match="part to be one of train, test"):
        to_client_data(DIGITS, "val")


def test_clients_without_training_examples_are_told():
    def numbered(count):
        image = tf.zeros((8, 8, 1), tf.uint8)
        return tf.data.Dataset.range(count).map(
            lambda number: (image + tf.cast(number, tf.uint8), 0)
        )

    def of(*names):
        counts = tf.strings.to_number
        return ClientData.from_clients_and_tf_fn(
            names, lambda name: numbered(tf.cast(counts(name), tf.int64))
        )

    data = FederatedDataset.from_tff(of("0", "3", "4"), of("3", "4", "5"))
    assert data.client_names == ("3", "4")
    assert data.notes[-2:] == (
        "1 of 3 clients has no training examples: 0.",
        "Clients of the test part that are not read, since they are none of the training part's: "
        "5.",
    )


def test_clients_that_are_chosen_are_clients_of_the_data():
    train = to_client_data(DIGITS, "train")
    twice = FederatedDataset.from_tff(train, client_ids=["1", 1])
    assert len(twice.dataset.train_labels) + len(twice.dataset.test_labels) == DIGITS.train_sizes[1]
    others = ClientData.from_clients_and_tf_fn(["x"], train.serializable_dataset_fn)
    for arguments, options, told in (
        ((train,), {"client_ids": ["0", "9"]}, "of the 3 clients 0, 1, 2, received 9. Choose"),
        ((train, others), {}, "clients of the training part, 0, 1, 2, received x. Name them"),
        (({"0": 1},), {}, "expected a tff.simulation.datasets.ClientData, received dict. Make"),
    ):
        with pytest.raises(DatasetError, match=told):
            FederatedDataset.from_tff(*arguments, **options)


def test_clients_without_end_or_examples_are_refused():
    train = to_client_data(DIGITS, "train")
    for parts, told in (
        ((train.preprocess(lambda dataset: dataset.repeat().batch(2)),), "an end from client 0"),
        ((train, train.preprocess(lambda dataset: dataset.take(0))), "test part: .* received none"),
    ):
        with pytest.raises(DatasetError, match=told):
            FederatedDataset.from_tff(*parts)


def test_the_scale_of_a_clients_pixels_can_be_given():
    fractions = from_elements(
        lambda number: (tf.fill((2, 2), tf.cast(number, tf.float32) * 25 + 0.5), number % 2)
    )
    with pytest.raises(DatasetError, match="Give the value of full brightness as pixel_scale"):
        FederatedDataset.from_tff(fractions)
    data = FederatedDataset.from_tff(fractions, pixel_scale=127.5)
    brightest = max(data.dataset.train_images.max(), data.dataset.test_images.max())
    assert brightest == round(125.5 * 2)


@pytest.mark.slow
def test_a_sql_file_becomes_ours(tmp_path):
    path = str(tmp_path / "digits.sqlite")
    parts = ("train", "test")
    for part in parts:
        tff.simulation.datasets.save_to_sql_client_data(
            DIGITS.client_names,
            to_client_data(DIGITS, part).create_tf_dataset_for_client,
            f"{path}.{part}",
        )
    spec = collections.OrderedDict(
        image=tf.TensorSpec((8, 8, 1), tf.uint8), label=tf.TensorSpec((), tf.int32)
    )
    train, test = (
        tff.simulation.datasets.load_and_parse_sql_client_data(f"{path}.{part}", spec)
        for part in parts
    )
    assert_same_examples(DIGITS, FederatedDataset.from_tff(train, test))


def test_the_emnist_of_tff_becomes_ours():
    emnist = tff.simulation.datasets.emnist.get_synthetic()
    data = FederatedDataset.from_tff(emnist, name="emnist", test_share=0.5)
    assert data.image_shape == (28, 28, 1)
    assert data.class_names == tuple("0123456789")
    assert data.client_names == tuple(emnist.client_ids)
    # Each image is in exactly one of the parts.
    for number, client in enumerate(data.client_names):
        elements = emnist.create_tf_dataset_for_client(client).as_numpy_iterator()
        expected = [np.rint(element["pixels"] * 255).astype(np.uint8) for element in elements]
        parts = [getattr(data, part)(number)[0] for part in ("train_examples", "test_examples")]
        own = np.concatenate(parts)
        assert sorted(map(bytes, own)) == sorted(map(bytes, expected))
    assert data.preprocessing.greatest_pixel == 255


def from_elements(make, clients=("a", "b")):
    return ClientData.from_clients_and_tf_fn(
        clients, lambda client: tf.data.Dataset.range(6).map(make)
    )


def test_pairs_texts_and_other_fields_become_ours():
    image = lambda number: tf.fill((2, 2), tf.cast(number, tf.uint8))
    names = tf.constant(["cat", "dog"])
    pairs = from_elements(lambda number: (image(number), names[number % 2]))
    data = FederatedDataset.from_tff(pairs, client_ids=["b"])
    assert (data.client_names, data.class_names) == (("b",), ("cat", "dog"))
    fields = from_elements(lambda number: {"mine": image(number), "fine": number, "coarse": 1})
    data = FederatedDataset.from_tff(fields, image="mine", label="fine")
    assert len(data.class_names) == 6
    # A label in a list of one is not a batch.
    listed = from_elements(lambda number: (image(number), tf.reshape(number, (1,))))
    data = FederatedDataset.from_tff(listed)
    assert data.image_shape == (2, 2, 1)
    assert len(data.class_names) == 6


@pytest.mark.parametrize(
    ("make", "options", "told"),
    [
        (lambda n: {"photo": tf.zeros((2, 2)), "label": n}, {}, "a field as image.*label, photo"),
        (lambda n: {"x": tf.zeros((2, 2)), "y": n}, {"label": "z"}, "as label.*received z"),
        (lambda n: (tf.zeros(784), n), {}, "shape .height, width.*received TensorSpec"),
        (lambda n: n, {}, "elements of an image and a label"),
        # One value per class is not a batch of labels, whatever the number of classes is.
        (lambda n: (tf.zeros((8, 8, 1)), tf.one_hot(n, 2)), {}, "a value for each class. Make"),
        (lambda n: (tf.zeros((8, 8, 1)), tf.one_hot(n, 8)), {}, "a value for each class. Make"),
        (lambda n: (tf.zeros((8, 8)), tf.one_hot(n, 3)), {}, "a value for each class. Make"),
        (lambda n: (tf.zeros((n + 1, 2)), n), {}, "images of one shape from client a"),
        (lambda n: (tf.zeros((2, 2)), n), {"client_ids": []}, "one client, received none"),
        (lambda n: ({"x": tf.zeros((2, 2))}, n), {}, "one image and one label in each element"),
        # Images stay as large as they are until their scale is known.
        (lambda n: (tf.zeros((5, 5)), n), {}, "at most 500 bytes of images.*more by client a"),
    ],
)
def test_elements_that_are_no_labelled_images_are_refused(make, options, told, monkeypatch):
    monkeypatch.setattr(client_data_examples, "MAX_IMAGE_BYTES", 500)
    with pytest.raises(DatasetError, match=told) as error:
        FederatedDataset.from_tff(from_elements(make), **options)
    assert "\n" not in str(error.value)
