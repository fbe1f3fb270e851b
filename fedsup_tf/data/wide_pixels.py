"""Scales pixels of more than 8 bits to 8 bits, by their value of full brightness."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from PIL import Image

# Greatest pixel value of 8-bit channels.
PICTURE_GREATEST = 255
MAX_OF_16_BITS = 2**16 - 1
# 16-bit pixels that are darker than full brightness by this factor may really have fewer bits.
DARK = 8
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO, _PLANES = 258, 262, 0, 284
# Pillow's raw mode of a PNG with 16-bit grey and alpha, which it reads as a colour picture.
_GREY_ALPHA = "LA;16B"


def scale_pixels(pixels: np.ndarray, greatest: float, wanted: int) -> np.ndarray:
    """Scales pixels to another value of full brightness, rounded to whole numbers.

    Args:
      pixels: Numbers from 0 to `greatest`, of any shape.
      greatest: Value of full brightness of `pixels`.
      wanted: Value of full brightness of the result, from 1 to 255.

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
    """Checks that pixels are from 0 to the given value of full brightness.

    Raises:
      ValueError: If a pixel is not.
    """
    minimum, maximum = pixels.min(), pixels.max()
    if not 0 <= minimum <= maximum <= pixel_scale:
        raise ValueError(
            f"expected pixels from 0 to the pixel_scale {pixel_scale:g}, received {minimum:g} to "
            f"{maximum:g}. Give the value of full brightness as pixel_scale."
        )


def has_high_bit_depth(picture: Image.Image) -> bool:
    """Returns whether an opened, not yet loaded picture has more than 8 bits per channel."""
    return (
        picture.mode.startswith(("I", "F"))
        or ";16" in _raw_mode(picture)
        or _has_wide_planes(picture)
    )


def is_wide_grey(picture: Image.Image) -> bool:
    """Returns whether an opened, not yet loaded picture has channels of 16-bit grey and alpha."""
    return _raw_mode(picture) == _GREY_ALPHA


def reduce_to_8_bits(
    open_picture: Callable[[], AbstractContextManager[Image.Image]], pixel_scale: float | None
) -> Image.Image:
    """Reduces a picture of more than 8 bits per channel to 8 bits.

    Args:
      open_picture: Opens the picture and reads only its header; may be called several times.
      pixel_scale: Pixel value of full brightness; by default the maximum of the file's number of
        bits.

    Returns:
      The decoded picture with the EXIF data and colour profile of the file, and with an alpha
      channel if pixels may be transparent.

    Raises:
      ValueError: If the maximum brightness of its kind of pixels is unknown, or pixels cannot be
        read or exceed `pixel_scale`.
    """
    with open_picture() as picture:
        tags = getattr(picture, "tag_v2", {})
        transparent = picture.info.get("transparency")
        if picture.mode.startswith(("I", "F")):
            colours, alpha, mode = _loaded(picture)[..., np.newaxis], None, "L"
        else:
            colours, alpha, mode = _wide_colours(open_picture, picture)
        # Only after decoding, since reading the EXIF data makes Pillow decode a PNG.
        kept = {"exif": picture.getexif().tobytes()}
        if "icc_profile" in picture.info:
            kept["icc_profile"] = picture.info["icc_profile"]
    if transparent is not None:
        alpha = (colours != np.array(transparent)).any(-1, keepdims=True) * MAX_OF_16_BITS
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
            (narrow, scale_pixels(alpha, MAX_OF_16_BITS, PICTURE_GREATEST)), axis=-1
        )
    result = Image.frombytes(mode, narrow.shape[1::-1], narrow.tobytes())
    result.info.update(kept)
    return result


def _wide_colours(
    open_picture: Callable[[], AbstractContextManager[Image.Image]], picture: Image.Image
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Returns 16-bit colours, alpha or None, and the mode of both together.

    Pillow decodes only the high 8 bits of such channels. Decoding the same file with the opposite
    byte order yields the low 8 bits.
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
    """Returns whether a TIFF has one 16-bit plane per channel, which Pillow reads as 8 bits."""
    tags = getattr(picture, "tag_v2", {})
    return tags.get(_PLANES) == 2 and tags.get(_BITS_PER_SAMPLE, (8,))[0] == 16


def _order(picture: Image.Image) -> str:
    """Returns the byte order of a channel: `"B"` for big-endian, `"L"` for little-endian."""
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
    """Decodes a picture with a byte order, `"B"` or `"L"`, with a raw mode, or with its own."""
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
