"""Losses beyond which a training has diverged."""

import math

# Times the loss of guessing.
_FACTOR = 3.0


def guessing_loss(classes: int) -> float:
    """Returns the cross-entropy of a model that gives each class the same probability."""
    return math.log(classes)


def largest_sound_loss(classes: int) -> float:
    """Returns the loss above which a training has diverged."""
    return _FACTOR * guessing_loss(classes)
