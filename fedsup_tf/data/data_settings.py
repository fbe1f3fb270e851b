"""Settings of federated data by name: a data set and its partition, loaded again anywhere."""

import dataclasses
import os

from fedsup_tf.data.datasets import load_dataset
from fedsup_tf.data.federated_dataset import FederatedDataset

# The settings that belong to one kind of partition alone.
PARTITION_OPTIONS = {"shard": "classes_per_client", "dirichlet": "beta"}


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """A data set, and how it is divided among clients.

    Attributes:
      dataset: One of `datasets.DATASETS`.
      data_dir: The folder of the data set's official archive, or the archive itself.
      image_shape: `(height, width, channels)` to pad images to; None for the data set's own.
      partition: One of `partition.PARTITIONS`.
      clients: Number of clients.
      classes_per_client: Classes a client holds, used by `"shard"` alone.
      beta: Concentration, used by `"dirichlet"` alone.
      seed: Decides the partition.
    """

    dataset: str = "digits"
    data_dir: str | os.PathLike | None = None
    image_shape: tuple[int, int, int] | None = None
    partition: str = "shard"
    clients: int = 20
    classes_per_client: int = 5
    beta: float = 0.1
    seed: int = 0

    def load(self) -> FederatedDataset:
        """Loads the data set and divides it.

        Raises:
          DatasetError: If a file is missing, damaged or not the data set's.
          ValueError: If there is no such data set or partition.
        """
        dataset = load_dataset(self.dataset, self.data_dir, self.image_shape)
        option = PARTITION_OPTIONS.get(self.partition)
        options = {} if option is None else {option: getattr(self, option)}
        return FederatedDataset.divide(dataset, self.partition, self.clients, self.seed, **options)
