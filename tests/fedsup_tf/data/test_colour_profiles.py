"""Tests that pictures with a colour profile are converted to sRGB."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from fedsup_tf.data.colour_profiles import convert_to_srgb
from fedsup_tf.data.pictures import PictureForm, read_picture

COLOUR = PictureForm((8, 8, 3))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# sRGB with red and blue swapped.
SWAPPED = SRGB.replace(b"rXYZ", b"-XYZ").replace(b"bXYZ", b"rXYZ").replace(b"-XYZ", b"bXYZ")


def red(mode="RGB"):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0] = 255
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff"])
def test_colours_are_those_of_the_profile(tmp_path, ending):
    options = {"lossless": True} if ending == "webp" else {}
    red().save(tmp_path / f"a.{ending}", icc_profile=SWAPPED, **options)
    read = read_picture(tmp_path / f"a.{ending}", COLOUR)
    np.testing.assert_allclose(read[0, 0], (0, 0, 255), atol=4)


def test_palettes_and_transparent_pixels_keep_what_they_show(tmp_path):
    red("P").save(tmp_path / "palette.png", icc_profile=SWAPPED)
    np.testing.assert_allclose(
        read_picture(tmp_path / "palette.png", COLOUR)[0, 0], (0, 0, 255), atol=4
    )
    picture = red("RGBA")
    picture.putalpha(
        Image.fromarray(np.repeat(np.uint8([[0], [255]]), (4, 4), 0) * np.ones((1, 8), np.uint8))
    )
    picture.save(tmp_path / "alpha.png", icc_profile=SWAPPED)
    read = read_picture(tmp_path / "alpha.png", COLOUR)
    np.testing.assert_array_equal(read[0, 0], (255, 255, 255))
    np.testing.assert_allclose(read[-1, -1], (0, 0, 255), atol=4)


def test_16_bits_are_of_the_profile_too(tmp_path):
    pixels = np.full((8, 8), 2**15, np.uint16)
    linear = grey_profile(gamma=1.0)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=linear)
    # Half of the linear intensity is the value 188 in sRGB.
    np.testing.assert_allclose(
        read_picture(tmp_path / "a.png", PictureForm((8, 8, 1))), 188, atol=2
    )


@pytest.mark.parametrize(
    ("profile", "mode"),
    [
        (SRGB, "RGB"),
        (SRGB[:200], "RGB"),
        (b"no profile", "RGB"),
        (SWAPPED, "L"),
        (SWAPPED, "CMYK"),
    ],
    ids=["sRGB", "cut", "damaged", "of colours for grey", "of light for ink"],
)
def test_profiles_that_say_nothing_are_passed_over(profile, mode):
    picture = red(mode)
    picture.info["icc_profile"] = profile
    assert convert_to_srgb(picture) is picture


def grey_profile(gamma):
    """Returns a grey ICC profile, version 2, with the given gamma."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(78)
    parts = {b"wtpt": white, b"kTRC": curve, b"desc": description + bytes(-len(description) % 4)}
    begin, table, data = 128 + 4 + 12 * len(parts), struct.pack(">I", len(parts)), b""
    for name, part in parts.items():
        table += name + struct.pack(">II", begin + len(data), len(part))
        data += part
    size = begin + len(data)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header + bytes(128 - len(header)) + table + data
