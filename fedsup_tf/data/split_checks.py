"""Checks that the images, labels and clients of a data set are consistent."""

from collections.abc import Mapping

from fedsup_tf.data.datasets import ImageDataset
from fedsup_tf.data.partition import ClientIndices


def check_splits(name: str, dataset: ImageDataset, clients: Mapping[str, ClientIndices]) -> None:
    """Checks the training and test splits of a data set that is divided among clients.

    Args:
      name: Name of the data set, for error messages.
      dataset: The images and labels of both splits.
      clients: Each client's examples, by client name.

    Raises:
      ValueError: If a split has an unexpected number or kind of labels, or a client has an index
        that is out of range.
    """
    for split in ("train", "test"):
        images = getattr(dataset, f"{split}_images")
        labels = getattr(dataset, f"{split}_labels")
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(
                f"Data set {name}: expected {split} labels of shape (examples,), whole numbers, "
                f"received {labels.dtype} of shape {labels.shape}. Use from_arrays, which takes "
                "labels of other kinds."
            )
        if len(images) != len(labels):
            raise ValueError(
                f"Data set {name}: expected a label for each of the {len(images)} {split} images, "
                f"received {len(labels)} labels."
            )
        classes = len(dataset.class_names)
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"Data set {name}: expected {split} labels from 0 to {classes - 1}, one of the "
                f"{classes} class names each, received {labels.min()} to {labels.max()}. Number "
                "the classes from 0, or use from_arrays, which does."
            )
        for client, examples in clients.items():
            indices = getattr(examples, split)
            if len(indices) and not 0 <= indices.min() <= indices.max() < len(labels):
                raise ValueError(
                    f"Data set {name}, client {client}: expected indices of {split} examples from "
                    f"0 to {len(labels) - 1}, received {indices.min()} to {indices.max()}."
                )
