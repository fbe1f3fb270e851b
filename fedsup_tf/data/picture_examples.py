"""Reads the listed picture files into arrays, and says which of them are not used."""

import os
from collections import Counter

import numpy as np

from fedsup_tf.data.archives import DatasetError
from fedsup_tf.data.class_labels import list_names
from fedsup_tf.data.example_files import ExampleFile, FileList
from fedsup_tf.data.examples import MOST_IMAGE_BYTES, Examples
from fedsup_tf.data.pictures import PictureForm, PictureHeader, read_header, read_picture
from fedsup_tf.data.wide_pixels import DARK, PICTURE_GREATEST
from fedsup_tf.files.reading import InvalidFileError


def read_listed(
    source: str,
    listed: FileList,
    image_shape: tuple[int, int, int] | None,
    resize: str,
    background: str,
    pixel_scale: float | None = None,
) -> Examples:
    """Reads pictures; a file that is none is left out and named.

    Args:
      source: The folder or table.
      listed: Its files.
      image_shape: `(height, width, channels)` to bring them to; None where all have one size. Then
        there are 3 channels if one of them has colours.
      resize: See `PictureForm`.
      background: See `PictureForm`.
      pixel_scale: See `PictureForm`.

    Raises:
      DatasetError: If a class has no picture that can be read, sizes differ and `image_shape` is
        not given, or there is no room for them.
    """
    # Headers first: sizes are known, and room is made, before any picture is decoded.
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
        if room > MOST_IMAGE_BYTES:
            raise DatasetError(
                f"{source!r}: expected at most {MOST_IMAGE_BYTES:,} bytes of pixels, received "
                f"{len(files):,} pictures of {' x '.join(map(str, image_shape))}. Give fewer, or a "
                "smaller image_shape."
            )
        images = np.zeros((len(files), *image_shape), np.uint8)
        for number, file in enumerate(files):
            try:
                images[number] = read_picture(file.path, form)
            except InvalidFileError as error:
                faults[file.name] = str(error)
    kept = np.array([file.name not in faults for file in files], bool)
    used = [file for file, is_kept in zip(files, kept, strict=True) if is_kept]
    _check_classes(source, listed, used, faults)
    is_wide = np.array([headers[file.name].is_wide for file in files], bool)
    notes = _unused_notes(listed, faults)
    if pixel_scale is None:
        notes += _dark_notes(images[is_wide & kept])
    return Examples(
        name=_name(source),
        images=images[kept],
        labels=np.array([file.label for file in used]),
        clients=_column(source, used, "client"),
        is_test=_column(source, used, "is_test"),
        notes=notes,
        greatest_pixel=PICTURE_GREATEST,
    )


def _name(source: str) -> str:
    return os.path.basename(os.path.normpath(source))


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
    left = {file.label for file in used}
    lost = [name for name in listed.classes if name not in left]
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
    # Test examples may be nobody's: each client is tested on some that are like its own then.
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
    # A name may be bytes that are no text.
    names = [
        os.fsencode(name).decode("utf-8", "backslashreplace") for name in (*faults, *listed.unused)
    ]
    if not names:
        return ()
    count = len(listed.files) + len(listed.unused)
    kinds = Counter(os.path.splitext(name)[1].lower() or "no ending" for name in names)
    endings = ", ".join(f"{number} {ending}" for ending, number in kinds.most_common(5))
    verb = "is" if len(names) == 1 else "are"
    note = f"{len(names):,} of {count:,} files {verb} not used ({endings}): {list_names(names)}."
    if faults:
        note += f" The first that cannot be read: {next(iter(faults.values()))}"
    return (note,)


def _dark_notes(images: np.ndarray) -> tuple[str, ...]:
    """Returns a note if pictures of more than 8 bits are so dark that they may have fewer than 16.

    Their bits are not guessed: other pictures of the same net would be scaled otherwise.

    Args:
      images: All of them.
    """
    if not images.size or images.max() * DARK > PICTURE_GREATEST:
        return ()
    return (
        f"{len(images):,} pictures are taken for 16 bits a channel, but none of their pixels is "
        f"above {images.max() / PICTURE_GREATEST:.0%} of the brightest: if they have fewer bits, "
        "give the value of full brightness as pixel_scale, such as 4095 for 12 bits.",
    )
