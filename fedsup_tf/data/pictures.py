"""Reads pictures of common formats: turned upright, on a background, and scaled to one size.

Training, export and devices use the same reader, so a picture enters a model the same way
everywhere.
"""

import dataclasses
import os
import warnings
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageOps

from fedsup_tf.data.colour_profiles import ALPHA_MODES, convert_to_srgb, has_alpha
from fedsup_tf.data.preprocessing import RESIZES
from fedsup_tf.data.wide_pixels import (
    PICTURE_GREATEST,
    has_high_bit_depth,
    is_wide_grey,
    reduce_to_8_bits,
)
from fedsup_tf.files.reading import open_regular, reading
from fedsup_tf.files.validation import check_choice, check_number, check_whole_number

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")
# Pictures of a 64-megapixel camera; larger ones are not decoded.
MAX_PIXELS = 2**26
_EXPECTED = f"a picture ({', '.join(FORMATS)})"
_REMEDY = "Write it anew as PNG, or take it out."
_GREY_MODES = ("1", "L", "LA", "La")
_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 0x0100, 0x0101
_SAMPLE_FORMAT, _SIGNED = 0x0153, 2
# EXIF orientations that swap height and width.
_LYING = (5, 6, 7, 8)


@dataclasses.dataclass(frozen=True)
class PictureForm:
    """Form that pictures are converted to when they are read.

    Attributes:
      image_shape: `(height, width, channels)`; 1 channel is grey, 3 are red, green and blue.
      resize: How to change the aspect ratio before scaling: `"crop"` cuts two sides off, `"fit"`
        adds background at two sides.
      background: Colour behind transparent pixels, such as `"white"` or `"#ff8000"`.
      pixel_scale: Pixel value of full brightness in pictures of more than 8 bits per channel; by
        default the maximum of the file's number of bits.

    Raises:
      ValueError: If a field is out of range.
    """

    image_shape: tuple[int, int, int]
    resize: str = "crop"
    background: str = "white"
    pixel_scale: float | None = None

    def __post_init__(self):
        if not isinstance(self.image_shape, list | tuple) or len(self.image_shape) != 3:
            raise ValueError(
                "Expected an image_shape of height, width and channels, received "
                f"{self.image_shape}. Give three numbers, such as 32,32,3."
            )
        height, width, channels = self.image_shape
        check_whole_number(height, "the height of pictures", 1)
        check_whole_number(width, "the width of pictures", 1)
        if channels not in (1, 3):
            raise ValueError(
                f"Expected 1 or 3 channels for pictures, received {channels}. Give images of other "
                "channels as an .npz file."
            )
        check_choice(self.resize, "resize", RESIZES)
        background_colour(self.background)
        if self.pixel_scale is not None:
            check_number(
                self.pixel_scale,
                "pixel_scale",
                above=0,
                advice="Give that of full brightness, such as 4095.",
            )


class PictureHeader(NamedTuple):
    """Size and depth of a picture, known before its pixels are decoded.

    Attributes:
      shape: `(height, width, channels)` of the upright picture; 1 channel if grey, otherwise 3.
      has_high_bit_depth: Whether its channels have more than 8 bits.
      has_alpha: Whether pixels may be transparent.
    """

    shape: tuple[int, int, int]
    has_high_bit_depth: bool
    has_alpha: bool


def background_colour(text: str) -> tuple[int, int, int]:
    """Returns the red, green and blue of a colour, each from 0 to 255.

    Args:
      text: A name such as `"white"`, or hexadecimal digits such as `"#ff8000"`.

    Raises:
      ValueError: If `text` is not a colour.
    """
    try:
        return ImageColor.getrgb(text)[:3]
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"Expected a background such as white, black or #ff8000, received {text!r}."
        ) from error


def read_header(path: str | os.PathLike) -> PictureHeader:
    """Reads the header of a picture.

    Raises:
      InvalidFileError: If the file is not a picture, or the picture is too large.
    """
    with reading(path, _EXPECTED, _REMEDY), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_regular(path, _EXPECTED) as file, _opened(file) as picture:
            # Before the orientation, since Pillow decodes a PNG to find it.
            has_more_bits, is_grey = has_high_bit_depth(picture), _is_grey(picture)
            width, height = picture.size
            if picture.format == "TIFF":
                # Pillow applies the orientation only to the size of TIFFs.
                width, height = picture.tag_v2[_WIDTH], picture.tag_v2[_HEIGHT]
            if _orientation(picture) in _LYING:
                width, height = height, width
            shape = (height, width, 1 if is_grey else 3)
            return PictureHeader(shape, has_more_bits, has_alpha(picture))


def read_picture(path: str | os.PathLike, form: PictureForm) -> np.ndarray:
    """Reads a picture, or the first one of a file with several.

    The picture is turned upright by its EXIF orientation, transparent pixels show the background,
    channels of more bits are reduced to 8, CMYK is converted to RGB, and the colours of an embedded
    profile are converted to sRGB.

    Args:
      path: A PNG, JPEG, BMP, WebP, TIFF or GIF file, recognized by its content, not by its name.
      form: Size and colours of the result.

    Returns:
      `(height, width, channels)`, uint8.

    Raises:
      InvalidFileError: If the file is not a complete picture, or the picture is too large.
    """
    return read_with_brightness(path, form)[0]


def read_with_brightness(path: str | os.PathLike, form: PictureForm) -> tuple[np.ndarray, int]:
    """Reads a picture like `read_picture`, and also returns its greatest pixel value.

    Args:
      path: See `read_picture`.
      form: See `read_picture`.

    Returns:
      The picture, and the greatest value of its colour channels before the background is added,
      from 0 to 255. Always 255 for a picture of 8 bits per channel.

    Raises:
      InvalidFileError: For the same reasons as `read_picture`.
    """
    with reading(path, _EXPECTED, _REMEDY), warnings.catch_warnings():
        # Pillow warns of faults that do not affect pixels, such as damaged EXIF fields.
        warnings.simplefilter("ignore")
        with open_regular(path, _EXPECTED) as file, _opened(file) as picture:
            brightest = PICTURE_GREATEST
            if has_high_bit_depth(picture):
                picture = reduce_to_8_bits(lambda: _opened(file), form.pixel_scale)
                colours = np.asarray(picture)
                if picture.mode in ALPHA_MODES:
                    colours = colours[..., :-1]
                brightest = int(colours.max())
            if _orientation(picture):
                # In place, to keep the file's information about its pixels.
                ImageOps.exif_transpose(picture, in_place=True)
            return form_picture(convert_to_srgb(picture), form), brightest


def form_picture(picture: Image.Image, form: PictureForm) -> np.ndarray:
    """Converts a decoded, upright picture of 8 bits per channel to `form`, see `read_picture`.

    Returns:
      `(height, width, channels)`, uint8.
    """
    height, width, channels = form.image_shape
    mode, colour = ("L", "RGB")[channels == 3], background_colour(form.background)
    if has_alpha(picture):
        # Pillow cannot convert grey with premultiplied alpha to RGBA directly.
        picture = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture)
    picture = picture.convert(mode)
    if picture.size != (width, height):
        if form.resize == "crop":
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BOX)
        else:
            behind = Image.new("RGB", (1, 1), colour).convert(mode).getpixel((0, 0))
            picture = ImageOps.pad(picture, (width, height), Image.Resampling.BOX, behind)
    return np.asarray(picture, np.uint8).reshape(height, width, channels)


def _opened(file: BinaryIO) -> Image.Image:
    """Opens a picture by its content, and reads only its header.

    Raises:
      ValueError: If the file is not a picture, is too large to decode, or has signed values.
    """
    try:
        file.seek(0)
        picture = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"expected {_EXPECTED}, received a file of another kind.") from error
    width, height = picture.size
    if width * height > MAX_PIXELS:
        picture.close()
        raise ValueError(
            f"expected a picture of at most {MAX_PIXELS:,} pixels, received {width:,} x {height:,}."
        )
    # Pillow reads signed 8-bit channels as unsigned.
    is_signed = _SIGNED in getattr(picture, "tag_v2", {}).get(_SAMPLE_FORMAT, ())
    if is_signed and not has_high_bit_depth(picture):
        picture.close()
        raise ValueError("expected brightness from 0 to 255, received signed values.")
    return picture


def _orientation(picture: Image.Image) -> int | None:
    """Returns the EXIF orientation of a picture; None if it is missing or damaged."""
    try:
        return picture.getexif().get(_ORIENTATION)
    # Damaged fields unrelated to the pixels make Pillow raise many kinds of errors.
    except Exception:
        return None


def _is_grey(picture: Image.Image) -> bool:
    if picture.mode == "P":
        palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    is_grey = picture.mode in _GREY_MODES or picture.mode.startswith(("I", "F"))
    return is_grey or is_wide_grey(picture)
