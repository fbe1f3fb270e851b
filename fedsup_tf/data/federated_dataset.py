"""Federated data: named clients, each with its own training and test examples."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedsup_tf.data.array_examples import join_arrays
from fedsup_tf.data.class_labels import list_names
from fedsup_tf.data.client_data_examples import read_client_data
from fedsup_tf.data.datasets import ImageDataset
from fedsup_tf.data.own_data import check_kind, own_clients, read_own
from fedsup_tf.data.partition import NATURAL, ClientIndices, label_counts, partition
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.data.split_checks import check_splits


@dataclasses.dataclass(frozen=True)
class FederatedDataset:
    """A data set whose examples belong to clients.

    ```python
    digits = load_dataset("digits")
    federated = FederatedDataset.divide(digits, "shard", clients=20, classes_per_client=5)
    images, labels = federated.train_examples(3)
    own = FederatedDataset.from_folder("pictures", image_shape=(32, 32, 3))
    ```

    Each client's examples are indices into the arrays of one `ImageDataset`. Test examples that
    several clients share are therefore stored only once, and the same subset of the test split can
    be selected for all clients.

    Attributes:
      dataset: The arrays, class names and preprocessing.
      clients: Each client's examples, as ascending indices into the arrays.
      client_names: Name of each client; by default its number.
      reading_notes: Messages from reading the data, such as which files were not used.
      partition: The `kind` that was passed to `divide`; `"natural"` if the data was not divided.

    Raises:
      ValueError: If the arrays, clients and names are inconsistent.
    """

    dataset: ImageDataset
    clients: tuple[ClientIndices, ...]
    client_names: tuple[str, ...] = ()
    reading_notes: tuple[str, ...] = ()
    partition: str = NATURAL

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
        check_splits(self.name, self.dataset, dict(zip(names, self.clients, strict=True)))

    @classmethod
    def divide(
        cls, dataset: ImageDataset, kind: str, clients: int, seed: int = 0, **options
    ) -> "FederatedDataset":
        """Divides a centralized data set among clients.

        Args:
          dataset: The data set.
          kind: Kind of partition, one of `partition.PARTITIONS`.
          clients: Number of clients.
          seed: Seed of all random choices.
          **options: Further arguments of `partition.partition`.

        Raises:
          ValueError: If there is no such partition.
        """
        labels = (dataset.train_labels, dataset.test_labels)
        indices = partition(kind, *labels, clients, seed, **options)
        return cls(dataset, tuple(indices), partition=kind)

    @classmethod
    def from_path(
        cls,
        path: str | os.PathLike,
        *,
        image_shape: tuple[int, int, int] | None = None,
        resize: str | None = None,
        background: str | None = None,
        pixel_scale: float | None = None,
        class_names: Sequence[str] | None = None,
        preprocessing: Preprocessing | None = None,
        test_share: float = 0.2,
        seed: int = 0,
    ) -> "FederatedDataset":
        """Reads your own data: a folder of pictures, a `.csv` table of pictures or an `.npz` file.

        Files that are not pictures are skipped; `notes` counts and lists them.

        Args:
          path: Folder or table as described in `from_folder` and `from_csv`, or an `.npz` file
            whose arrays are named like the arguments of `from_arrays`.
          image_shape: Target `(height, width, channels)`; by default that of the images.
          resize: How to change the aspect ratio: `"crop"` cuts the margins off, `"fit"` pads with
            background. By default that of `preprocessing`, otherwise `"crop"`.
          background: Colour behind transparent pixels, such as `"white"` or `"#ff8000"`; by default
            that of `preprocessing`, otherwise white.
          pixel_scale: Pixel value of full brightness, such as 4095, for arrays and for pictures of
            more than 8 bits per channel; by default inferred from the data.
          class_names: Names of the allowed classes, in label order; by default each distinct label
            is a class.
          preprocessing: Normalization; by default with the mean and standard deviation of each
            channel.
          test_share: Fraction of each client's examples of each class to hold out for testing, if
            the data has no test split.
          seed: Seed of all random choices.

        Returns:
          The federated data set. It has a single client if the data names none; use `divide` on its
          `dataset` to make more.

        Raises:
          DatasetError: If the data does not exist, a class has no readable picture, or sizes differ
            and `image_shape` is not given.
        """
        form = (image_shape, resize, background, pixel_scale)
        examples = read_own(path, *form, preprocessing=preprocessing)
        return cls(*own_clients(examples, class_names, preprocessing, test_share, seed))

    @classmethod
    def from_folder(cls, path: str | os.PathLike, **options) -> "FederatedDataset":
        """Reads a folder of pictures laid out as `CLASS/PICTURE` or `CLIENT/CLASS/PICTURE`.

        Either layout may be repeated inside the two folders `train` and `test`.

        Args:
          path: The folder.
          **options: Keyword arguments of `from_path`.

        Raises:
          DatasetError: If `path` is not a folder, or for the reasons given in `from_path`.
        """
        check_kind(path, "a folder")
        return cls.from_path(path, **options)

    @classmethod
    def from_csv(cls, path: str | os.PathLike, **options) -> "FederatedDataset":
        """Reads the pictures listed in a table with a header row.

        Args:
          path: A `.csv` file with the columns `path` and `label`, and optionally `client` and
            `split` (`train` or `test`). Picture paths are relative to the table's folder.
          **options: Keyword arguments of `from_path`.

        Raises:
          DatasetError: If the file is not such a table, or for the reasons given in `from_path`.
        """
        check_kind(path, "a .csv table")
        return cls.from_path(path, **options)

    @classmethod
    def from_arrays(
        cls,
        images: np.ndarray,
        labels: np.ndarray,
        clients: np.ndarray | None = None,
        *,
        test_images: np.ndarray | None = None,
        test_labels: np.ndarray | None = None,
        test_clients: np.ndarray | None = None,
        name: str = "arrays",
        pixel_scale: float | None = None,
        class_names: Sequence[str] | None = None,
        preprocessing: Preprocessing | None = None,
        test_share: float = 0.2,
        seed: int = 0,
    ) -> "FederatedDataset":
        """Makes a data set from arrays.

        Args:
          images: `(examples, height, width, channels)` or `(examples, height, width)`; uint8,
            16-bit integers, or fractions from 0 to 1.
          labels: `(examples,)`, any integers or class names.
          clients: `(examples,)`, number or name of each example's client; by default all examples
            belong to a single client.
          test_images: Test images, shaped like `images`; by default `test_share` of each client's
            examples are held out.
          test_labels: Labels of the test images.
          test_clients: Clients of the test images; by default each client is given test examples
            with the class frequencies of its training examples.
          name: Name of the data set.
          pixel_scale: See `from_path`.
          class_names: See `from_path`.
          preprocessing: See `from_path`.
          test_share: See `from_path`.
          seed: See `from_path`.

        Raises:
          DatasetError: If an array is empty, or has an unexpected shape or type.

        Example:
          >>> import numpy as np
          >>> from fedsup_tf import FederatedDataset
          >>> images = np.arange(10 * 4 * 4).reshape(10, 4, 4).astype(np.uint8)
          >>> labels = np.array(["cat", "dog"] * 5)
          >>> data = FederatedDataset.from_arrays(images, labels, clients=[7] * 5 + [8] * 5)
          >>> data.client_names, data.class_names, data.image_shape, data.train_sizes
          (('7', '8'), ('cat', 'dog'), (4, 4, 1), (4, 4))
        """
        given = {
            "images": images,
            "labels": labels,
            "clients": clients,
            "test_images": test_images,
            "test_labels": test_labels,
            "test_clients": test_clients,
        }
        arrays = {key: values for key, values in given.items() if values is not None}
        examples = join_arrays(f"Data set {name}", name, arrays, pixel_scale=pixel_scale)
        return cls(*own_clients(examples, class_names, preprocessing, test_share, seed))

    @classmethod
    def from_tff(
        cls,
        train: Any,
        test: Any | None = None,
        *,
        image: str | None = None,
        label: str | None = None,
        client_ids: Sequence[str] | None = None,
        name: str = "tff",
        pixel_scale: float | None = None,
        class_names: Sequence[str] | None = None,
        preprocessing: Preprocessing | None = None,
        test_share: float = 0.2,
        seed: int = 0,
    ) -> "FederatedDataset":
        """Reads the clients of a `tff.simulation.datasets.ClientData`.

        Args:
          train: Training split, such as TFF's EMNIST or CIFAR-100, or a result of
            `ClientData.from_clients_and_tf_fn`.
          test: Test split, with the same client names; by default `test_share` of each client's
            examples are held out.
          image: Element field with the image; by default the one with a common name, such as
            `"pixels"` or `"image"`.
          label: Element field with the label; by default the one with a common name, such as
            `"label"`.
          client_ids: Clients to read; by default all clients of `train`.
          name: Name of the data set.
          pixel_scale: See `from_path`.
          class_names: See `from_path`.
          preprocessing: See `from_path`.
          test_share: See `from_path`.
          seed: See `from_path`.

        Raises:
          DatasetError: If a client does not exist, elements have no image or label, or the images
            take too much memory.
        """
        examples = read_client_data(name, train, test, image, label, client_ids, pixel_scale)
        return cls(*own_clients(examples, class_names, preprocessing, test_share, seed))

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

    def complete(self) -> "FederatedDataset":
        """Keeps the clients that have training and test examples; a note lists the others.

        Raises:
          ValueError: If there is no such client.
        """
        sizes = zip(self.train_sizes, self.test_sizes, strict=True)
        return self._with(
            [all(parts) for parts in sizes],
            "without training or test examples",
            f"with training and test examples, received {len(self)} clients of which none has "
            "both. Keep incomplete clients.",
        )

    def trainable(self) -> "FederatedDataset":
        """Keeps the clients that have training examples; a note lists the others.

        Raises:
          ValueError: If there is no such client.
        """
        return self._with(
            [size > 0 for size in self.train_sizes],
            "without training examples",
            f"with training examples, received {len(self)} without. Add examples.",
        )

    def _with(self, are_kept: Sequence[bool], lack: str, expected: str) -> "FederatedDataset":
        """Keeps a subset of the clients, and lists the others and what they lack in a note."""
        if all(are_kept):
            return self
        if not any(are_kept):
            raise ValueError(f"Data set {self.name}: expected clients {expected}")
        kept = np.flatnonzero(are_kept).tolist()
        left_out = [
            self.client_names[number] for number in np.flatnonzero(np.logical_not(are_kept))
        ]
        verb = "is" if len(left_out) == 1 else "are"
        note = (
            f"{len(left_out):,} of {len(self):,} clients {verb} left out, {lack}: "
            f"{list_names(left_out)}."
        )
        return dataclasses.replace(
            self,
            clients=tuple(self.clients[number] for number in kept),
            client_names=tuple(self.client_names[number] for number in kept),
            reading_notes=(*self.reading_notes, note),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages from reading the data, and about clients without training or test examples."""
        notes = self.reading_notes
        for part, sizes in (("training", self.train_sizes), ("test", self.test_sizes)):
            without = [
                name for name, size in zip(self.client_names, sizes, strict=True) if not size
            ]
            if without:
                verb = "has" if len(without) == 1 else "have"
                notes += (
                    f"{len(without):,} of {len(self):,} clients {verb} no {part} examples: "
                    f"{list_names(without)}.",
                )
        return notes

    def fingerprint(self) -> str:
        """Returns the SHA-256 of images, labels and clients as 64 hexadecimal digits."""
        digest = hashlib.sha256(repr((self.class_names, self.client_names)).encode())
        dataset = self.dataset
        arrays = [dataset.train_images, dataset.train_labels, dataset.test_images]
        arrays += [dataset.test_labels, *(part for client in self.clients for part in client)]
        for values in arrays:
            digest.update(f"{values.dtype.name} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values))
        return digest.hexdigest()

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
          is_chosen: Mask over the whole test split, `(examples,)`, bool; the client's examples
            outside it are left out. By default all are returned.

        Returns:
          Images `(examples, height, width, channels)`, uint8, and labels `(examples,)`, int32.
        """
        indices = self.clients[client].test
        if is_chosen is not None:
            indices = indices[is_chosen[indices]]
        return self.dataset.test_images[indices], self.dataset.test_labels[indices]
