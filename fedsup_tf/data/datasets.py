"""Loads image data sets into memory as raw uint8 pixels."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedsup_tf.data import archives, idx_files
from fedsup_tf.data.archives import DatasetError, Splits
from fedsup_tf.data.examples import MAX_IMAGE_BYTES
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.validation import check_choice

__all__ = ["DATASETS", "DatasetError", "ImageDataset", "load_dataset"]

# Installed by Debian's package dataset-fashion-mnist.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


class ImageDataset(NamedTuple):
    """Labelled images in memory.

    Attributes:
      name: Name of the data set: one of `DATASETS`, or that of your own data.
      train_images: Images of the training split, `(examples, height, width, channels)`, uint8.
      train_labels: Labels of the training split, `(examples,)`, int32.
      test_images: Images of the test split, `(examples, height, width, channels)`, uint8.
      test_labels: Labels of the test split, `(examples,)`, int32.
      class_names: Name of each label.
      preprocessing: The data set's normalization and usual augmentation.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    preprocessing: Preprocessing


def load_dataset(
    name: str,
    data_dir: str | os.PathLike | None = None,
    image_shape: Sequence[int] | None = None,
) -> ImageDataset:
    """Loads a data set into memory.

    Args:
      name: Name of the data set, one of `DATASETS`. `"digits"` comes with scikit-learn and needs
        no files.
      data_dir: Folder that contains the official archive, its extracted folder, or the archive
        itself. By default Fashion-MNIST is read from Debian's package if that is installed;
        otherwise the archive is downloaded into Keras's cache.
      image_shape: Target `(height, width, channels)`: smaller images are padded with zeros on all
        sides, and a grey channel is repeated 3 times. By default the data set's own shape.

    Returns:
      The data set; its preprocessing has the constants of the unpadded images.

    Raises:
      DatasetError: If a file is missing, damaged or does not belong to the data set.
      ValueError: If the name is unknown, or the images do not fit the shape.

    Example:
      >>> from fedsup_tf import load_dataset
      >>> dataset = load_dataset("digits", image_shape=(16, 16, 1))
      >>> dataset.train_images.shape
      (1438, 16, 16, 1)
    """
    check_choice(name, "the name of a data set", DATASETS)
    source = _SOURCES[name]
    splits, class_names = source.load(None if data_dir is None else _existing(data_dir))
    preprocessing = source.preprocessing
    if image_shape is not None:
        image_shape = _checked_shape(name, splits.train_images.shape[1:], image_shape)
        splits = splits._replace(
            train_images=_pad_images(splits.train_images, image_shape),
            test_images=_pad_images(splits.test_images, image_shape),
        )
        repeats = image_shape[2] // len(preprocessing.mean)
        preprocessing = dataclasses.replace(
            preprocessing,
            mean=preprocessing.mean * repeats,
            standard_deviation=preprocessing.standard_deviation * repeats,
        )
    return ImageDataset(name, *splits, class_names, preprocessing)


def _checked_shape(name: str, own: tuple[int, ...], wanted: Sequence[int]) -> tuple[int, int, int]:
    wanted = tuple(int(size) for size in wanted)
    fits = len(wanted) == 3 and wanted[0] >= own[0] and wanted[1] >= own[1]
    if not fits or wanted[2] not in {own[2], 3}:
        channels = "1 or 3 channels" if own[2] == 1 else f"{own[2]} channels"
        raise ValueError(
            f"Data set {name}: expected an image shape (height, width, channels) of at least "
            f"{own[0]} x {own[1]} with {channels}, received {wanted}. Images are padded, never "
            "scaled or cut: ask for a shape they fit in."
        )
    return wanted


def _pad_images(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Pads images with zeros on all sides, and repeats a single channel."""
    room = len(images) * math.prod(shape)
    if room > MAX_IMAGE_BYTES:
        raise ValueError(
            f"Expected at most {MAX_IMAGE_BYTES:,} bytes of pixels, received {len(images):,} "
            f"images of shape {shape}. Give a smaller image shape."
        )
    height, width = images.shape[1:3]
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    placed = np.zeros((len(images), *shape), images.dtype)
    placed[:, top : top + height, left : left + width] = images
    return placed


def _load_digits(data_dir: Path | None) -> tuple[Splits, tuple[str, ...]]:
    """Loads 1,797 handwritten digits, pixels 0 to 16; every fifth of a class is a test example."""
    del data_dir  # scikit-learn includes the digits.
    from sklearn import datasets as sklearn_datasets

    digits = sklearn_datasets.load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.int32)
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        # Starting from the third gives 359 of 1,797 test examples: 20%.
        is_test[np.flatnonzero(labels == label)[2::5]] = True
    splits = Splits(images[~is_test], labels[~is_test], images[is_test], labels[is_test])
    return splits, tuple(str(label) for label in range(10))


def _load_fashion_mnist(data_dir: Path | None) -> tuple[Splits, tuple[str, ...]]:
    names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    if data_dir is None and DEBIAN_FASHION_MNIST.is_dir():
        data_dir = DEBIAN_FASHION_MNIST
    if data_dir is not None:
        return idx_files.read_idx_folder(data_dir), names
    arrays = []
    for images, labels in _download("fashion_mnist", _keras().datasets.fashion_mnist.load_data):
        images = images[..., np.newaxis]
        arrays += archives.check_split("fashion_mnist", images, labels, classes=10)
    return Splits(*arrays), names


def _load_cifar(layout: archives.CifarLayout, data_dir: Path | None):
    path = data_dir or _download_file(layout.url, layout.md5)
    return archives.read_cifar(path, layout)


def _load_pathmnist(data_dir: Path | None) -> tuple[Splits, tuple[str, ...]]:
    names = (
        "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle",
        "normal colon mucosa", "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
    )  # fmt: skip
    url = "https://zenodo.org/records/10519652/files/pathmnist.npz"
    path = data_dir or _download_file(url, md5="a8b06965200029087d5bd730944a56c1")
    return archives.read_medmnist(path, "pathmnist.npz", len(names)), names


def _download_file(url: str, md5: str) -> Path:
    file_name = url.rpartition("/")[2]
    get_file = _keras().utils.get_file
    return Path(_download(file_name, lambda: get_file(file_name, origin=url, md5_hash=md5)))


def _keras():
    """Imports Keras, which only downloads need."""
    import tensorflow as tf

    return tf.keras


def _download(what: str, download: Callable):
    try:
        return download()
    except Exception as error:  # Keras raises plain `Exception`s for failed downloads.
        remedy = "check the network, or download it elsewhere and give its folder as data_dir"
        received = (str(error).splitlines() or [type(error).__name__])[0]
        raise archives.problem(what, "to download it", received, remedy) from error


def _existing(data_dir: str | os.PathLike) -> Path:
    path = Path(data_dir).expanduser()
    if not path.exists():
        remedy = "correct data_dir"
        raise archives.problem(path, "a folder or an archive", "nothing at this path", remedy)
    return path


class _Source(NamedTuple):
    load: Callable[[Path | None], tuple[Splits, tuple[str, ...]]]
    preprocessing: Preprocessing


def _from_unit(*values: float) -> tuple[float, ...]:
    """Converts constants for pixels from 0 to 1 to the uint8 scale."""
    return tuple(round(255 * value, 4) for value in values)


_SOURCES = {
    # The first two sets of constants were measured on the training split; the others are customary.
    "digits": _Source(_load_digits, Preprocessing((4.8834,), (6.0130,), greatest_pixel=16)),
    "fashion_mnist": _Source(
        _load_fashion_mnist, Preprocessing((72.9404,), (90.0212,), greatest_pixel=255)
    ),
    "cifar10": _Source(
        functools.partial(_load_cifar, archives.CIFAR10),
        Preprocessing(
            mean=_from_unit(0.4914, 0.4822, 0.4465),
            standard_deviation=_from_unit(0.2470, 0.2435, 0.2616),
            crop_padding=4,
            flip=True,
            greatest_pixel=255,
        ),
    ),
    "cifar100": _Source(
        functools.partial(_load_cifar, archives.CIFAR100),
        Preprocessing(
            mean=_from_unit(0.5071, 0.4865, 0.4409),
            standard_deviation=_from_unit(0.2673, 0.2564, 0.2762),
            crop_padding=4,
            flip=True,
            greatest_pixel=255,
        ),
    ),
    "pathmnist": _Source(
        _load_pathmnist,
        Preprocessing(
            _from_unit(0.5, 0.5, 0.5), _from_unit(0.5, 0.5, 0.5), flip=True, greatest_pixel=255
        ),
    ),
}
DATASETS = tuple(_SOURCES)
