"""Brings pixels of more than 8 bits to 8, by their value of full brightness."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from PIL import Image

# Greatest value of a pixel of a picture, once its channels have 8 bits.
PICTURE_GREATEST = 255
GREATEST_OF_16_BITS = 2**16 - 1
# Pixels of 16 bits so many times darker than can be may well have fewer bits.
DARK = 8
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO, _PLANES = 258, 262, 0, 284
# Pillow's name for the pixels of a grey PNG with alpha, of 16 bits each, read as colours.
_GREY_ALPHA = "LA;16B"


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
    return (
        picture.mode.startswith(("I", "F"))
        or ";16" in _raw_mode(picture)
        or _has_wide_planes(picture)
    )


def is_wide_grey(picture: Image.Image) -> bool:
    """Returns whether an opened picture, not yet loaded, is grey with alpha, of 16 bits each."""
    return _raw_mode(picture) == _GREY_ALPHA


def narrow_picture(
    open_picture: Callable[[], AbstractContextManager[Image.Image]], pixel_scale: float | None
) -> Image.Image:
    """Brings a picture of more than 8 bits a channel to 8.

    Args:
      open_picture: Opens the picture anew each time; its header alone is read.
      pixel_scale: Value of full brightness; by default that of as many bits as the file says.

    Returns:
      The decoded picture, with what the file says of its orientation and colours, and with alpha
      where it has transparent pixels.

    Raises:
      ValueError: If its pixels are of a kind whose brightness is unknown, or cannot be read, or are
        above `pixel_scale`.
    """
    with open_picture() as picture:
        tags = getattr(picture, "tag_v2", {})
        transparent = picture.info.get("transparency")
        if picture.mode.startswith(("I", "F")):
            colours, alpha, mode = _loaded(picture)[..., np.newaxis], None, "L"
        else:
            colours, alpha, mode = _wide_colours(open_picture, picture)
        # Only now, since Pillow decodes a PNG to find it.
        kept = {"exif": picture.getexif().tobytes()}
        if "icc_profile" in picture.info:
            kept["icc_profile"] = picture.info["icc_profile"]
    if transparent is not None:
        alpha = (colours != np.array(transparent)).any(-1, keepdims=True) * GREATEST_OF_16_BITS
        mode = {"L": "LA", "RGB": "RGBA"}[mode]
    if pixel_scale is not None:
        check_range(colours, pixel_scale)
        greatest = pixel_scale
    elif colours.dtype.kind == "u":
        greatest = 2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    else:
        raise ValueError(
            f"expected 8 or 16 bits a channel, received pixels of kind {picture.mode}, whose "
            "greatest value is unknown. Give their value of full brightness as pixel_scale."
        )
    narrow = scale_pixels(colours, greatest, PICTURE_GREATEST)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        narrow = PICTURE_GREATEST - narrow
    if alpha is not None:
        narrow = np.concatenate(
            (narrow, scale_pixels(alpha, GREATEST_OF_16_BITS, PICTURE_GREATEST)), axis=-1
        )
    result = Image.frombytes(mode, narrow.shape[1::-1], narrow.tobytes())
    result.info.update(kept)
    return result


def _wide_colours(
    open_picture: Callable[[], AbstractContextManager[Image.Image]], picture: Image.Image
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Returns colours of 16 bits, alpha or None, and the mode of both together.

    Pillow decodes the first 8 bits of such channels alone. Read as if its bytes were in the other
    order, the same file gives the last 8.
    """
    if is_wide_grey(picture):
        mode, halves = "LA", _loaded(picture, "RGBA").astype(np.uint16)
        pixels = halves[..., 0::2] << 8 | halves[..., 1::2]
    else:
        mode, order = picture.mode, _order(picture)
        high = _loaded(picture, order).astype(np.uint16)
        with open_picture() as again:
            pixels = high << 8 | _loaded(again, "B" if order == "L" else "L")
    if mode in ("LA", "RGBA", "RGBa"):
        return pixels[..., :-1], pixels[..., -1:], mode
    return pixels, None, mode


def _raw_mode(picture: Image.Image) -> str:
    args = picture.tile[0].args if picture.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)


def _has_wide_planes(picture: Image.Image) -> bool:
    """Returns whether a TIFF has a plane of 16 bits for each channel, read as if of 8 bits."""
    tags = getattr(picture, "tag_v2", {})
    return tags.get(_PLANES) == 2 and tags.get(_BITS_PER_SAMPLE, (8,))[0] == 16


def _order(picture: Image.Image) -> str:
    """Returns in which order the bytes of a channel are, `"B"` for the first 8 bits first."""
    if _has_wide_planes(picture):
        if picture.mode != "RGB" or picture.tile[0].codec_name != "raw":
            raise ValueError(
                "expected the channels of each pixel together, received planes of 16 bits, "
                "compressed or of other channels than red, green and blue."
            )
        return "B" if picture.tag_v2.prefix == b"MM" else "L"
    order = _raw_mode(picture)[-1]
    return {"N": "L" if sys.byteorder == "little" else "B"}.get(order, order)


def _loaded(picture: Image.Image, order_or_mode: str | None = None) -> np.ndarray:
    """Decodes a picture, its channels in an order of bytes, `"B"` or `"L"`, or as a raw mode."""
    tiles = []
    for tile in picture.tile:
        own, *others = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        raw_mode = order_or_mode or own
        if raw_mode in ("B", "L"):
            raw_mode = f"{own.partition(';')[0]};16{order_or_mode}"
        args = (raw_mode, *others) if isinstance(tile.args, tuple) else raw_mode
        tiles.append(tile._replace(args=args))
    picture.tile = tiles
    picture.load()
    return np.asarray(picture)
