"""Data of the measured round: `fedsup_cifar`, ten clients of four tiers, random images."""

import functools

import numpy as np

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.presets import fedsup_cifar
from tff_programs.simulation.tiers import default_tiers

SPACE = fedsup_cifar()
TIERS = default_tiers(SPACE, 0)
BATCH = 32
EXAMPLES = 500
PREPROCESSING = Preprocessing((127.5,) * 3, (64.0,) * 3)


def cohort(tiers):
    """Returns the subnets of the clients of the smallest `tiers` tiers.

    Those of all four are three smallest, three middle, two middle-large, and two largest.
    """
    numbers = (3, 3, 2, 2)
    return [
        tier.architecture
        for tier, count in zip(TIERS[:tiers], numbers[:tiers], strict=True)
        for _ in range(count)
    ]


@functools.cache
def client_arrays(client, examples=EXAMPLES):
    """Returns a client's images, uint8 `(examples, 32, 32, 3)`, and labels, int32."""
    rng = np.random.default_rng(client)
    images = rng.integers(0, 256, (examples, *SPACE.image_shape), np.uint8)
    return images, rng.integers(0, SPACE.classes, examples, np.int32)
