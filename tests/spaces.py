"""Search spaces of tests that need several of everything, and little of it."""

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
# Each kind of choice once, for tests that trace and compile over it.
FEWER_CHOICES = dataclasses.replace(
    SPACE, stages=(Stage("a", (8, 16), (1,), (3, 5)), Stage("b", (16, 24), (1, 2), (3,), 2))
)
