"""Federated data: named clients, each with its own training and test examples."""

import dataclasses
import functools

import numpy as np

from fedsup_tf.data.datasets import ImageDataset
from fedsup_tf.data.partition import ClientIndices, label_counts, partition
from fedsup_tf.data.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class FederatedDataset:
    """A data set whose examples belong to clients.

    ```python
    digits = load_dataset("digits")
    federated = FederatedDataset.divide(digits, "shard", clients=20, classes_per_client=5)
    images, labels = federated.train_examples(3)
    ```

    Clients' examples are indices into the arrays of one `ImageDataset`, so that test examples that
    several clients share are stored once, and a subset of the test part can be taken from all of
    them alike.

    Attributes:
      dataset: The arrays, class names and preprocessing.
      clients: Each client's examples, as rising indices into the arrays.
      client_names: A name for each client; by default its number.

    Raises:
      ValueError: If the arrays, clients or names do not belong together.
    """

    dataset: ImageDataset
    clients: tuple[ClientIndices, ...]
    client_names: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "clients", tuple(self.clients))
        names = tuple(self.client_names) or tuple(str(n) for n in range(len(self.clients)))
        object.__setattr__(self, "client_names", names)
        if not self.clients:
            raise ValueError(f"Data set {self.name}: expected at least one client, received none.")
        if len(names) != len(self.clients) or len(set(names)) != len(names):
            raise ValueError(
                f"Data set {self.name}: expected a name of its own for each of the "
                f"{len(self.clients)} clients, received {len(names)} names, {len(set(names))} of "
                "them different."
            )
        for split in ("train", "test"):
            self._check_split(split)

    @classmethod
    def divide(
        cls, dataset: ImageDataset, kind: str, clients: int, seed: int = 0, **options
    ) -> "FederatedDataset":
        """Divides a central data set among clients.

        Args:
          dataset: The data set.
          kind: One of `partition.PARTITIONS`.
          clients: Number of clients.
          seed: Decides everything that is random.
          **options: Of the kind of partition, see `partition.partition`.

        Raises:
          ValueError: If there is no such partition.
        """
        labels = (dataset.train_labels, dataset.test_labels)
        return cls(dataset, tuple(partition(kind, *labels, clients, seed, **options)))

    def __len__(self) -> int:
        """Returns the number of clients."""
        return len(self.clients)

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.dataset.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each label."""
        return self.dataset.class_names

    @property
    def preprocessing(self) -> Preprocessing:
        """Normalization of the images and augmentation of training images."""
        return self.dataset.preprocessing

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)` of every image."""
        return tuple(self.dataset.train_images.shape[1:])

    @functools.cached_property
    def train_sizes(self) -> tuple[int, ...]:
        """Number of training examples of each client."""
        return tuple(len(client.train) for client in self.clients)

    @functools.cached_property
    def test_sizes(self) -> tuple[int, ...]:
        """Number of test examples of each client."""
        return tuple(len(client.test) for client in self.clients)

    def label_counts(self) -> np.ndarray:
        """Counts each client's training examples of each class, int64 `(clients, classes)`."""
        return label_counts(self.clients, self.dataset.train_labels, len(self.class_names))

    def train_examples(self, client: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns a client's training images and labels.

        Args:
          client: The client's number, from 0.

        Returns:
          Images `(examples, height, width, channels)`, uint8, and labels `(examples,)`, int32.
        """
        indices = self.clients[client].train
        return self.dataset.train_images[indices], self.dataset.train_labels[indices]

    def test_examples(
        self, client: int, is_chosen: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns a client's test images and labels.

        Args:
          client: The client's number, from 0.
          is_chosen: `(examples,)`, bool, over the whole test part: which examples may be taken.

        Returns:
          Images `(examples, height, width, channels)`, uint8, and labels `(examples,)`, int32.
        """
        indices = self.clients[client].test
        if is_chosen is not None:
            indices = indices[is_chosen[indices]]
        return self.dataset.test_images[indices], self.dataset.test_labels[indices]

    def _check_split(self, split: str) -> None:
        images = getattr(self.dataset, f"{split}_images")
        labels = getattr(self.dataset, f"{split}_labels")
        if len(images) != len(labels):
            raise ValueError(
                f"Data set {self.name}: expected a label for each of the {len(images)} {split} "
                f"images, received {len(labels)} labels."
            )
        classes = len(self.class_names)
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"Data set {self.name}: expected {split} labels from 0 to {classes - 1}, one of "
                f"the {classes} class names each, received {labels.min()} to {labels.max()}. "
                "Number the classes from 0."
            )
        for name, client in zip(self.client_names, self.clients, strict=True):
            indices = getattr(client, split)
            if len(indices) and not 0 <= indices.min() <= indices.max() < len(labels):
                raise ValueError(
                    f"Data set {self.name}, client {name}: expected indices of {split} examples "
                    f"from 0 to {len(labels) - 1}, received {indices.min()} to {indices.max()}."
                )
