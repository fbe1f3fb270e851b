"""Reads labelled images from arrays: those of an `.npz` file, or those that a program has."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from fedsup_tf.data.archives import DatasetError, read_npz
from fedsup_tf.data.examples import MOST_IMAGE_BYTES, Examples
from fedsup_tf.data.pictures import PICTURE_GREATEST, PictureForm, form_picture, scale_pixels

_PARTS = ("images", "labels", "clients")
# Data sets elsewhere call their training arrays so.
_TRAIN = {f"train_{part}": part for part in _PARTS}
_NAMES = (*_PARTS, *(f"test_{part}" for part in _PARTS))
_REMEDY = "write it with numpy.savez"
_GREATEST_OF_16_BITS = 2**16 - 1
# Images whose brightest pixel is above this are of the usual scale, dark as they may be.
_HALF = 127


def read_arrays(
    path: str,
    image_shape: tuple[int, int, int] | None = None,
    resize: str = "crop",
    background: str = "white",
) -> Examples:
    """Reads an `.npz` of `images`, `labels`, and maybe `clients`, `test_images` and so on.

    Args:
      path: The file. The training part's arrays may also be called `train_images` and so on.
      image_shape: Shape to bring images to; by default their own.
      resize: See `PictureForm`.
      background: See `PictureForm`.

    Raises:
      DatasetError: If it is no such file, or its arrays do not belong together.
    """
    arrays = read_npz(Path(path), (*_NAMES, *_TRAIN), _REMEDY, MOST_IMAGE_BYTES)
    twice = [name for name, part in _TRAIN.items() if name in arrays and part in arrays]
    if twice:
        raise DatasetError(
            f"{path!r}: expected one of {twice[0]} and {_TRAIN[twice[0]]}, received both. Leave "
            "one of them out."
        )
    arrays = {_TRAIN.get(name, name): values for name, values in arrays.items()}
    return join_arrays(repr(path), os.path.basename(path), arrays, image_shape, resize, background)


def join_arrays(
    source: str,
    name: str,
    arrays: Mapping[str, np.ndarray],
    image_shape: tuple[int, int, int] | None = None,
    resize: str = "crop",
    background: str = "white",
) -> Examples:
    """Checks arrays, and joins their training and test part.

    Args:
      source: What begins an error's message, such as the file.
      name: What the examples are, for people.
      arrays: `images` `(examples, height, width, channels)` or `(examples, height, width)`,
        `labels` `(examples,)`, and maybe `clients` `(examples,)`, `test_images`, `test_labels` and
        `test_clients`.
      image_shape: Shape to bring images to; by default their own.
      resize: See `PictureForm`.
      background: See `PictureForm`.

    Raises:
      DatasetError: If an array is missing, empty, or of another shape or type.
    """
    if not {"images", "labels"} <= arrays.keys() or (
        ("test_images" in arrays) != ("test_labels" in arrays)
    ):
        raise DatasetError(
            f"{source}: expected arrays images and labels, and both or none of test_images and "
            f"test_labels, received {sorted(arrays)}. Write them with numpy.savez."
        )
    if "test_clients" in arrays and not {"clients", "test_images"} <= arrays.keys():
        raise DatasetError(
            f"{source}: expected clients and test_images beside test_clients, received "
            f"{sorted(arrays)}. Add them, or leave test_clients out."
        )
    parts = ("", "test_") if "test_images" in arrays else ("",)
    images = [_images(source, f"{part}images", arrays[f"{part}images"]) for part in parts]
    labels, clients = [], []
    for part, own in zip(parts, images, strict=True):
        labels.append(_names(source, f"{part}labels", arrays[f"{part}labels"], len(own)))
        if "clients" in arrays:
            given = arrays.get(f"{part}clients", np.full(len(own), "") if part else None)
            clients.append(_names(source, f"{part}clients", given, len(own)).astype(str))
    shapes = {own.shape[1:] for own in images}
    if len(shapes) > 1:
        raise DatasetError(
            f"{source}: expected test_images of the shape of images, {images[0].shape[1:]}, "
            f"received {images[1].shape[1:]}. Bring them to one shape."
        )
    if len({values.dtype.kind in "iu" for values in labels}) > 1:
        raise DatasetError(
            f"{source}: expected test_labels of the type of labels, {labels[0].dtype}, received "
            f"{labels[1].dtype}. Write both as numbers, or both as names."
        )
    images, greatest_pixel = _as_bytes(source, images)
    joined = np.concatenate(images) if len(images) > 1 else images[0]
    if image_shape is not None and joined.shape[1:] != tuple(image_shape):
        joined = _resized(source, joined, PictureForm(tuple(image_shape), resize, background))
    sizes = [len(values) for values in labels]
    return Examples(
        name=name,
        images=joined,
        labels=np.concatenate(labels),
        clients=np.concatenate(clients) if clients else None,
        is_test=np.repeat([False, True], sizes) if len(sizes) > 1 else None,
        notes=(),
        greatest_pixel=greatest_pixel,
    )


def _images(source: str, name: str, images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.dtype.kind not in "uifb":
        raise DatasetError(
            f"{source}: expected {name} of shape (examples, height, width, channels), uint8, "
            f"received {images.dtype} of shape {images.shape}. Write them so."
        )
    if not images.size:
        remedy = "Add some" + (", or leave the test part out." if name.startswith("test") else ".")
        raise DatasetError(
            f"{source}: expected at least one image in {name}, received none, shape "
            f"{images.shape}. {remedy}"
        )
    return images


def _names(source: str, name: str, values: np.ndarray, count: int) -> np.ndarray:
    values = np.asarray(values)
    if values.shape == (count, 1):
        values = values[:, 0]
    if values.shape != (count,) or values.dtype.kind not in "iuUS":
        raise DatasetError(
            f"{source}: expected {name} of shape ({count},), a whole number or a name for each "
            f"image, received {values.dtype} of shape {values.shape}. Write them so."
        )
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values


def _as_bytes(source: str, arrays: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Returns the images as uint8 with their greatest value; their kinds of numbers decide both."""
    least = min(float(images.min()) for images in arrays)
    greatest = max(float(images.max()) for images in arrays)
    kinds = {images.dtype.kind for images in arrays}
    if kinds == {"b"} or (kinds == {"f"} and 0 <= least <= greatest <= 1):
        scaled = [np.rint(images.astype(np.float32) * 255).astype(np.uint8) for images in arrays]
        return scaled, PICTURE_GREATEST
    is_whole = kinds <= {"u", "i"} or all((images == np.rint(images)).all() for images in arrays)
    # Brighter than 255 are those of 16 bits alone.
    allowed = 255 if kinds == {"f"} else _GREATEST_OF_16_BITS
    if not is_whole or least < 0 or not greatest <= allowed:
        raise DatasetError(
            f"{source}: expected pixels as whole numbers of 8 or 16 bits, or as fractions from "
            f"0 to 1, received {arrays[0].dtype} from {least:g} to {greatest:g}. Scale the "
            "images to 0..255."
        )
    if greatest > PICTURE_GREATEST:
        return [
            scale_pixels(images, _GREATEST_OF_16_BITS, PICTURE_GREATEST) for images in arrays
        ], PICTURE_GREATEST
    whole = [images.astype(np.uint8, copy=False) for images in arrays]
    return whole, PICTURE_GREATEST if greatest > _HALF else max(1, int(greatest))


def _resized(source: str, images: np.ndarray, form: PictureForm) -> np.ndarray:
    channels = images.shape[-1]
    if channels not in (1, 3, 4):
        raise DatasetError(
            f"{source}: expected images of shape {form.image_shape}, received {images.shape[1:]}, "
            f"and only images of 1, 3 or 4 channels can be scaled. Leave image_shape out."
        )
    room = len(images) * int(np.prod(form.image_shape, dtype=np.int64))
    if room > MOST_IMAGE_BYTES:
        raise DatasetError(
            f"{source}: expected at most {MOST_IMAGE_BYTES:,} bytes of pixels, received "
            f"{room:,}. Give fewer images, or a smaller image_shape."
        )
    resized = np.zeros((len(images), *form.image_shape), np.uint8)
    for number, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        resized[number] = form_picture(picture, form)
    return resized
