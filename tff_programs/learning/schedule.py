"""Learning-rate schedules as functions of the round, computed on the server."""

import math
from collections.abc import Callable

import tensorflow as tf

from fedsup_tf.files.validation import check_choice, check_number

SCHEDULES = ("constant", "cosine")


def build_schedule(
    kind: str, learning_rate: float, rounds: int, final_share: float = 0.01
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from the round (int32, from 0) to the clients' learning rate (float32).

    Args:
      kind: `"constant"`, or `"cosine"` for cosine decay to a share of `learning_rate`.
      learning_rate: Learning rate of the first round.
      rounds: Total number of rounds.
      final_share: Share of `learning_rate` that `"cosine"` reaches in the last round.
    """
    check_choice(kind, "schedule", SCHEDULES)
    check_number(learning_rate, "learning_rate", above=0)
    check_number(final_share, "final_share", minimum=0, maximum=1)

    def schedule(round_number):
        if kind == "constant":
            return tf.constant(learning_rate, tf.float32)
        progress = tf.cast(round_number, tf.float32) / max(1, rounds - 1)
        share = 0.5 * (1 + tf.cos(math.pi * tf.minimum(progress, 1.0)))
        return learning_rate * (final_share + (1 - final_share) * share)

    return schedule
