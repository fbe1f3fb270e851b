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


def cohort():
    """Returns the clients' subnets: three smallest, three middle, two middle-large, two largest."""
    numbers = (3, 3, 2, 2)
    return [
        tier.architecture for tier, count in zip(TIERS, numbers, strict=True) for _ in range(count)
    ]


@functools.cache
def client_arrays(client, examples=EXAMPLES):
    """Returns a client's images, uint8 `(examples, 32, 32, 3)`, and labels, int32."""
    rng = np.random.default_rng(client)
    images = rng.integers(0, 256, (examples, *SPACE.image_shape), np.uint8)
    return images, rng.integers(0, SPACE.classes, examples, np.int32)
