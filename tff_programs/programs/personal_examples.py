"""One person's examples: a folder of pictures, an .npz file, or a client of a data set."""

import os
from typing import NamedTuple

import numpy as np

from fedsup_tf.files.reading import open_regular
from tflite.format.metadata import ModelMetadata

_ENDINGS = (".png", ".jpg", ".jpeg")
# What Pillow and NumPy raise for files that are damaged or of another kind.
_BROKEN = (OSError, ValueError, SyntaxError, KeyError, EOFError, NotImplementedError, MemoryError)


class Examples(NamedTuple):
    """Labelled images of one person.

    Attributes:
      name: What they are, for people.
      images: `(examples, height, width, channels)`, uint8.
      labels: `(examples,)`, int32.
      test_images: Never trained on, shaped as `images`.
      test_labels: Theirs.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def read_examples(path: str, metadata: ModelMetadata, test_share: float, seed: int) -> Examples:
    """Reads a folder with one subfolder of pictures for each class, or an `.npz` file.

    Args:
      path: The folder or file. An `.npz` has `images` and `labels`, and maybe `test_images` and
        `test_labels`. A subfolder is called like a class of the model or by its number; `/` in a
        name is `_`.
      metadata: Of the model that the examples are for. Pictures of another size are cut to its
        aspect ratio and scaled.
      test_share: Part of each class that is for the test, where there is no own test part.
      seed: Decides which.

    Raises:
      ValueError: If there are no examples, or a file is not what it should be.
    """
    name = os.path.basename(os.path.normpath(path))
    if os.path.isdir(path):
        arrays = _read_folder(path, metadata)
    elif os.path.isfile(path):
        arrays = _read_npz(path)
    else:
        raise ValueError(
            f"Expected a folder of pictures or an .npz file at {path!r}, found none. Check the "
            "path."
        )
    if len(arrays) == 2:
        kept, tested = split_by_class(arrays[1], test_share, seed)
        arrays = [values[part] for part in (kept, tested) for values in arrays]
    return Examples(name, *arrays)


def split_by_class(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides examples, class by class, into those kept and a share that is set aside.

    Args:
      labels: `(examples,)`, whole numbers from 0.
      share: Part of each class that is set aside, to the nearest example, above 0 and below 1.
      seed: Decides which.

    Returns:
      Rising indices of both parts.

    Raises:
      ValueError: If one of them would be empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"Expected a share above 0 and below 1 to set aside, received {share}.")
    random = np.random.default_rng((seed, 0))
    aside = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        held = random.permutation(np.flatnonzero(labels == label))
        # Half an example counts as one.
        aside[held[: int(len(held) * share + 0.5)]] = True
    if aside.all() or not aside.any():
        raise ValueError(
            f"Expected enough examples to set aside {share:.0%} of each class and keep the rest, "
            f"received {len(labels)} examples. Add some, or change the share."
        )
    return np.flatnonzero(~aside), np.flatnonzero(aside)


def _read_npz(path: str) -> list[np.ndarray]:
    wanted = ("images", "labels", "test_images", "test_labels")
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("one array")
            arrays = {name: archive[name] for name in wanted if name in archive.files}
    except Exception as error:  # NumPy and zipfile raise many kinds.
        raise _problem(path, "a whole .npz of arrays", error) from error
    if set(arrays) not in ({*wanted[:2]}, {*wanted}):
        raise ValueError(
            f"{path!r}: expected arrays images and labels, and both or none of test_images and "
            f"test_labels, received {sorted(arrays)}. Write them with numpy.savez."
        )
    images, labels = arrays["images"], arrays["labels"]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or images.shape[:1] != labels.shape:
        raise ValueError(
            f"{path!r}: expected labels of shape (examples,), a whole number for each of the "
            f"images, received {labels.dtype} of shape {labels.shape} for images of shape "
            f"{images.shape}. Write them with numpy.savez."
        )
    return list(arrays.values())


def _read_folder(path: str, metadata: ModelMetadata) -> list[np.ndarray]:
    names = metadata.class_names
    labels_by_name = {str(label): label for label in range(len(names))}
    labels_by_name |= {name.replace("/", "_"): label for label, name in enumerate(names)}
    folders = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    folders = [name for name in folders if not name.startswith(".")]
    unknown = [name for name in folders if name not in labels_by_name]
    if unknown or not folders:
        raise ValueError(
            f"{path!r}: expected a subfolder of pictures for each class, of {', '.join(names)}, "
            f"received {', '.join(unknown[:5]) or 'none'}. Name subfolders like the model's "
            "classes."
        )
    images, labels = [], []
    for name in folders:
        folder = os.path.join(path, name)
        files = sorted(file for file in os.listdir(folder) if _is_picture(file))
        images += [_read_picture(os.path.join(folder, file), metadata) for file in files]
        labels += [labels_by_name[name]] * len(files)
    if not images:
        raise ValueError(f"{path!r}: expected *.png or *.jpg in its subfolders, found none.")
    return [np.stack(images), np.array(labels, np.int32)]


def _is_picture(file: str) -> bool:
    return file.lower().endswith(_ENDINGS) and not file.startswith(".")


def _read_picture(path: str, metadata: ModelMetadata) -> np.ndarray:
    """The picture as the model takes it, `(height, width, channels)`, uint8."""
    from PIL import Image, ImageOps

    height, width, channels = metadata.space.image_shape
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise ValueError(
            f"{path!r}: expected a model of 1 or 3 channels for pictures, received {channels} "
            "channels. Give the examples as an .npz file."
        )
    try:
        with (
            open_regular(path, "a picture") as file,
            Image.open(file, formats=("PNG", "JPEG")) as picture,
        ):
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"pixels of kind {picture.mode}")
            # Phones store how they were held beside the pixels.
            picture = ImageOps.exif_transpose(picture).convert(modes[channels])
            if picture.size != (width, height):
                picture = ImageOps.fit(picture, (width, height), Image.Resampling.BOX)
            return np.asarray(picture, np.uint8).reshape(height, width, channels)
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise _problem(path, "a whole PNG or JPEG of 8 bits a channel", error) from error


def _problem(path: str, expected: str, error: Exception) -> ValueError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return ValueError(f"{path!r}: expected {expected}, received {reason}. Write or copy it anew.")
