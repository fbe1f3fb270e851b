"""Reads pictures as people have them: common formats, upright, on a background, of one size.

The same reader serves training, exporting and devices, so that a picture enters a net the same way
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
from fedsup_tf.data.wide_pixels import PICTURE_GREATEST, is_wide, is_wide_grey, narrow_picture
from fedsup_tf.files.reading import open_regular, reading
from fedsup_tf.files.validation import check_choice, check_number, check_whole_number

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")
# A camera of 64 megapixels; room for the decoded picture is made only within this.
MOST_PIXELS = 2**26
_EXPECTED = f"a picture ({', '.join(FORMATS)})"
_REMEDY = "Write it anew as PNG, or take it out."
_GREY_MODES = ("1", "L", "LA", "La")
_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 0x0100, 0x0101
_SAMPLE_FORMAT, _SIGNED = 0x0153, 2
# Orientations in which height and width change places.
_LYING = (5, 6, 7, 8)


@dataclasses.dataclass(frozen=True)
class PictureForm:
    """Form that pictures get when they are read.

    Attributes:
      image_shape: `(height, width, channels)`; 1 channel is grey, 3 are red, green and blue.
      resize: `"crop"` cuts a picture of another aspect ratio at two sides, `"fit"` adds background
        at two sides; both scale it then.
      background: What is behind transparent pixels, such as `"white"` or `"#ff8000"`.
      pixel_scale: Value of full brightness where pixels have more than 8 bits; by default that of
        as many bits as the file says.

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
            check_number(self.pixel_scale, "pixel_scale", above=0, advice="Give 4095.")


class PictureHeader(NamedTuple):
    """Size and depth of a picture, as its file says them before its pixels are decoded.

    Attributes:
      shape: `(height, width, channels)` of the upright picture; 1 channel if it is grey, else 3.
      is_wide: Whether its channels have more than 8 bits.
      has_alpha: Whether pixels may be transparent.
    """

    shape: tuple[int, int, int]
    is_wide: bool
    has_alpha: bool


def background_colour(text: str) -> tuple[int, int, int]:
    """Returns the red, green and blue of a colour, each from 0 to 255.

    Args:
      text: A name such as `"white"`, or hexadecimal digits such as `"#ff8000"`.

    Raises:
      ValueError: If it is no colour.
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
      InvalidFileError: If the file is no picture, or one too large.
    """
    with reading(path, _EXPECTED, _REMEDY), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_regular(path, _EXPECTED) as file, _opened(file) as picture:
            # Before the orientation, since Pillow decodes a PNG to find it.
            has_more_bits, is_grey = is_wide(picture), _is_grey(picture)
            width, height = picture.size
            if picture.format == "TIFF":
                # Pillow turns the size of these alone.
                width, height = picture.tag_v2[_WIDTH], picture.tag_v2[_HEIGHT]
            if _orientation(picture) in _LYING:
                width, height = height, width
            shape = (height, width, 1 if is_grey else 3)
            return PictureHeader(shape, has_more_bits, has_alpha(picture))


def read_picture(path: str | os.PathLike, form: PictureForm) -> np.ndarray:
    """Reads a picture; the first one of a file that has several.

    It is turned upright as its EXIF orientation says. Transparent pixels show the background, more
    bits a channel become 8, CMYK becomes red, green and blue, and colours of a profile that the
    file carries become those of sRGB.

    Args:
      path: A PNG, JPEG, BMP, WebP, TIFF or GIF file; its content decides, not its name.
      form: Size and colours of the result.

    Returns:
      `(height, width, channels)`, uint8.

    Raises:
      InvalidFileError: If the file is no whole picture, or one too large.
    """
    return read_with_brightness(path, form)[0]


def read_with_brightness(path: str | os.PathLike, form: PictureForm) -> tuple[np.ndarray, int]:
    """Reads a picture as `read_picture`, and tells how bright one of more than 8 bits is.

    Args:
      path: See `read_picture`.
      form: See `read_picture`.

    Returns:
      The picture, and the greatest value of its colours before it got a background, from 0 to 255;
      255 for a picture of 8 bits.

    Raises:
      InvalidFileError: As `read_picture`.
    """
    with reading(path, _EXPECTED, _REMEDY), warnings.catch_warnings():
        # Pillow warns of what is of no consequence for pixels, such as damaged EXIF fields.
        warnings.simplefilter("ignore")
        with open_regular(path, _EXPECTED) as file, _opened(file) as picture:
            brightest = PICTURE_GREATEST
            if is_wide(picture):
                picture = narrow_picture(lambda: _opened(file), form.pixel_scale)
                colours = np.asarray(picture)
                if picture.mode in ALPHA_MODES:
                    colours = colours[..., :-1]
                brightest = int(colours.max())
            if _orientation(picture):
                # In place, so that what the file says of its pixels stays with it.
                ImageOps.exif_transpose(picture, in_place=True)
            return form_picture(convert_to_srgb(picture), form), brightest


def form_picture(picture: Image.Image, form: PictureForm) -> np.ndarray:
    """Gives a decoded, upright picture of 8 bits a channel its form, see `read_picture`.

    Returns:
      `(height, width, channels)`, uint8.
    """
    height, width, channels = form.image_shape
    mode, colour = ("L", "RGB")[channels == 3], background_colour(form.background)
    if has_alpha(picture):
        # Pillow has no direct way from grey that is multiplied by its alpha to colours.
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
    """Opens a picture by its content; its header alone is read.

    Raises:
      ValueError: If it is not a picture, too large to be decoded, or of signed values.
    """
    try:
        file.seek(0)
        picture = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"expected {_EXPECTED}, received a file of another kind.") from error
    width, height = picture.size
    if width * height > MOST_PIXELS:
        picture.close()
        raise ValueError(
            f"expected a picture of at most {MOST_PIXELS:,} pixels, received {width:,} x "
            f"{height:,}."
        )
    # Pillow reads signed channels of 8 bits as if they had no sign.
    if _SIGNED in getattr(picture, "tag_v2", {}).get(_SAMPLE_FORMAT, ()) and not is_wide(picture):
        picture.close()
        raise ValueError("expected brightness from 0 to 255, received signed values.")
    return picture


def _orientation(picture: Image.Image) -> int | None:
    """Returns the EXIF orientation of a picture; None if it has none, or damaged fields."""
    try:
        return picture.getexif().get(_ORIENTATION)
    # Fields that say nothing of the pixels make Pillow raise errors of many kinds.
    except Exception:
        return None


def _is_grey(picture: Image.Image) -> bool:
    if picture.mode == "P":
        palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    is_grey = picture.mode in _GREY_MODES or picture.mode.startswith(("I", "F"))
    return is_grey or is_wide_grey(picture)
