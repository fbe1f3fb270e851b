"""Notes about images that can be used, but may not look as their owner intended."""

import hashlib

import numpy as np

from fedsup_tf.data.wide_pixels import DARK, MAX_OF_16_BITS, PICTURE_GREATEST

# Usual numbers of channels; another number may be a height or a width.
_PICTURE_CHANNELS = (1, 3, 4)
_PARTS = ("images", "test_images")
# For a smaller share of the test examples, repeated images may be a coincidence.
_REPEATED_SHARE = 0.1


def blank_notes(
    images: np.ndarray, has_alpha: np.ndarray | None = None, background: str = "white"
) -> tuple[str, ...]:
    """Returns a note if at least half of the images, or of the transparent ones, have one colour.

    Args:
      images: `(examples, height, width, channels)`, uint8.
      has_alpha: `(examples,)`, bool, True for images that had transparent pixels.
      background: Colour behind transparent pixels.
    """
    if images.shape[1] * images.shape[2] == 1:
        return ()
    is_blank = _are_blank(images)
    if has_alpha is not None and has_alpha.any():
        blank, count = int(is_blank[has_alpha].sum()), int(has_alpha.sum())
        if 2 * blank >= count:
            return (
                f"{blank:,} of {count:,} pictures with transparent pixels have the same colour all "
                f"over on the background {background}: choose another background, unlike their "
                "ink.",
            )
    _, counts = np.unique(images[is_blank, 0, 0], axis=0, return_counts=True)
    blank = counts.max(initial=0)
    if 2 * blank < len(images):
        return ()
    return (
        f"{blank:,} of {len(images):,} images are alike and have the same colour all over, so that "
        "a net learns nothing from them: look at them.",
    )


def dark_pictures_notes(brightest: np.ndarray) -> tuple[str, ...]:
    """Returns a note if pictures of more than 8 bits are so dark that they may have fewer than 16.

    The number of bits is not guessed, since other pictures of the same model would then be scaled
    differently.

    Args:
      brightest: Greatest pixel of each such picture, from 0 to 255.
    """
    is_dark = brightest * DARK <= PICTURE_GREATEST
    if not len(brightest) or 2 * is_dark.sum() < len(brightest):
        return ()
    return (
        f"{len(brightest):,} pictures are taken for 16 bits a channel, but no pixel of "
        f"{is_dark.sum():,} of them is above {brightest[is_dark].max() / PICTURE_GREATEST:.0%} of "
        "the brightest: if they have fewer bits, give the value of full brightness as pixel_scale, "
        "such as 4095 for 12 bits.",
    )


def array_notes(images: list[np.ndarray], pixel_scale: float | None) -> tuple[str, ...]:
    """Returns notes about axes that may be swapped, and pixels that may have another scale.

    Args:
      images: The given arrays, `(examples, height, width, channels)`.
      pixel_scale: Pixel value of full brightness; None if it was not given.
    """
    notes = []
    _, height, width, channels = images[0].shape
    # A time series also has a height of 1, but more readings than channels.
    is_first = height in _PICTURE_CHANNELS and channels not in _PICTURE_CHANNELS
    if is_first and (height > 1 or 2 * channels > width) and channels > height < width:
        notes.append(
            f"The images are {height} x {width} of {channels} channels each: if {height} is the "
            "number of channels, move that axis to the end with numpy.moveaxis(images, 1, -1)."
        )
    greatest = max(images_of.max() for images_of in images)
    if pixel_scale is None and PICTURE_GREATEST < greatest <= MAX_OF_16_BITS // DARK:
        notes.append(
            f"The images are taken for 16 bits a channel, but no pixel is above {greatest:g}: if "
            "they have fewer bits, give the value of full brightness as pixel_scale, such as 4095 "
            "for 12 bits."
        )
    brightest = {name: own.max() for name, own in zip(_PARTS, images, strict=False)}
    dark, bright = min(brightest, key=brightest.get), max(brightest.values())
    if len(brightest) > 1 and bright and brightest[dark] * DARK <= bright:
        notes.append(
            f"No pixel of {dark} is above {brightest[dark]:g}, and the brightest of the other part "
            f"is {bright:g}: if they are of another scale, write both parts in one."
        )
    return tuple(notes)


def cut_notes(
    shape: tuple[int, int, int], wanted: tuple[int, int, int], resize: str
) -> tuple[str, ...]:
    """Returns a note if images lose their margins when they are resized to another shape.

    Args:
      shape: `(height, width, channels)` of the images.
      wanted: Target shape.
      resize: See `PictureForm`.
    """
    (height, width, _), (wanted_height, wanted_width, _) = shape, wanted
    if resize != "crop" or height * wanted_width == width * wanted_height:
        return ()
    return (
        f"Images of {height} x {width} were cut to the aspect ratio of {wanted_height} x "
        f"{wanted_width} pixels: give resize=fit to keep all of them.",
    )


def repeated_notes(train_images: np.ndarray, test_images: np.ndarray) -> tuple[str, ...]:
    """Returns a note if many test images are also training images.

    Images of a single colour are not counted, since `blank_notes` reports them.

    Args:
      train_images: `(examples, height, width, channels)`, uint8.
      test_images: `(examples, height, width, channels)`, uint8.
    """
    trained = {_digest(image) for image in train_images}
    repeated = sum(_digest(image) in trained for image in test_images[~_are_blank(test_images)])
    if not repeated or repeated < _REPEATED_SHARE * len(test_images):
        return ()
    verb = "is a training image" if repeated == 1 else "are training images"
    return (
        f"{repeated:,} of {len(test_images):,} test images {verb}, too, pixel by pixel: "
        "memorized images count as correct, so the test accuracy is too high. Take them out.",
    )


def _are_blank(images: np.ndarray) -> np.ndarray:
    return (images.min((1, 2)) == images.max((1, 2))).all(1)


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest()
