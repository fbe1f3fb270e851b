"""Small search spaces for tests, with several choices of every kind."""

import dataclasses

from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage

SPACE = SearchSpace(
    name="tiny",
    image_shape=(6, 6, 1),
    classes=3,
    stem_width=8,
    stem_stride=1,
    stages=(Stage("a", (8, 16), (1, 2), (3, 5)), Stage("b", (16, 24), (1, 2), (3, 5), 2)),
)
# With one choice of each kind, for tests that trace and compile graphs.
FEWER_CHOICES = dataclasses.replace(
    SPACE, stages=(Stage("a", (8, 16), (1,), (3, 5)), Stage("b", (16, 24), (1, 2), (3,), 2))
)
