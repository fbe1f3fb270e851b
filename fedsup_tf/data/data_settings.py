"""Reproducible settings of federated data: a data set and its partition among clients."""

import dataclasses
import os

import numpy as np

from fedsup_tf.data.datasets import DATASETS, DatasetError, load_dataset
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.data.partition import NATURAL, PARTITIONS
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.validation import check_choice

INCOMPLETE_CLIENTS = ("keep", "leave_out")
# Default number of clients, and minimum number of examples per client if the default is too many.
DEFAULT_CLIENTS, _MIN_EXAMPLES = 20, 10
# Kinds of partition that use each of the settings that not all kinds use.
PARTITION_OPTIONS = {
    "clients": PARTITIONS,
    "classes_per_client": ("shard",),
    "beta": ("dirichlet",),
    "quantity": PARTITIONS,
}


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """A data set and its partition among clients.

    Attributes:
      dataset: One of `datasets.DATASETS`, or the path of your own data: a folder of pictures, a
        `.csv` table of pictures or an `.npz` file, see `FederatedDataset.from_path`.
      data_dir: Folder of the data set's official archive, or the archive itself; None for the
        default of `load_dataset`.
      image_shape: `(height, width, channels)` to pad images to, or to scale your own pictures to;
        None for the data set's own.
      partition: `"natural"` for the clients of your own data, or one of `partition.PARTITIONS`.
        None for natural if the data has several clients, otherwise shard.
      clients: Number of clients, not used by the natural partition. None for 20, or fewer if the
        data has too few examples.
      classes_per_client: Number of classes per client, used only by `"shard"`.
      beta: Concentration of the Dirichlet distribution, used only by `"dirichlet"`.
      quantity: Unevenness of the clients' numbers of examples, see `partition.partition`.
      incomplete_clients: `"keep"` or `"leave_out"` clients without training or test examples.
      seed: Seed of the partition and of held-out test examples.
      resize: How to change the aspect ratio of your own pictures, `"crop"` or `"fit"`; None for
        that of `preprocessing`, otherwise crop.
      background: Colour behind transparent pixels of your own pictures; None for that of
        `preprocessing`, otherwise white.
      pixel_scale: Pixel value of full brightness, for your own arrays and for your own pictures of
        more than 8 bits per channel; None to infer it from the data.
      test_share: Fraction of your own data to hold out for testing, if it has no test split.
      class_names: Names of the classes allowed in your own data, usually those of a model.
      preprocessing: Normalization of your own images, usually that of a model.
    """

    dataset: str = "digits"
    data_dir: str | os.PathLike | None = None
    image_shape: tuple[int, int, int] | None = None
    partition: str | None = None
    clients: int | None = None
    classes_per_client: int = 5
    beta: float = 0.1
    quantity: float = 0.0
    incomplete_clients: str = "keep"
    seed: int = 0
    resize: str | None = None
    background: str | None = None
    pixel_scale: float | None = None
    test_share: float = 0.2
    class_names: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None

    @property
    def is_own(self) -> bool:
        """True if `dataset` is the path of your own data."""
        return self.dataset not in DATASETS

    def load(self) -> FederatedDataset:
        """Loads the data set and divides it.

        Raises:
          DatasetError: If a file is missing, damaged or does not belong to the data set.
          ValueError: If there is no such data set or partition.
        """
        check_choice(self.incomplete_clients, "incomplete_clients", INCOMPLETE_CLIENTS)
        is_path = self.is_own and "://" not in self.dataset
        if is_path and not os.path.exists(os.path.expanduser(self.dataset)):
            raise DatasetError(
                f"{self.dataset!r}: expected one of {', '.join(DATASETS)}, or a path of own data, "
                "found nothing there. Check the name or the path."
            )
        data = self._load_all()
        return data.complete() if self.incomplete_clients == "leave_out" else data

    def _load_all(self) -> FederatedDataset:
        own = self.load_own() if self.is_own else None
        kind = self.partition or (NATURAL if own is not None and len(own) > 1 else "shard")
        if kind == NATURAL:
            if own is None or len(own) < 2:
                raise ValueError(
                    f"Expected data with clients for the natural partition, received "
                    f"{self.dataset!r}, which has {_only_client(own) or 'none'}. Choose another "
                    "partition, such as iid."
                )
            return own
        if own is None:
            dataset, notes = load_dataset(self.dataset, self.data_dir, self.image_shape), ()
            if os.path.isdir(self.dataset):
                notes = (
                    f"{self.dataset} is the data set of that name: for the folder, give "
                    f"{os.path.join('.', self.dataset)}.",
                )
        else:
            dataset, notes = own.dataset, own.reading_notes
            if self.partition is None and _only_client(own):
                notes += (f"The data has {_only_client(own)}: its examples are divided anew.",)
            if not len(dataset.test_labels):
                raise ValueError(
                    f"{self.dataset!r}: expected test examples, or classes of at least two "
                    f"examples to set some aside, received {len(dataset.train_labels):,} training "
                    "examples, each the only one of its class. Add examples."
                )
        options = {
            name: getattr(self, name) for name, kinds in PARTITION_OPTIONS.items() if kind in kinds
        }
        if self.clients is None:
            count = options["clients"] = self.fitting_clients(dataset.train_labels, kind)
            if kind == "shard":
                # A small data set cannot be cut into that many shards, but each class needs one.
                shards = len(dataset.train_labels) // count
                fewest = -(-len(np.unique(dataset.train_labels)) // count)
                options["classes_per_client"] = max(min(self.classes_per_client, shards), fewest)
            if count != DEFAULT_CLIENTS:
                noun = "client" if count == 1 else "clients"
                notes += (
                    f"{len(dataset.train_labels):,} training examples are divided among {count} "
                    f"{noun}: give clients for another number.",
                )
        divided = FederatedDataset.divide(dataset, kind, seed=self.seed, **options)
        return dataclasses.replace(divided, reading_notes=notes)

    def fitting_clients(self, labels: np.ndarray, kind: str) -> int:
        """Returns the default number of clients for training labels and a kind of partition."""
        shards = self.classes_per_client if kind == "shard" else 1
        # Each class needs at least one shard.
        fewest = -(-len(np.unique(labels)) // shards) if kind == "shard" else 1
        wanted = max(DEFAULT_CLIENTS, fewest)
        if len(labels) >= wanted * shards:
            return wanted
        if fewest * shards > len(labels):
            return 1
        return max(fewest, len(labels) // max(_MIN_EXAMPLES, shards), 1)

    def load_own(self) -> FederatedDataset:
        """Loads your own data with its own clients (one if it has none), ignoring `partition`.

        Raises:
          DatasetError: If the data does not exist or cannot be read.
          ValueError: If a label is not one of `class_names`.
        """
        return FederatedDataset.from_path(
            self.dataset,
            image_shape=self.image_shape,
            resize=self.resize,
            background=self.background,
            pixel_scale=self.pixel_scale,
            class_names=self.class_names,
            preprocessing=self.preprocessing,
            test_share=self.test_share,
            seed=self.seed,
        )


def _only_client(own: FederatedDataset | None) -> str:
    """Returns the single client of your own data in words; `""` if the data names no client."""
    is_named = own is not None and own.client_names != ("0",)
    return f"one client, {own.client_names[0]}" if is_named else ""
