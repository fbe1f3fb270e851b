"""Reads idx files, the format of MNIST, Fashion-MNIST and EMNIST."""

import gzip
import math
import re
from pathlib import Path

import numpy as np

from fedsup_tf.data.archives import (
    AGAIN,
    MAX_MEMBER_BYTES,
    Splits,
    check_split,
    problem,
    reading_archive,
)
from fedsup_tf.data.examples import MAX_IMAGE_BYTES

# For an intact file of another data set, which downloading again would not fix.
_OWN_IDX = "to use it as it is, give its folder as own data, --dataset=FOLDER"
_AS_NPZ = "read it with its own program, and give its arrays as an .npz of images and labels"
_TYPES = (0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E)
# Pattern of names; some copies have a dot in place of the second hyphen.
_IMAGES = "-images[-.]idx3-ubyte"


def read_idx_folder(folder: Path) -> Splits:
    """Reads the four idx files of MNIST or Fashion-MNIST, compressed (`.gz`) or not.

    Args:
      folder: Folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the two `t10k-`
        files.

    Returns:
      The arrays, with 28 x 28 x 1 images of 10 classes.

    Raises:
      DatasetError: If a file is missing or not such an idx file.
    """
    arrays = []
    for split in ("train", "t10k"):
        source, images = _read_idx(folder, f"{split}-images-idx3-ubyte", dimensions=3)
        if images.shape[1:] != (28, 28):
            received = f"{images.shape[1]} x {images.shape[2]}"
            raise problem(source, "images of 28 x 28 pixels", received, _OWN_IDX)
        labels_source, labels = _read_idx(folder, f"{split}-labels-idx1-ubyte", dimensions=1)
        images = images[..., np.newaxis]
        arrays += check_split(labels_source, images, labels, 10, _OWN_IDX)
    return Splits(*arrays)


def read_any_idx(folder: Path) -> dict[str, np.ndarray]:
    """Reads idx files of images of any size and any labels, such as those of EMNIST.

    Args:
      folder: Folder with `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, and optionally
        the same with `t10k` or `test` in place of `train` for the test split. The names may have a
        prefix and a dot before `idx`, and the files may be compressed (`.gz`).

    Returns:
      `images` and `labels`, and `test_images` and `test_labels` if there is a test split.

    Raises:
      DatasetError: If there are several such sets of files, or a file is missing or damaged.
    """
    arrays = {}
    for split, part in (("train", ""), ("t10k", "test_"), ("test", "test_")):
        ending = f"{split}{_IMAGES}"
        names = sorted({p.name.removesuffix(".gz") for p in folder.glob(f"*{ending}*")})
        if len(names) > 1:
            expected = f"one file *{split}-images-idx3-ubyte"
            raise problem(folder, expected, ", ".join(names[:5]), "keep one of them")
        for name in names:
            _, arrays[f"{part}images"] = _read_idx(folder, name, 3, MAX_IMAGE_BYTES)
            labels = re.sub("images([-.])idx3", r"labels\1idx1", name)
            _, arrays[f"{part}labels"] = _read_idx(folder, labels, 1, MAX_IMAGE_BYTES)
    return arrays


def holds_idx(folder: Path) -> bool:
    """Returns whether a folder contains an idx file of training images."""
    return any(folder.glob(f"*train{_IMAGES}*"))


def _read_idx(
    folder: Path, name: str, dimensions: int, max_bytes: int = MAX_MEMBER_BYTES
) -> tuple[Path, np.ndarray]:
    path = next((folder / file for file in (name, f"{name}.gz") if (folder / file).exists()), None)
    if path is None:
        remedy = "give the folder of the four idx files as data_dir"
        raise problem(folder, f"the file {name} or {name}.gz", "neither", remedy)
    header_bytes = 4 + 4 * dimensions
    kind = f"{'a gzip' if path.suffix == '.gz' else 'an idx'} file that can be read"
    with reading_archive(path, kind) as file:
        stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        header = stream.read(header_bytes)
        whole = len(header) == header_bytes
        magic, *shape = np.frombuffer(header, ">u4").tolist() if whole else [0]
        if magic != 0x0800 + dimensions:
            expected = f"an idx file that starts with 0000080{dimensions} and its sizes"
            # An idx header begins with two zero bytes, the type and the number of axes.
            is_other = whole and header[:2] == bytes(2) and header[2] in _TYPES and header[3]
            remedy = _AS_NPZ if is_other else AGAIN
            raise problem(path, expected, header[:4].hex() or "an empty file", remedy)
        if math.prod(shape) > max_bytes:
            expected = f"at most {max_bytes:,} bytes after the header"
            remedy = AGAIN if max_bytes == MAX_MEMBER_BYTES else "give a part of the images"
            raise problem(path, expected, f"{math.prod(shape):,} announced", remedy)
        # Reads one more byte than declared, to detect files that are too long.
        content = stream.read(math.prod(shape) + 1)
    if len(content) != math.prod(shape):
        received = "more" if len(content) > math.prod(shape) else f"{len(content):,}"
        expected = f"{math.prod(shape):,} bytes after the header, as it announces"
        raise problem(path, expected, received, AGAIN)
    return path, np.frombuffer(content, np.uint8).reshape(shape)
