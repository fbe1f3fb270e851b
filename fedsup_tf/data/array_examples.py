"""Reads labelled images from the arrays of an `.npz` file, or from arrays in memory."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from fedsup_tf.data.archives import DatasetError, list_npz, read_npz
from fedsup_tf.data.array_parts import SPLIT, divide_arrays, names_of_parts, unused_notes
from fedsup_tf.data.examples import MAX_IMAGE_BYTES, Examples
from fedsup_tf.data.odd_images import array_notes, blank_notes, cut_notes
from fedsup_tf.data.pictures import PictureForm, form_picture
from fedsup_tf.data.wide_pixels import (
    MAX_OF_16_BITS,
    PICTURE_GREATEST,
    check_range,
    scale_pixels,
)
from fedsup_tf.files.validation import check_number

_REMEDY = "write it with numpy.savez, and names as numpy.array(names, str)"
# Images with a pixel above this are assumed to have the usual scale, however dark they are. Others
# may have another one, such as counts of ink or pixels of few bits.
_MAX_OF_FEW_BITS = 32


def read_arrays(
    path: str,
    image_shape: tuple[int, int, int] | None = None,
    resize: str = "crop",
    background: str = "white",
    pixel_scale: float | None = None,
) -> Examples:
    """Reads `images` and `labels` from an `.npz`, optionally `clients`, `split`, `test_images` etc.

    Args:
      path: The file. Its arrays may also have names such as `x_train`, `train_labels` or `val_y`.
      image_shape: Target shape of the images; by default their own.
      resize: See `PictureForm`.
      background: See `PictureForm`.
      pixel_scale: Pixel value of full brightness; by default inferred from the arrays.

    Raises:
      DatasetError: If the file is not such an `.npz`, or its arrays are inconsistent.
    """
    held = list_npz(Path(path), _REMEDY)
    names = names_of_parts(path, held)
    wanted = [*names.values(), SPLIT] if "test_images" not in names else names.values()
    found = read_npz(Path(path), wanted, _REMEDY, MAX_IMAGE_BYTES)
    arrays = {part: found[name] for part, name in names.items() if name in found}
    if not {"images", "labels"} <= arrays.keys():
        raise DatasetError(
            f"{path!r}: expected arrays images and labels, received {held}. Write them with "
            "numpy.savez(path, images=..., labels=...)."
        )
    notes = unused_notes(held, found)
    if SPLIT in found:
        count = len(np.atleast_1d(arrays["images"]))
        given = _names(repr(path), SPLIT, found[SPLIT], count)
        arrays, split_notes = divide_arrays(repr(path), arrays, given)
        notes += split_notes
    name = os.path.basename(path)
    form = (image_shape, resize, background, pixel_scale)
    examples = join_arrays(repr(path), name, arrays, *form)
    return examples._replace(notes=examples.notes + notes)


def join_arrays(
    source: str,
    name: str,
    arrays: Mapping[str, ArrayLike],
    image_shape: tuple[int, int, int] | None = None,
    resize: str = "crop",
    background: str = "white",
    pixel_scale: float | None = None,
) -> Examples:
    """Checks arrays, and joins their training and test split.

    Args:
      source: Beginning of error messages, such as the file.
      name: Human-readable name of the examples.
      arrays: `images` `(examples, height, width, channels)` or `(examples, height, width)`,
        `labels` `(examples,)`, and optionally `clients` `(examples,)`, `test_images`, `test_labels`
        and `test_clients`.
      image_shape: Target shape of the images; by default their own.
      resize: See `PictureForm`.
      background: See `PictureForm`.
      pixel_scale: Pixel value of full brightness; by default inferred from the arrays.

    Raises:
      DatasetError: If an array is missing or empty, or has an unexpected shape or type.
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
    arrays = {name: _array(source, name, values) for name, values in arrays.items()}
    parts = ("", "test_") if "test_images" in arrays else ("",)
    images = [_images(source, f"{part}images", arrays[f"{part}images"]) for part in parts]
    labels, clients = [], []
    for part, own in zip(parts, images, strict=True):
        labels.append(_names(source, f"{part}labels", arrays[f"{part}labels"], len(own)))
        if "clients" in arrays:
            given = arrays.get(f"{part}clients", np.full(len(own), ""))
            named = _names(source, f"{part}clients", given, len(own), may_be_empty=bool(part))
            clients.append(named.astype(str))
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
    if pixel_scale is not None:
        check_number(
            pixel_scale,
            "pixel_scale",
            above=0,
            advice="Give that of full brightness, such as 4095.",
        )
    if pixel_scale is None:
        _check_scales(source, images)
    notes = array_notes(images, pixel_scale)
    images, greatest_pixel = _as_bytes(source, images, pixel_scale)
    joined = np.concatenate(images) if len(images) > 1 else images[0]
    is_resized = image_shape is not None and joined.shape[1:] != tuple(image_shape)
    if is_resized:
        form = PictureForm(tuple(image_shape), resize, background)
        notes += cut_notes(joined.shape[1:], form.image_shape, resize)
        joined = _resized(source, joined, form, greatest_pixel)
    sizes = [len(values) for values in labels]
    return Examples(
        name=name,
        images=joined,
        labels=np.concatenate(labels),
        clients=np.concatenate(clients) if clients else None,
        is_test=np.repeat([False, True], sizes) if len(sizes) > 1 else None,
        notes=notes + blank_notes(joined),
        greatest_pixel=greatest_pixel,
        resize=resize if is_resized else None,
        background=background if is_resized else None,
    )


def _array(source: str, name: str, values: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DatasetError(
            f"{source}: expected {name} that are one array, received a list of items of different "
            "shapes. Bring them to one shape."
        ) from error


def _check_scales(source: str, images: list[np.ndarray]) -> None:
    """Raises a DatasetError if the two splits have both different dtypes and different scales."""
    kinds = {(own.dtype.kind, own.dtype.itemsize) for own in images}
    if len(kinds) > 1 and len(set(map(_scale, images))) > 1:
        received = " and ".join(f"{own.dtype} up to {own.max():g}" for own in images)
        raise DatasetError(
            f"{source}: expected the pixels of images and test_images on one scale, received "
            f"{received}. Write both as the same kind of numbers."
        )


def _scale(images: np.ndarray) -> int:
    """Returns the value of full brightness of the smallest usual scale that contains the images."""
    greatest = images.max()
    scales = (1, PICTURE_GREATEST, MAX_OF_16_BITS)
    return next((scale for scale in scales if greatest <= scale), scales[-1])


def _images(source: str, name: str, images: np.ndarray) -> np.ndarray:
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


def _plain(values: np.ndarray) -> np.ndarray:
    """Converts objects, bools, unsigned and whole-numbered floats to int64 or text if possible."""
    if values.dtype.kind == "O":
        types = {type(value) for value in values.flat}
        for wanted, dtype in ((str, str), (bytes, "S"), ((int, np.integer), np.int64)):
            if types and all(issubclass(found, wanted) and found is not bool for found in types):
                try:
                    return values.astype(dtype)
                except OverflowError:
                    return values.astype(str)
    if values.dtype.kind == "b":
        return values.astype(str)
    if values.dtype.kind == "u":
        # NumPy joins int64 and uint64 to floats.
        fits = not values.size or values.max() <= np.iinfo(np.int64).max
        return values.astype(np.int64 if fits else str)
    if values.dtype.kind == "f" and (np.abs(values) < 2**53).all() and (values % 1 == 0).all():
        return values.astype(np.int64)
    return values


def _names(
    source: str, name: str, values: np.ndarray, count: int, may_be_empty: bool = False
) -> np.ndarray:
    values = _plain(values)
    if values.shape == (count, 1):
        values = values[:, 0]
    if values.shape != (count,) or values.dtype.kind not in "iuUS":
        raise DatasetError(
            f"{source}: expected {name} of shape ({count},), a whole number or a name for each "
            f"image, received {values.dtype} of shape {values.shape}. "
            + (
                "Convert one-hot labels with numpy.argmax(labels, 1)."
                if values.ndim == 2
                else "Write them so."
            )
        )
    if values.dtype.kind == "S":
        try:
            values = np.char.decode(values, "utf-8")
        except UnicodeDecodeError as error:
            raise DatasetError(
                f"{source}: expected {name} as text in UTF-8, received bytes that are not "
                f"({error}). Decode them first."
            ) from error
    empty = int((values == "").sum()) if values.dtype.kind == "U" and not may_be_empty else 0
    if empty:
        raise DatasetError(
            f"{source}: expected a name for each of the {count} images in {name}, received {empty} "
            "empty ones. Complete them, or leave these images out."
        )
    return values


def _as_bytes(
    source: str, arrays: list[np.ndarray], pixel_scale: float | None
) -> tuple[list[np.ndarray], int]:
    """Converts images to uint8; also returns their value of full brightness.

    The scale is inferred from dtypes and values unless `pixel_scale` is given.
    """
    if pixel_scale is not None:
        for images in arrays:
            try:
                check_range(images, pixel_scale)
            except ValueError as error:
                raise DatasetError(f"{source}: {error}") from error
        scaled = [scale_pixels(images, pixel_scale, PICTURE_GREATEST) for images in arrays]
        return scaled, PICTURE_GREATEST
    minimum = min(float(images.min()) for images in arrays)
    maximum = max(float(images.max()) for images in arrays)
    kinds = {images.dtype.kind for images in arrays}
    if kinds == {"b"} or (kinds == {"f"} and 0 <= minimum <= maximum <= 1):
        scaled = [np.rint(images.astype(np.float32) * 255).astype(np.uint8) for images in arrays]
        return scaled, PICTURE_GREATEST
    is_whole = kinds <= {"u", "i"} or all((images == np.rint(images)).all() for images in arrays)
    # Only 16-bit integers may exceed 255.
    allowed = 255 if kinds == {"f"} else MAX_OF_16_BITS
    if not is_whole or minimum < 0 or not maximum <= allowed:
        received = " and ".join(
            dict.fromkeys(f"{own.dtype} from {own.min():g} to {own.max():g}" for own in arrays)
        )
        raise DatasetError(
            f"{source}: expected pixels as whole numbers of 8 or 16 bits, or as fractions from "
            f"0 to 1, received {received}. Give the value of full brightness as pixel_scale, or "
            "scale all images to 0..255."
        )
    if maximum > PICTURE_GREATEST:
        return [
            scale_pixels(images, MAX_OF_16_BITS, PICTURE_GREATEST) for images in arrays
        ], PICTURE_GREATEST
    whole = [images.astype(np.uint8, copy=False) for images in arrays]
    return whole, PICTURE_GREATEST if maximum > _MAX_OF_FEW_BITS else max(1, int(maximum))


def _resized(source: str, images: np.ndarray, form: PictureForm, greatest_pixel: int) -> np.ndarray:
    channels = images.shape[-1]
    if channels not in (1, 3, 4):
        raise DatasetError(
            f"{source}: expected images of shape {form.image_shape}, received {images.shape[1:]}, "
            f"and only images of 1, 3 or 4 channels can be scaled. Leave image_shape out."
        )
    room = len(images) * int(np.prod(form.image_shape, dtype=np.int64))
    if room > MAX_IMAGE_BYTES:
        raise DatasetError(
            f"{source}: expected at most {MAX_IMAGE_BYTES:,} bytes of pixels, received "
            f"{room:,}. Give fewer images, or a smaller image_shape."
        )
    resized = np.zeros((len(images), *form.image_shape), np.uint8)
    # The background colour is on the scale of pictures.
    images = scale_pixels(images, greatest_pixel, PICTURE_GREATEST)
    for number, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        resized[number] = form_picture(picture, form)
    return scale_pixels(resized, PICTURE_GREATEST, greatest_pixel)
