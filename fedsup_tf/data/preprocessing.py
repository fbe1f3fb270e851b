"""Normalization and augmentation of images before they enter a model.

A `Preprocessing` is stored in checkpoints and exported models, so that the simulation and phones
compute the same numbers.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedsup_tf.files.json_schema import expect_keys, parse_json
from fedsup_tf.files.validation import is_number

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf


# Ways to change the aspect ratio of pictures, see `pictures.PictureForm`.
RESIZES = ("crop", "fit")
# Fields of `PictureForm` that all pictures of a model share.
PICTURE_FIELDS = ("resize", "background")
# Fields that files of earlier versions lack, and that are omitted if None.
_OPTIONAL = ("greatest_pixel", *PICTURE_FIELDS)
_MAX_FLOAT = sys.float_info.max


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Normalization of every image, augmentation of training images, and how pictures are read.

    Attributes:
      mean: Mean of each channel, in units of the uint8 pixels.
      standard_deviation: Standard deviation of each channel, in units of the uint8 pixels.
      crop_padding: Pixels of the mean colour added on each side before a random crop of the
        original size; 0 for no crop.
      flip: Whether each training image is flipped left to right with a probability of 0.5.
      greatest_pixel: Maximum value that a pixel of the images may have, which defines their scale;
        None if unknown.
      resize: How the aspect ratio of pictures was changed, `"crop"` or `"fit"`; None if unknown,
        for instance because the images were not read from pictures.
      background: Colour behind transparent pixels, such as `"white"`; None if unknown.

    Raises:
      ValueError: If a field is out of range; the message names it.

    Example:
      >>> import numpy as np
      >>> from fedsup_tf import Preprocessing
      >>> preprocessing = Preprocessing(mean=(128.0,), standard_deviation=(64.0,))
      >>> images = np.full((1, 2, 2, 1), 192, np.uint8)
      >>> preprocessing.normalize(images).numpy().ravel().tolist()
      [1.0, 1.0, 1.0, 1.0]
    """

    mean: tuple[float, ...]
    standard_deviation: tuple[float, ...]
    crop_padding: int = 0
    flip: bool = False
    greatest_pixel: int | None = None
    resize: str | None = None
    background: str | None = None

    def __post_init__(self):
        mean, deviation = self.mean, self.standard_deviation
        checks = {
            "mean": (_are_finite(mean), "a finite number for each channel"),
            "standard_deviation": (
                _are_finite(deviation) and min(deviation) > 0 and len(deviation) == len(mean),
                "a finite number above 0 for each channel",
            ),
            "crop_padding": (
                type(self.crop_padding) is int and self.crop_padding >= 0,
                "a whole number of pixels, 0 for no crop",
            ),
            "flip": (type(self.flip) is bool, "true or false"),
            "greatest_pixel": (
                self.greatest_pixel is None
                or (type(self.greatest_pixel) is int and 1 <= self.greatest_pixel <= 255),
                "a whole number from 1 to 255, or None",
            ),
            "resize": (self.resize in (None, *RESIZES), f"one of {', '.join(RESIZES)}, or None"),
            "background": (
                self.background is None or isinstance(self.background, str),
                "the text of a colour, or None",
            ),
        }
        for field, (valid, expected) in checks.items():
            if not valid:
                received = ", ".join(f"{name} {getattr(self, name)!r}" for name in checks)
                raise ValueError(
                    f"Preprocessing: expected {field} to be {expected}, received {received}."
                )
        object.__setattr__(self, "mean", tuple(float(value) for value in mean))
        object.__setattr__(self, "standard_deviation", tuple(float(value) for value in deviation))

    def normalize(self, images: "tf.Tensor | np.ndarray") -> "tf.Tensor":
        """Computes `(images - mean) / standard_deviation` using only TensorFlow Lite builtins.

        Args:
          images: `(batch, height, width, channels)`, uint8; the batch size may be unknown when
            traced.

        Returns:
          `(batch, height, width, channels)`, float32.

        Raises:
          ValueError: If the images have another number of channels.
        """
        # Imported here, since a device reads the constants without TensorFlow.
        import tensorflow as tf

        images = tf.convert_to_tensor(images)
        if images.shape[-1] not in (None, len(self.mean)):
            raise ValueError(
                f"Expected images of {len(self.mean)} channels, received shape {images.shape}. "
                "Load the data set with the image_shape that the model was made for."
            )
        # Processes whole rows, since operations on few channels are slow in every runtime.
        _, height, width, channels = images.shape
        mean = tf.constant(self.mean * width, tf.float32)
        scale = tf.constant([1.0 / value for value in self.standard_deviation] * width, tf.float32)
        rows = tf.reshape(tf.cast(images, tf.float32), [-1, height, width * channels])
        return tf.reshape((rows - mean) * scale, [-1, height, width, channels])

    def augment(self, images: "tf.Tensor", seed: "tf.Tensor | Sequence[int]") -> "tf.Tensor":
        """Crops and flips each image independently at random.

        Args:
          images: `(batch, height, width, channels)`, normalized, so that 0 is the mean colour.
          seed: `(2,)`, int32. The same seed gives the same images.

        Returns:
          Images of the same shape and type; `images` itself if there is no augmentation.
        """
        if not self.crop_padding and not self.flip:
            return images
        import tensorflow as tf  # Imported here for the same reason as in `normalize`.

        images = tf.convert_to_tensor(images)
        batch, height, width = (tf.shape(images)[axis] for axis in range(3))
        draws = tf.random.stateless_uniform([3, batch, 1], seed, alg="philox")
        columns = tf.range(width)[tf.newaxis]
        if self.flip:
            columns = tf.where(draws[0] < 0.5, width - 1 - columns, columns)
        shape = images.shape
        if self.crop_padding:
            padding = [self.crop_padding] * 2
            images = tf.pad(images, [[0, 0], padding, padding, [0, 0]])
            offsets = tf.cast(draws[1:] * (2 * self.crop_padding + 1), tf.int32)
            rows = tf.range(height)[tf.newaxis] + offsets[0]
            images = tf.gather(images, rows, axis=1, batch_dims=1)
            columns += offsets[1]
        # A flip is a crop with reversed columns, so one gather does both.
        return tf.ensure_shape(tf.gather(images, columns, axis=2, batch_dims=1), shape)

    def to_json(self) -> str:
        """Returns the preprocessing as one line of JSON."""
        fields = dataclasses.asdict(self)
        known = {
            name: value
            for name, value in fields.items()
            if value is not None or name not in _OPTIONAL
        }
        return json.dumps(known)

    @classmethod
    def from_json(cls, text: str) -> "Preprocessing":
        """Parses the JSON that `to_json` returns.

        Raises:
          ValueError: If the text is not such JSON.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        fields = parse_json(text, "Preprocessing")
        expect_keys(fields, names, names - set(_OPTIONAL), "Preprocessing")
        return cls(**fields)


def _are_finite(values: Any) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) > 0
        and all(is_number(value) and abs(value) <= _MAX_FLOAT for value in values)
    )
