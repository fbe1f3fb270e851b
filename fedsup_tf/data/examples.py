"""Labelled images of any source, with whom they belong to: what the readers of own data return."""

from typing import NamedTuple

import numpy as np

# Pixels of a data set are held in memory, at most so many bytes of them.
MOST_IMAGE_BYTES = 2**33


class Examples(NamedTuple):
    """Labelled images as a reader found them; labels and clients still have their names.

    Attributes:
      name: What they are, for people.
      images: `(examples, height, width, channels)`, uint8.
      labels: `(examples,)`, text or whole numbers.
      clients: `(examples,)`, names of whom they belong to, empty for nobody's test examples; None
        if there are no clients.
      is_test: `(examples,)`, bool; None if nobody said which are for the test.
      notes: Sentences about what was not used.
      greatest_pixel: Greatest value that a pixel may have.
      resize: How images got another aspect ratio, see `PictureForm`; None if they kept theirs
        without a rule.
      background: What is behind transparent pixels, likewise.
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
