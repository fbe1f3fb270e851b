"""Converts the colours of pictures to sRGB with the profiles embedded in their files.

The same numbers mean different colours in a phone's Display P3, in Adobe RGB or in a printer's
CMYK. Android gives apps the pixels of a picture in sRGB, so models must be trained in sRGB, too.
"""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
# Pillow modes to convert, and the colour space that a profile names for each.
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
# A profile whose colours differ from sRGB's by at most this, out of 255, is treated as sRGB.
_SAME = 3
# Channel values at which a profile is compared with sRGB.
_PROBES = (0, 32, 64, 96, 128, 160, 192, 224, 255)
# Number of cached transforms; all pictures of one camera share a profile.
_KEPT = 16


def convert_to_srgb(picture: Image.Image) -> Image.Image:
    """Converts a decoded picture of 8 bits per channel to sRGB, if it has a colour profile.

    A profile that is damaged, or does not match the picture's channels, is ignored, as image
    viewers do.

    Args:
      picture: Picture as decoded by Pillow, with the profile in `info["icc_profile"]`.

    Returns:
      A picture of mode RGB, or RGBA if pixels may be transparent; `picture` itself if there is
      nothing to convert.
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
    """Returns the transform from a profile to sRGB; None if there is nothing to convert."""
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
