"""Tests that federated channel statistics equal those of own data, in exact integers."""

import numpy as np
import pytest

from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from tff_programs.learning.channel_statistics import federated_preprocessing
from tff_programs.simulation.clients import client_element

SPACE = SearchSpace(
    name="tiny",
    image_shape=(6, 5, 2),
    classes=2,
    stem_width=8,
    stem_stride=1,
    stages=(Stage("a", (8, 16), (1,), (3,), 2),),
)


def elements(data):
    return [
        client_element(SPACE, *data.train_examples(client), SPACE.smallest(), client, np.zeros(2))
        for client in range(len(data))
    ]


def test_clients_sums_give_the_normalization_of_own_data(execution):
    del execution
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 6, 5, 2), np.uint8)
    data = FederatedDataset.from_arrays(images, np.arange(40) % 2, np.repeat([0, 1, 2, 3], 10))
    assert federated_preprocessing(SPACE, elements(data), 255) == data.preprocessing
    nothing = client_element(
        SPACE, images[:0], np.zeros(0, np.int32), SPACE.smallest(), 0, np.zeros(2)
    )
    with pytest.raises(ValueError, match=r"received none\. Add training examples"):
        federated_preprocessing(SPACE, [nothing])
