"""Loss above which training counts as diverged."""

import math

# The threshold as a multiple of the loss of guessing.
_FACTOR = 3.0


def guessing_loss(classes: int) -> float:
    """Returns the cross-entropy of a model that gives each class the same probability."""
    return math.log(classes)


def largest_sound_loss(classes: int) -> float:
    """Returns the loss above which training counts as diverged."""
    return _FACTOR * guessing_loss(classes)
