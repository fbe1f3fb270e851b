"""Examples of one person: own data of a single client, or one client of a data set."""

import dataclasses
from typing import NamedTuple

import numpy as np

from fedsup_tf.data.class_labels import compose, list_names
from fedsup_tf.data.data_form import DataForm
from fedsup_tf.data.data_settings import DataSettings
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.resizing import resize_images
from tflite.format.metadata import ModelMetadata


class Examples(NamedTuple):
    """Labelled images of one person.

    Attributes:
      name: Description of the examples, for messages.
      images: `(examples, height, width, channels)`, uint8.
      labels: `(examples,)`, int32.
      test_images: Images that are never trained on, shaped like `images`.
      test_labels: Labels of `test_images`, shaped like `labels`.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def for_model(settings: DataSettings, metadata: ModelMetadata) -> DataSettings:
    """Returns the settings with the classes, image shape and preprocessing that a model expects."""
    return dataclasses.replace(
        settings,
        image_shape=settings.image_shape or metadata.space.image_shape,
        class_names=metadata.class_names,
        preprocessing=Preprocessing(**metadata.preprocessing),
    )


def check_form(data: FederatedDataset, metadata: ModelMetadata) -> None:
    """Checks that data has the classes, image shape and pixel scale of a model's training data.

    Raises:
      ValueError: If it does not.
    """
    space, preprocessing = metadata.space, Preprocessing(**metadata.preprocessing)
    form = DataForm(space.classes, space.image_shape, metadata.class_names, preprocessing)
    form.check(data.name, DataForm.of_dataset(data.dataset))


def read_examples(settings: DataSettings) -> tuple[Examples, tuple[str, ...]]:
    """Reads own data that belongs to one person.

    Args:
      settings: Settings of the data, as returned by `for_model`.

    Returns:
      The examples, and notes about data that was not used.

    Raises:
      ValueError: If there are no examples, a file is invalid, or the examples belong to several
        clients.
    """
    data = settings.load_own()
    if len(data) > 1:
        raise ValueError(
            f"Expected the examples of one person at {settings.dataset!r}, received those of "
            f"{len(data)} clients. Give --dataset={settings.dataset} --client=NAME instead."
        )
    return client_examples(data, 0, data.name), data.notes


def client_examples(data: FederatedDataset, client: int, name: str) -> Examples:
    """Returns the examples of one client.

    Args:
      data: All clients.
      client: Number of the client, from 0.
      name: Description of the examples, for messages.

    Raises:
      ValueError: If the client has no training or no test examples.
    """
    examples = Examples(name, *data.train_examples(client), *data.test_examples(client))
    if not len(examples.labels) or not len(examples.test_labels):
        raise ValueError(
            f"{name}: expected examples to train on and examples for the test, received "
            f"{len(examples.labels)} and {len(examples.test_labels)}. Add examples, or change the "
            "share that is for the test."
        )
    return examples


def at_resolution(examples: Examples, metadata: ModelMetadata) -> Examples:
    """Returns the examples, with their images resized to the resolution that a model expects."""
    height, width, _ = metadata.image_shape
    return examples._replace(
        images=resize_images(examples.images, height, width),
        test_images=resize_images(examples.test_images, height, width),
    )


def client_number(data: FederatedDataset, client: str) -> int:
    """Returns the number of a client given by its name, or by its number if names are not numbers.

    Raises:
      ValueError: If there is no such client.
    """
    client = compose(client)
    if client in data.client_names:
        return data.client_names.index(client)
    # If all names are numbers, a number that is not a name must not select another client.
    are_numbers = all(name.isdecimal() for name in data.client_names)
    if are_numbers or not client.isdecimal() or int(client) >= len(data):
        numbers = "" if are_numbers else f"a number from 0 to {len(data) - 1} or "
        raise ValueError(
            f"Expected --client as {numbers}one of the names {list_names(data.client_names)}, "
            f"received {client}. Choose one of them."
        )
    return int(client)
