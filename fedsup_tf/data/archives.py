"""Reads the official archives of image data sets, and rejects anything else.

Archives are untrusted. Nothing here unpickles, extracts to disk, or trusts a path, size or label
found inside an archive; all faults are reported as a `DatasetError` with a one-sentence message.
"""

import contextlib
import math
import tarfile
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from fedsup_tf.files.reading import REGULAR, InvalidFileError, kind_of_file, open_regular

# The largest file of the official archives, CIFAR-100's train.bin, has 154 MB.
MAX_MEMBER_BYTES = 2**28
# The official archives hold only a handful of files.
_MAX_MEMBERS = 1000
AGAIN = "download it again"
# For an intact file of another data set, which downloading again would not fix.
_OWN_NPZ = "to use it as it is, give it as own data, --dataset=FILE.npz"


class DatasetError(InvalidFileError):
    """Raised if a file of a data set is missing, truncated or not the expected one."""


class Splits(NamedTuple):
    """The arrays of a data set.

    Attributes:
      train_images: `(examples, height, width, channels)`, uint8.
      train_labels: `(examples,)`, int32.
      test_images: `(examples, height, width, channels)`, uint8.
      test_labels: `(examples,)`, int32.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


class CifarLayout(NamedTuple):
    """Layout of a binary CIFAR archive.

    Attributes:
      archive: File name of the archive.
      url: Official URL of the archive.
      md5: MD5 digest of the archive at that URL.
      folder: Folder inside the archive.
      train: Files of training examples in that folder, with equal numbers of examples.
      test: File of test examples.
      names: File of class names, one per line.
      label_bytes: Number of label bytes before each image; the last is the class.
      classes: Number of classes.
    """

    archive: str
    url: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int
    classes: int


CIFAR10 = CifarLayout(
    archive="cifar-10-binary.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test="test_batch.bin",
    names="batches.meta.txt",
    label_bytes=1,
    classes=10,
)
CIFAR100 = CifarLayout(
    archive="cifar-100-binary.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    folder="cifar-100-binary",
    train=("train.bin",),
    test="test.bin",
    names="fine_label_names.txt",
    label_bytes=2,
    classes=100,
)


def read_cifar(path: Path, layout: CifarLayout) -> tuple[Splits, tuple[str, ...]]:
    """Reads the binary version of CIFAR-10 or CIFAR-100.

    Args:
      path: The archive, its extracted folder, or a folder that contains either.
      layout: `CIFAR10` or `CIFAR100`.

    Returns:
      The arrays, with 32 x 32 x 3 images, and the class names.

    Raises:
      DatasetError: If a file is missing or damaged.
    """
    names = (*layout.train, layout.test, layout.names)
    folders = [folder for folder in (path, path / layout.folder) if (folder / names[0]).exists()]
    if folders:
        source, files = folders[0], _read_folder(folders[0], names)
    else:
        source = path / layout.archive if path.is_dir() else path
        if not source.is_file():
            expected = f"{layout.archive} or its folder {layout.folder}"
            remedy = (
                "give as data_dir where they are (the binary version: the Python version holds "
                "pickles, which are never read)"
            )
            raise problem(path, expected, "neither", remedy)
        files = _read_tar(source, layout.folder, names)
    batches = [_cifar_batch(source, name, files[name], layout) for name in layout.train]
    sizes = [len(labels) for _, labels in batches]
    if len(set(sizes)) != 1:
        raise problem(source, "training batches of equal size", f"{sizes} examples", AGAIN)
    images, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    test_images, test_labels = _cifar_batch(source, layout.test, files[layout.test], layout)
    class_names = tuple(files[layout.names].decode("utf-8", errors="replace").split())
    if len(class_names) != layout.classes:
        file = f"{layout.names} in {source}"
        raise problem(file, f"{layout.classes} class names", f"{len(class_names)}", AGAIN)
    return Splits(images, labels, test_images, test_labels), class_names


def _read_folder(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    files = {}
    for name in names:
        with reading_archive(folder / name, "a file of the archive") as file:
            files[name] = file.read(MAX_MEMBER_BYTES + 1)
        if len(files[name]) > MAX_MEMBER_BYTES:
            expected = f"at most {MAX_MEMBER_BYTES:,} bytes"
            raise problem(folder / name, expected, "more", "extract the archive again")
    return files


def _read_tar(archive: Path, folder: str, names: tuple[str, ...]) -> dict[str, bytes]:
    # Members are looked up by exact name and read into memory: paths in the archive are never used.
    files = {}
    with reading_archive(archive, "a complete .tar.gz") as file:
        with tarfile.open(fileobj=file, mode="r:gz") as tar:
            members = {}
            for number, member in enumerate(tar):
                if number == _MAX_MEMBERS:
                    expected = f"at most {_MAX_MEMBERS:,} files in it"
                    raise problem(archive, expected, "more", AGAIN)
                if member.size > MAX_MEMBER_BYTES:
                    expected = f"at most {MAX_MEMBER_BYTES:,} bytes"
                    received = f"{member.size:,}"
                    raise problem(f"{member.name} in {archive}", expected, received, AGAIN)
                if member.isreg():
                    members[member.name] = member
            for name in names:
                member = members.get(f"{folder}/{name}")
                if member is None:
                    raise problem(archive, f"the file {folder}/{name} in it", "none", AGAIN)
                files[name] = tar.extractfile(member).read()
    return files


def _cifar_batch(
    source: Path, name: str, content: bytes, layout: CifarLayout
) -> tuple[np.ndarray, np.ndarray]:
    record_bytes = layout.label_bytes + 3 * 32 * 32
    file = f"{name} in {source}"
    if not content or len(content) % record_bytes:
        expected = f"records of {record_bytes:,} bytes"
        raise problem(file, expected, f"{len(content):,} bytes", AGAIN)
    records = np.frombuffer(content, np.uint8).reshape(-1, record_bytes)
    planes = records[:, layout.label_bytes :].reshape(-1, 3, 32, 32)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return check_split(file, images, records[:, layout.label_bytes - 1], layout.classes)


def read_medmnist(path: Path, file_name: str, classes: int) -> Splits:
    """Reads a 28 x 28 colour data set of MedMNIST without its validation split.

    Args:
      path: The `.npz` file or the folder that contains it.
      file_name: Name of the file in the folder, such as `"pathmnist.npz"`.
      classes: Number of classes.

    Returns:
      The arrays, with 28 x 28 x 3 images.

    Raises:
      DatasetError: If the file is missing, damaged or has other arrays.
    """
    path = path / file_name if path.is_dir() else path
    if not path.exists():
        raise problem(path, f"the file {file_name}", "none", "give its folder as data_dir")
    arrays = read_npz(path, Splits._fields, AGAIN)
    checked = []
    for split in ("train", "test"):
        images, labels = arrays.get(f"{split}_images"), arrays.get(f"{split}_labels")
        if images is None or labels is None:
            expected = f"arrays {split}_images and {split}_labels"
            raise problem(path, expected, "a file without them", AGAIN)
        if images.dtype != np.uint8 or images.shape[1:] != (28, 28, 3):
            expected = f"{split}_images of shape (examples, 28, 28, 3), uint8"
            raise problem(path, expected, f"{images.shape}, {images.dtype}", _OWN_NPZ)
        if labels.dtype.kind not in "iu" or labels.shape not in {(labels.size,), (labels.size, 1)}:
            expected = f"{split}_labels of shape (examples, 1), whole numbers"
            raise problem(path, expected, f"{labels.shape}, {labels.dtype}", _OWN_NPZ)
        source = f"{split}_images and {split}_labels in {path}"
        checked += check_split(source, images, labels.reshape(-1), classes, _OWN_NPZ)
    return Splits(*checked)


def list_npz(path: Path, remedy: str) -> list[str]:
    """Returns the sorted names of an `.npz` file's arrays; raises the errors of `read_npz`."""
    with _opened_npz(path, remedy) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist())


@contextlib.contextmanager
def _opened_npz(path: Path, remedy: str) -> Iterator[zipfile.ZipFile]:
    with reading_archive(path, "a complete .npz", remedy) as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            raise problem(path, "an .npz of several arrays", "one array", remedy)
        yield zipfile.ZipFile(file)


def read_npz(
    path: Path, names: Collection[str], remedy: str, max_bytes: int = MAX_MEMBER_BYTES
) -> dict[str, np.ndarray]:
    """Reads arrays of an `.npz` file, and never unpickles objects.

    Args:
      path: The file.
      names: Names of the arrays to read; those that the file lacks are omitted.
      remedy: Advice on a file that cannot be read, for the error message.
      max_bytes: Maximum size of an array; the default exceeds all arrays of the official archives.

    Returns:
      The arrays by name.

    Raises:
      DatasetError: If the file is not an `.npz`, an array holds Python objects, or an array is
        larger than `max_bytes`.
    """
    arrays = {}
    with _opened_npz(path, remedy) as archive:
        members = {member.filename: member for member in archive.infolist()}
        for name in names:
            if f"{name}.npy" in members:
                member = members[f"{name}.npy"]
                with archive.open(member) as stream:
                    announced = _array_bytes(stream)
                maximum = min(member.file_size, max_bytes)
                if announced > maximum:
                    received = f"{announced:,} bytes announced"
                    raise problem(path, f"{name} of at most {maximum:,} bytes", received, remedy)
                with archive.open(member) as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def _array_bytes(stream: BinaryIO) -> int:
    """Returns the size in bytes that the `.npy` header of an array declares."""
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, _, dtype = headers[np.lib.format.read_magic(stream)](stream)
    return math.prod(shape) * dtype.itemsize


def check_split(
    source: Path | str,
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    other_labels_remedy: str = AGAIN,
) -> tuple[np.ndarray, np.ndarray]:
    """Checks that there is a label from 0 to `classes - 1` for each image.

    Args:
      source: The file, for the error message.
      images: `(examples, height, width, channels)`, uint8.
      labels: `(examples,)`, whole numbers.
      classes: Number of classes.
      other_labels_remedy: Advice on labels out of range, for the error message.

    Returns:
      The images, and the labels as int32.

    Raises:
      DatasetError: If there are no images, another number of labels, or a label is out of range.
    """
    if not len(images) or len(images) != len(labels):
        received = f"{len(images):,} images and {len(labels):,} labels"
        raise problem(source, "one label for each image", received, AGAIN)
    minimum, maximum = labels.min(), labels.max()
    if minimum < 0 or maximum >= classes:
        received = f"labels from {minimum} to {maximum}"
        raise problem(source, f"labels from 0 to {classes - 1}", received, other_labels_remedy)
    return images, labels.astype(np.int32)


def problem(source: Path | str, expected: str, received: str, remedy: str) -> DatasetError:
    """Returns an error that says in one sentence which file is wrong, how, and what to do."""
    return DatasetError(f"{source}: expected {expected}, received {received}; {remedy}.")


@contextlib.contextmanager
def reading_archive(path: Path, expected: str, remedy: str = AGAIN) -> Iterator[BinaryIO]:
    """Opens a file; turns every error raised while it is read into a `DatasetError`."""
    try:
        if (kind := kind_of_file(path)) != REGULAR:
            raise problem(path, expected, kind, remedy)
        with open_regular(path, expected) as file:
            yield file
    except (DatasetError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except InvalidFileError as error:
        raise DatasetError(str(error)) from error
    except BaseException as error:
        raise problem(path, expected, _first_line(error), remedy) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__} ({lines[0].rstrip('.')})" if lines else type(error).__name__
