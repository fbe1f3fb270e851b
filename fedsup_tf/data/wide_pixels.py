"""Brings pixels of more than 8 bits to 8, by their value of full brightness."""

import numpy as np
from PIL import Image

# Greatest value of a pixel of a picture, once its channels have 8 bits.
PICTURE_GREATEST = 255
GREATEST_OF_16_BITS = 2**16 - 1
# Pixels of 16 bits so many times darker than can be may well have fewer bits.
DARK = 8
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def scale_pixels(pixels: np.ndarray, greatest: float, wanted: int) -> np.ndarray:
    """Scales pixels to another greatest value, to the nearest whole number.

    Args:
      pixels: Numbers from 0 to `greatest`, of any shape.
      greatest: Their value of full brightness; that of whole numbers is a whole number below 2**24.
      wanted: That of the result, from 1 to 255.

    Returns:
      The pixels, uint8.
    """
    if greatest == wanted:
        return pixels.astype(np.uint8, copy=False)
    if pixels.dtype.kind == "f" or greatest % 1 or greatest >= 2**24:
        return np.rint(pixels.astype(np.float64) * (wanted / greatest)).astype(np.uint8)
    wide = pixels.astype(np.uint32)
    return ((wide * wanted + int(greatest) // 2) // int(greatest)).astype(np.uint8)


def check_range(pixels: np.ndarray, pixel_scale: float) -> None:
    """Refuses pixels that are not from 0 to the value of full brightness that was given.

    Raises:
      ValueError: If one is not.
    """
    least, greatest = pixels.min(), pixels.max()
    if not 0 <= least <= greatest <= pixel_scale:
        raise ValueError(
            f"expected pixels from 0 to the pixel_scale {pixel_scale:g}, received {least:g} to "
            f"{greatest:g}. Give the value of full brightness as pixel_scale."
        )


def is_wide(picture: Image.Image) -> bool:
    """Returns whether an opened picture, not yet loaded, has more than 8 bits a channel."""
    return picture.mode.startswith(("I", "F")) or ";16" in str(picture.tile)


def check_colours(picture: Image.Image, pixel_scale: float | None) -> None:
    """Refuses a scale for an opened picture whose colours are read as their first 8 bits alone.

    Raises:
      ValueError: If it is such a picture, and the scale is not that of 16 bits.
    """
    is_colour = is_wide(picture) and not picture.mode.startswith(("I", "F"))
    if is_colour and pixel_scale not in (None, GREATEST_OF_16_BITS):
        raise ValueError(
            f"expected grey pixels or 8 bits a channel beside the pixel_scale {pixel_scale:g}, "
            "received colours of 16 bits, of which 8 are read. Write it with 8 bits a channel."
        )


def narrow_picture(picture: Image.Image, pixel_scale: float | None) -> Image.Image:
    """Brings a picture to 8 bits a channel.

    16 bits of colours are read as their first 8, and their scale is that of 16 bits.

    Args:
      picture: A decoded picture of any mode.
      pixel_scale: Value of full brightness; by default that of as many bits as the file says.

    Returns:
      The picture; grey, with alpha where one grey value is transparent, if it had more bits.

    Raises:
      ValueError: If its pixels are of a kind whose brightness is unknown, or above `pixel_scale`.
    """
    if not picture.mode.startswith(("I", "F")):
        return picture
    tags = getattr(picture, "tag_v2", {})
    pixels = np.asarray(picture)
    if pixel_scale is not None:
        check_range(pixels, pixel_scale)
        greatest = pixel_scale
    elif picture.mode.startswith("I;16"):
        greatest = 2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    else:
        raise ValueError(
            f"expected 8 or 16 bits a channel, received pixels of kind {picture.mode}, whose "
            "greatest value is unknown. Give their value of full brightness as pixel_scale."
        )
    narrow = scale_pixels(pixels, greatest, PICTURE_GREATEST)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        narrow = PICTURE_GREATEST - narrow
    transparent = picture.info.get("transparency")
    if transparent is None:
        return Image.fromarray(narrow)
    alpha = np.where(pixels == transparent, 0, PICTURE_GREATEST).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(narrow), Image.fromarray(alpha)))
