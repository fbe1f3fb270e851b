"""Tests of reading pictures: formats, colours, transparency, orientation, size and scale."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fedsup_tf.data import pictures
from fedsup_tf.data.pictures import PictureForm, read_header, read_picture
from fedsup_tf.files.reading import InvalidFileError

GREY, COLOUR = PictureForm((8, 8, 1)), PictureForm((8, 8, 3))
RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp", "webp", "tiff", "gif"])
def test_formats_without_loss_are_read_pixel_by_pixel(tmp_path, ending):
    options = {"lossless": True} if ending == "webp" else {}
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(RAMP), **options)
    np.testing.assert_array_equal(read_picture(path, GREY)[..., 0], RAMP)
    np.testing.assert_array_equal(read_picture(path, COLOUR), RAMP[..., np.newaxis].repeat(3, 2))


def test_jpeg_and_endings_that_lie_are_read(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(RAMP), format="JPEG", quality=100)
    np.testing.assert_allclose(read_picture(path, GREY)[..., 0].astype(int), RAMP, atol=3)


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200)]
    for ending in ("gif", "tiff", "webp", "png"):
        path = tmp_path / f"a.{ending}"
        options = {"lossless": True} if ending == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        assert np.unique(read_picture(path, GREY)).tolist() == [10]


@pytest.mark.parametrize(("background", "paper"), [("white", 255), ("black", 0), ("#808080", 128)])
def test_transparent_paper_shows_the_background(tmp_path, background, paper):
    ink = np.zeros((8, 8), np.uint8)
    ink[2:4] = 255
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., 3] = ink
    grey_alpha = np.stack([np.zeros((8, 8), np.uint8), ink], -1)
    palette = Image.fromarray((ink == 255).astype(np.uint8), "P")
    palette.putpalette([9, 9, 9, 0, 0, 0])
    paths = [
        saved(tmp_path / "a.png", Image.fromarray(rgba)),
        saved(tmp_path / "b.png", Image.fromarray(grey_alpha, "LA")),
        saved(tmp_path / "c.png", palette, transparency=0),
        saved(tmp_path / "d.gif", palette, transparency=0),
        saved(tmp_path / "e.webp", Image.fromarray(rgba), lossless=True, exact=True),
        saved(tmp_path / "f.tiff", Image.fromarray(rgba)),
    ]
    expected = np.where(ink == 255, 0, paper)
    for path in paths:
        for form in (
            PictureForm((8, 8, 1), "crop", background),
            PictureForm((8, 8, 3), "fit", background),
        ):
            np.testing.assert_array_equal(read_picture(path, form)[..., 0], expected)


def test_grey_that_is_multiplied_by_its_alpha_shows_the_background(tmp_path):
    # Written by hand, since Pillow can only read it.
    grey_alpha = np.stack([RAMP // 2, np.full_like(RAMP, 128)], -1)
    data = grey_alpha.tobytes()
    entries = [(256, 1, 8), (257, 1, 8), (258, 2, 0x00080008), (259, 1, 1), (262, 1, 1)]
    entries += [(273, 1, 8), (277, 1, 2), (278, 1, 8), (279, 1, len(data)), (338, 1, 1)]
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    body = b"".join(struct.pack("<HHII", tag, 3, count, value) for tag, count, value in entries)
    path = tmp_path / "a.tiff"
    path.write_bytes(head + data + struct.pack("<H", len(entries)) + body + bytes(4))
    read = read_picture(path, GREY)[..., 0].astype(int)
    np.testing.assert_allclose(read, RAMP // 2 + 127, atol=2)


def test_16_bits_become_8(tmp_path):
    wide = RAMP.astype(np.uint16) * 257
    for ending in ("png", "tiff"):
        path = saved(tmp_path / f"a.{ending}", Image.fromarray(wide))
        np.testing.assert_array_equal(read_picture(path, GREY)[..., 0], RAMP)
        assert read_header(path) == ((8, 8, 1), True, False)


def write_tiff(path, pixels, bits, photometric, more=()):
    """Writes a grey TIFF of 8 x 8 pixels in a form that Pillow cannot write."""
    tags = [(256, 8), (257, 8), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1)]
    tags += [(278, 8), (279, len(pixels)), *more]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    path.write_bytes(head + pixels + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


def test_12_packed_bits_are_those_that_the_file_says(tmp_path):
    values = (RAMP.astype(int).ravel() * 4095 // 255).tolist()
    pairs = zip(values[::2], values[1::2], strict=True)
    packed = b"".join(((first << 12) | second).to_bytes(3, "big") for first, second in pairs)
    path = write_tiff(tmp_path / "a.tiff", packed, bits=12, photometric=1)
    np.testing.assert_allclose(read_picture(path, GREY)[..., 0].astype(int), RAMP, atol=1)


@pytest.mark.parametrize("bits", [8, 16])
def test_where_0_is_white_pixels_are_turned(tmp_path, bits):
    pixels = RAMP.astype(f"<u{bits // 8}") * (257 if bits == 16 else 1)
    path = write_tiff(tmp_path / "a.tiff", pixels.tobytes(), bits, photometric=0)
    np.testing.assert_array_equal(read_picture(path, GREY)[..., 0], 255 - RAMP)


def test_signed_values_of_8_bits_are_refused(tmp_path):
    signed = (RAMP ^ 128).tobytes()
    path = write_tiff(tmp_path / "a.tiff", signed, bits=8, photometric=1, more=[(339, 2)])
    for read in (read_header, lambda path: read_picture(path, GREY)):
        with pytest.raises(InvalidFileError, match="received signed values"):
            read(path)


def test_a_transparent_grey_value_of_16_bits_shows_the_background(tmp_path):
    wide = RAMP.astype(np.uint16) * 257
    path = saved(tmp_path / "a.png", Image.fromarray(wide), transparency=0)
    expected = np.where(RAMP == 0, 255, RAMP)
    np.testing.assert_array_equal(read_picture(path, GREY)[..., 0], expected)


def test_the_scale_of_more_than_8_bits_can_be_given(tmp_path):
    of_12_bits = Image.fromarray(RAMP.astype(np.uint16) * 16)
    of_32_bits = Image.fromarray(RAMP.astype(np.int32) * 2**20)
    fractions = Image.fromarray(RAMP.astype(np.float32) / 252)
    cases = [(of_12_bits, 252 * 16), (of_32_bits, 252 * 2**20), (fractions, 1)]
    for picture, scale in cases:
        path = saved(tmp_path / "a.tiff", picture)
        read = read_picture(path, PictureForm((8, 8, 1), pixel_scale=scale))[..., 0]
        np.testing.assert_allclose(read.astype(float), RAMP * (255 / 252), atol=0.51)
        assert read_header(path) == ((8, 8, 1), True, False)
        with pytest.raises(InvalidFileError, match="expected pixels from 0 to the pixel_scale"):
            read_picture(path, PictureForm((8, 8, 1), pixel_scale=scale / 2))
    # Pictures of 8 bits keep their own scale.
    path = saved(tmp_path / "b.png", Image.fromarray(RAMP))
    scaled = read_picture(path, PictureForm((8, 8, 1), pixel_scale=4095))
    np.testing.assert_array_equal(scaled[..., 0], RAMP)


def test_pixels_of_unknown_scale_are_refused(tmp_path):
    for values in (RAMP.astype(np.int32), RAMP.astype(np.float32)):
        path = saved(tmp_path / "a.tiff", Image.fromarray(values))
        with pytest.raises(InvalidFileError, match="Give their value of full brightness"):
            read_picture(path, GREY)


def png_of_16_bits(path, pixels):
    """Writes a PNG of 16 bits, which Pillow can only read."""

    def chunk(kind, data):
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [12, 16])
def test_colours_of_16_bits_are_read_in_full(tmp_path, channels, bits):
    scale = 2**bits - 1
    pixels = np.random.default_rng(0).integers(0, scale + 1, (8, 8, channels)).astype(np.uint16)
    if has_alpha := channels in (2, 4):
        pixels[..., -1] = np.where(pixels[..., -1] > scale // 2, 65535, 0)
    path = png_of_16_bits(tmp_path / "a.png", pixels)
    colours = 3 if channels > 2 else 1
    assert read_header(path) == ((8, 8, colours), True, has_alpha)
    expected = np.rint(pixels[..., :colours] * (255 / scale))
    if has_alpha:
        expected[pixels[..., -1] == 0] = 255
    form = PictureForm((8, 8, colours), pixel_scale=None if bits == 16 else scale)
    np.testing.assert_array_equal(read_picture(path, form), expected)
    with pytest.raises(InvalidFileError, match="expected pixels from 0 to the pixel_scale 99"):
        read_picture(path, PictureForm((8, 8, colours), pixel_scale=99))


def tiff_of_16_bits(path, pixels, is_planar):
    """Writes little-endian colours, interleaved by pixel or in one plane each."""
    height, width, channels = pixels.shape
    parts = np.moveaxis(pixels, -1, 0) if is_planar else pixels[np.newaxis]
    data = np.ascontiguousarray(parts, "<u2").tobytes()
    part_bytes = len(data) // len(parts)
    depths = struct.pack("<3H", 16, 16, 16)
    offsets = struct.pack(f"<{len(parts)}I", *(8 + n * part_bytes for n in range(len(parts))))
    sizes = struct.pack(f"<{len(parts)}I", *[part_bytes] * len(parts))
    after = {258: (3, depths), 273: (4, offsets), 279: (4, sizes)}
    entries, extra = b"", b""
    values = {256: width, 257: height, 259: 1, 262: 2, 277: channels, 278: height}
    values[284] = 2 if is_planar else 1
    for tag in sorted(values | after):
        kind, held = after.get(tag, (3, b""))
        count = len(held) // {3: 2, 4: 4}[kind] if held else 1
        if len(held) > 4:
            place = struct.pack("<I", 8 + len(data) + len(extra))
            extra += held
        else:
            place = held or struct.pack("<I", values[tag])
        entries += struct.pack("<HHI", tag, kind, count) + place
    count = len(values) + len(after)
    directory = struct.pack("<H", count) + entries + bytes(4)
    begin = 8 + len(data) + len(extra)
    path.write_bytes(b"II*\0" + struct.pack("<I", begin) + data + extra + directory)
    return path


@pytest.mark.parametrize("is_planar", [False, True])
def test_tiff_colours_of_16_bits_are_read_in_full(tmp_path, is_planar):
    pixels = np.random.default_rng(0).integers(0, 65536, (8, 8, 3)).astype(np.uint16)
    path = tiff_of_16_bits(tmp_path / "a.tiff", pixels, is_planar)
    assert read_header(path) == ((8, 8, 3), True, False)
    np.testing.assert_array_equal(read_picture(path, COLOUR), np.rint(pixels * (255 / 65535)))


@pytest.mark.parametrize("ending", ["jpg", "tiff"])
def test_printers_colours_become_red_green_and_blue(tmp_path, ending):
    cyan = np.zeros((8, 8, 4), np.uint8)
    cyan[..., 0] = 255
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(cyan, "CMYK"))
    np.testing.assert_allclose(read_picture(path, COLOUR)[0, 0], (0, 255, 255), atol=4)


def test_a_camera_held_upright(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    wide = RAMP.astype(np.uint16) * 257
    for name, pixels in (("a.png", RAMP), ("a.tiff", RAMP), ("b.png", wide), ("b.tiff", wide)):
        path = saved(tmp_path / name, Image.fromarray(pixels[:4]), exif=turned)
        assert read_header(path).shape == (8, 4, 1)
        read = read_picture(path, PictureForm((8, 4, 1)))[..., 0]
        np.testing.assert_array_equal(read, RAMP[:4].T[:, ::-1])


def test_damaged_exif_fields_cost_no_picture(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(RAMP), exif=b"Exif\0\0no fields")
    assert read_header(path).shape == (8, 8, 1)
    np.testing.assert_array_equal(read_picture(path, GREY)[..., 0], RAMP)


def test_pictures_of_another_aspect_ratio_are_cut_or_fitted(tmp_path):
    wide = np.zeros((16, 32), np.uint8)
    wide[:, 8:24] = 200
    path = saved(tmp_path / "a.png", Image.fromarray(wide))
    assert np.unique(read_picture(path, GREY)).tolist() == [200]
    fitted = read_picture(path, PictureForm((8, 8, 1), "fit", "white"))[..., 0]
    assert np.unique(fitted[[0, 1, 6, 7]]).tolist() == [255]
    assert fitted[4].tolist() == [0, 0, 200, 200, 200, 200, 0, 0]


def test_shapes_are_told_by_the_header(tmp_path):
    colours = Image.fromarray(np.zeros((5, 7, 3), np.uint8))
    grey_palette = Image.fromarray(np.zeros((5, 7), np.uint8), "P")
    grey_palette.putpalette([0, 0, 0, 9, 9, 9])
    assert read_header(saved(tmp_path / "a.png", colours)) == ((5, 7, 3), False, False)
    assert read_header(saved(tmp_path / "b.png", grey_palette)) == ((5, 7, 1), False, False)


def damaged(tmp_path, data):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    return path


def test_what_is_no_whole_picture_is_one_sentence(tmp_path, monkeypatch):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(file, "PNG")
    with pytest.raises(InvalidFileError, match="received a file of another kind"):
        read_picture(damaged(tmp_path, b"no picture"), GREY)
    with pytest.raises(InvalidFileError, match=r"a picture .PNG, JPEG, .* cannot be read"):
        read_picture(damaged(tmp_path, file.getvalue()[:90]), GREY)
    with pytest.raises(InvalidFileError, match="found none"):
        read_picture(tmp_path / "none.png", GREY)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InvalidFileError, match="received a named pipe"):
        read_picture(tmp_path / "pipe.png", GREY)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 63)
    for read in (read_header, lambda path: read_picture(path, GREY)):
        with pytest.raises(InvalidFileError, match="at most 63 pixels, received 8 x 8") as error:
            read(damaged(tmp_path, file.getvalue()))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (((8, 8, 2),), "1 or 3 channels"),
        (((0, 8, 1),), "height of pictures"),
        (((8, 8),), "height, width and channels, received .8, 8."),
        ((8,), "height, width and channels, received 8"),
        (((8, 8, 1), "crop", 0), "background such as white.*received 0"),
        (((8, 8, 1), "stretch"), "resize to be one of crop, fit"),
        (((8, 8, 1), "crop", "nocolour"), "background such as white"),
        (((8, 8, 1), "crop", "white", 0), "pixel_scale to be a finite number above 0"),
    ],
)
def test_other_forms_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        PictureForm(*arguments)
