"""Labelled images and their clients, as the readers of your own data return them."""

from typing import NamedTuple

import numpy as np

# Maximum size of a data set's pixels, which are held in memory.
MAX_IMAGE_BYTES = 2**33


class Examples(NamedTuple):
    """Labelled images as they were read; labels and clients are not numbered yet.

    Attributes:
      name: Human-readable name of the examples.
      images: `(examples, height, width, channels)`, uint8.
      labels: `(examples,)`, text or whole numbers.
      clients: `(examples,)`, name of each example's client, empty for test examples without one;
        None if there are no clients.
      is_test: `(examples,)`, bool, True for test examples; None if the data has no splits.
      notes: Messages from reading the data, such as which files were not used.
      greatest_pixel: Maximum value that a pixel may have.
      resize: How the aspect ratio was changed, see `PictureForm`; None if no rule was applied.
      background: Colour behind transparent pixels, see `PictureForm`; None if none was applied.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    clients: np.ndarray | None
    is_test: np.ndarray | None
    notes: tuple[str, ...]
    greatest_pixel: int
    resize: str | None = None
    background: str | None = None
