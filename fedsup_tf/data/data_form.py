"""Checks that data matches a model's training data in classes, image shape and pixel scale."""

from typing import TYPE_CHECKING, NamedTuple

from fedsup_tf.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from fedsup_tf.data.datasets import ImageDataset

# Standard deviations of pixels of one scale differ by less, of scales such as 0..16 and 0..255 by
# more.
_MAX_RATIO = 4.0
_MAX_NAMES = 5


class DataForm(NamedTuple):
    """Form of the data that a model is trained on, and of the data that it can be used with.

    Attributes:
      classes: Number of classes.
      image_shape: `(height, width, channels)` of an image.
      class_names: Name of each label; None if unknown.
      preprocessing: Normalization of the images; None if unknown.
    """

    classes: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None

    @classmethod
    def of_dataset(cls, dataset: "ImageDataset") -> "DataForm":
        """Returns the form of a data set."""
        names, shape = tuple(dataset.class_names), tuple(dataset.test_images.shape[1:])
        return cls(len(names), shape, names, dataset.preprocessing)

    def check(self, name: str, received: "DataForm") -> None:
        """Raises an error if data has another form.

        Args:
          name: Name of the data, for the error message.
          received: Form of the data.

        Raises:
          ValueError: If the classes or the image shape differ, or the pixels have another scale
            than the preprocessing expects.
        """
        remedy = "Give the data that the net was trained on."
        names = (self.class_names, received.class_names)
        if self.classes != received.classes or (None not in names and names[0] != names[1]):
            raise ValueError(
                f"Data {name}: expected {_classes(self)}, received {_classes(received)}. {remedy}"
            )
        if self.image_shape != received.image_shape:
            raise ValueError(
                f"Data {name}: expected images of shape {self.image_shape}, received "
                f"{received.image_shape}. {remedy}"
            )
        expected, found = self.preprocessing, received.preprocessing
        if expected is not None and found is not None and not _have_one_scale(expected, found):
            raise ValueError(
                f"Data {name}: expected {_pixels(expected)}, as the net normalizes them, received "
                f"{_pixels(found)}. {remedy}"
            )


def _classes(form: DataForm) -> str:
    text = f"{form.classes} classes"
    if form.class_names is None:
        return text
    more = ", ..." if len(form.class_names) > _MAX_NAMES else ""
    return f"{text} ({', '.join(form.class_names[:_MAX_NAMES])}{more})"


def _pixels(preprocessing: Preprocessing) -> str:
    numbers = ", ".join(f"{value:.3g}" for value in preprocessing.standard_deviation)
    if preprocessing.greatest_pixel is None:
        return f"pixels of a standard deviation of about {numbers} by channel"
    return f"pixels from 0 to {preprocessing.greatest_pixel} of a standard deviation of {numbers}"


def _have_one_scale(first: Preprocessing, second: Preprocessing) -> bool:
    if None not in (first.greatest_pixel, second.greatest_pixel):
        return first.greatest_pixel == second.greatest_pixel
    pairs = list(zip(first.standard_deviation, second.standard_deviation, strict=False))
    return len(first.mean) == len(second.mean) and all(
        max(pair) <= _MAX_RATIO * min(pair) for pair in pairs
    )
