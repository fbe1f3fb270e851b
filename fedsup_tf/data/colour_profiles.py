"""Converts the colours of pictures to sRGB by the profile that their files carry.

The same numbers are other colours in a phone's Display P3, in Adobe RGB or in a printer's CMYK.
Android gives an app the pixels of a picture in sRGB, so that a net must be trained on them, too.
"""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
# Modes of Pillow to convert, with the colour space that a profile names for each.
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
# A profile whose colours differ from sRGB's by no more, of 255, is sRGB in another writing.
_SAME = 3
# Values of each channel at which a profile is compared with sRGB.
_PROBES = (0, 32, 64, 96, 128, 160, 192, 224, 255)
# Profiles whose transforms are kept; the pictures of a camera have the same one.
_KEPT = 16


def convert_to_srgb(picture: Image.Image) -> Image.Image:
    """Converts a decoded picture of 8 bits a channel to sRGB, if it has a colour profile.

    A profile that is damaged, or of other channels than the picture's, is passed over, as by
    programs that show pictures.

    Args:
      picture: As Pillow decodes it, with the profile as `info["icc_profile"]`.

    Returns:
      A picture of mode RGB, RGBA if pixels may be transparent; or the given one if there is nothing
      to convert.
    """
    profile = picture.info.get("icc_profile")
    if not profile:
        return picture
    colours, alpha = picture, None
    if has_alpha(picture) or picture.mode == "P":
        straight = picture.convert("RGBA")
        alpha = straight.getchannel("A")
        colours = straight.convert("L" if picture.mode.startswith("L") else "RGB")
    transform = _transform_to_srgb(bytes(profile), colours.mode)
    if transform is None:
        return picture
    converted = transform.apply(colours)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def has_alpha(picture: Image.Image) -> bool:
    """Returns whether pixels of a picture may be transparent."""
    return picture.mode in ALPHA_MODES or "transparency" in picture.info


@functools.lru_cache(maxsize=_KEPT)
def _transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the transform of a mode's colours to sRGB; None if there is nothing to convert."""
    if mode not in _SPACES:
        return None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if opened.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if mode == "CMYK":
        return transform
    channels = Image.getmodebands(mode)
    grid = np.stack(np.meshgrid(*[np.uint8(_PROBES)] * channels), -1).reshape(1, -1, channels)
    probe = Image.frombytes(mode, (grid.shape[1], 1), grid.tobytes())
    change = np.int16(transform.apply(probe)) - np.int16(probe.convert("RGB"))
    return transform if np.abs(change).max() > _SAME else None
