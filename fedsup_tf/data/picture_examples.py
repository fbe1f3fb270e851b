"""Reads listed picture files into arrays, and reports files that are not used."""

import os
from collections import Counter

import numpy as np

from fedsup_tf.data.archives import DatasetError
from fedsup_tf.data.class_labels import compose, list_names
from fedsup_tf.data.example_files import ExampleFile, FileList
from fedsup_tf.data.examples import MAX_IMAGE_BYTES, Examples
from fedsup_tf.data.odd_images import blank_notes, dark_pictures_notes
from fedsup_tf.data.pictures import (
    PictureForm,
    PictureHeader,
    read_header,
    read_with_brightness,
)
from fedsup_tf.data.wide_pixels import PICTURE_GREATEST
from fedsup_tf.files.reading import InvalidFileError


def read_listed(
    source: str,
    listed: FileList,
    image_shape: tuple[int, int, int] | None,
    resize: str,
    background: str,
    pixel_scale: float | None = None,
) -> Examples:
    """Reads pictures; skips files of other kinds and lists them in a note.

    Args:
      source: The folder or table.
      listed: Files of the folder or table.
      image_shape: Target `(height, width, channels)`. None keeps the size of the pictures, which
        must then be the same for all, with 3 channels if any picture has colours.
      resize: See `PictureForm`.
      background: See `PictureForm`.
      pixel_scale: See `PictureForm`.

    Raises:
      DatasetError: If a class has no readable picture, sizes differ and `image_shape` is not
        given, or the pictures take too much memory.
    """
    # Reads all headers first, to check sizes and allocate memory before decoding any picture.
    headers, faults = {}, {}
    for file in listed.files:
        try:
            headers[file.name] = read_header(file.path)
        except InvalidFileError as error:
            faults[file.name] = str(error)
    if image_shape is None and headers:
        image_shape = _common_shape(source, headers)
    files = [file for file in listed.files if file.name in headers]
    if image_shape is not None:
        form = PictureForm(image_shape, resize, background, pixel_scale)
        room = len(files) * int(np.prod(image_shape, dtype=np.int64))
        if room > MAX_IMAGE_BYTES:
            raise DatasetError(
                f"{source!r}: expected at most {MAX_IMAGE_BYTES:,} bytes of pixels, received "
                f"{len(files):,} pictures of {' x '.join(map(str, image_shape))}. Give fewer, or a "
                "smaller image_shape."
            )
        images = np.zeros((len(files), *image_shape), np.uint8)
        brightest = np.zeros(len(files), np.int64)
        for number, file in enumerate(files):
            try:
                images[number], brightest[number] = read_with_brightness(file.path, form)
            except InvalidFileError as error:
                faults[file.name] = str(error)
    kept = np.array([file.name not in faults for file in files], bool)
    used = [file for file, is_kept in zip(files, kept, strict=True) if is_kept]
    _check_classes(source, listed, used, faults)
    notes = _unused_notes(listed, faults) + _lost_notes(listed, used)
    images = images[kept]
    has_high_bit_depth, has_alpha = (
        np.array([getattr(headers[file.name], field) for file in used], bool)
        for field in ("has_high_bit_depth", "has_alpha")
    )
    notes += blank_notes(images, has_alpha, background)
    if pixel_scale is None:
        notes += dark_pictures_notes(brightest[kept][has_high_bit_depth])
    return Examples(
        name=_name(source),
        images=images,
        labels=np.array([file.label for file in used]),
        clients=_column(source, used, "client"),
        is_test=_column(source, used, "is_test"),
        notes=notes,
        greatest_pixel=PICTURE_GREATEST,
        resize=resize,
        background=background,
    )


def _name(source: str) -> str:
    return os.path.basename(os.path.abspath(source))


def _common_shape(source: str, headers: dict[str, PictureHeader]) -> tuple[int, int, int]:
    shapes = [header.shape for header in headers.values()]
    sizes = {shape[:2] for shape in shapes}
    if len(sizes) > 1:
        smallest, largest = min(sizes), max(sizes)
        raise DatasetError(
            f"{source!r}: expected pictures of one size, received {len(sizes)} sizes from "
            f"{smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]}. Give the image_shape "
            "that they are to have, such as 32,32,3."
        )
    return (*sizes.pop(), max(channels for _, _, channels in shapes))


def _check_classes(
    source: str, listed: FileList, used: list[ExampleFile], faults: dict[str, str]
) -> None:
    left = {compose(file.label) for file in used}
    lost = [name for name in listed.classes if compose(name) not in left]
    if not lost:
        return
    of_class = [file.name for file in listed.files if file.label == lost[0]]
    count = "1 file, which" if len(of_class) == 1 else f"{len(of_class):,} files, of which none"
    cannot = "cannot be read" if len(of_class) == 1 else "can be read"
    received = f"{count} {cannot}" if of_class else "no file"
    first = f" The first: {faults[of_class[0]]}" if of_class else ""
    raise DatasetError(
        f"{source!r}: expected at least one picture of class {lost[0]!r}, received {received}. Add "
        f"pictures, or take the class out.{first}"
    )


def _column(source: str, used: list[ExampleFile], field: str) -> np.ndarray | None:
    values = [getattr(file, field) for file in used]
    missing = sum(value is None for value in values)
    if not missing:
        return np.array(values)
    # Test examples may lack clients; `own_clients` then draws test examples for each client.
    if missing < len(values) and field == "client":
        is_nobodys = [value is None for value in values]
        if is_nobodys == [bool(file.is_test) for file in used]:
            return np.array([value or "" for value in values])
    if missing < len(values):
        raise DatasetError(
            f"{source!r}: expected all pictures of the training part to belong to clients, or none "
            f"of them, received {missing} of {len(values)} without one. Arrange all alike."
        )
    return None


def _unused_notes(listed: FileList, faults: dict[str, str]) -> tuple[str, ...]:
    # A name may not be valid UTF-8.
    names = [
        os.fsencode(name).decode("utf-8", "backslashreplace") for name in (*faults, *listed.unused)
    ]
    notes = ()
    if listed.repeated:
        verb = (
            "line repeats another and is" if listed.repeated == 1 else "lines repeat others and are"
        )
        notes = (f"{listed.repeated:,} {verb} not used.",)
    if not names:
        return notes
    count = len(listed.files) + len(listed.unused)
    kinds = Counter(os.path.splitext(name)[1].lower() or "no ending" for name in names)
    endings = ", ".join(f"{number} {ending}" for ending, number in kinds.most_common(5))
    verb = "is" if len(names) == 1 else "are"
    note = f"{len(names):,} of {count:,} files {verb} not used ({endings}): {list_names(names)}."
    if faults:
        note += f" The first that cannot be read: {next(iter(faults.values()))}"
    return (*notes, note)


def _lost_notes(listed: FileList, used: list[ExampleFile]) -> tuple[str, ...]:
    left = {compose(file.client) for file in used if file.client is not None}
    lost = [name for name in listed.clients if compose(name) not in left]
    if not lost:
        return ()
    verb = "has" if len(lost) == 1 else "have"
    return (
        f"{len(lost):,} of {len(listed.clients):,} clients {verb} no picture that can be read, and "
        f"{'is' if len(lost) == 1 else 'are'} left out: {list_names(lost)}.",
    )
