"""Bounds how far one update can carry the mean of all."""

import numpy as np
import tensorflow as tf

from fedsup_tf.slicing import Overlap

# An update may make the mean at most this many times as long as it is without the update, and must
# leave at least this share of what the mean is without it.
LARGEST_GROWTH = 2.0
LEAST_REST = 0.25


def influence_scale(
    overlaps: Overlap, one: Overlap, divisor: str, everyone: float, weight: float
) -> float:
    """Returns the factor of an update with which it neither doubles nor undoes the others' mean.

    With c the mean without the update and m the mean with it, it holds that |m| <= 2 |c| and
    m . c >= |c|^2 / 4, whoever of the cohort may be hostile. Both are taken over the entries that
    other updates cover too: what an update alone covers cannot be compared.

    Args:
      overlaps: The sum over all updates, for each entry.
      one: The update's part of it.
      divisor: One of `slicing.DIVISORS`.
      everyone: The sum of all weights.
      weight: The update's weight.

    Returns:
      A factor from 0 to 1; 1 where the update does not go too far.
    """
    # With the factor s the mean is a + s b, without the update it is c.
    aa = ab = bb = cc = ac = bc = 0.0
    for name, total in overlaps.total.items():
        own = np.asarray(one.total[name], np.float64)
        rest = np.asarray(total, np.float64) - own
        all_weights = np.asarray(overlaps.coverage[name], np.float64)
        other_weights = all_weights - np.asarray(one.coverage[name], np.float64)
        # Weights are whole numbers, up to the rounding of their sum.
        shared = other_weights > 0.5
        if divisor == "diluted":
            all_weights = np.full_like(rest, everyone)
            other_weights = np.full_like(rest, everyone - weight)
        a, b = rest[shared] / all_weights[shared], own[shared] / all_weights[shared]
        c = rest[shared] / other_weights[shared]
        aa, ab, bb = aa + a @ a, ab + a @ b, bb + b @ b
        ac, bc, cc = ac + a @ c, bc + b @ c, cc + c @ c
    scale = 1.0
    most = LARGEST_GROWTH**2 * cc
    if aa + 2 * ab + bb > most:
        scale = (-ab + np.sqrt(ab * ab + bb * max(0.0, most - aa))) / bb
    if ac + bc < LEAST_REST * cc:
        scale = min(scale, (ac - LEAST_REST * cc) / -bc) if bc < 0 else 0.0
    return float(np.clip(scale, 0.0, 1.0))


def scaled_down(overlaps: Overlap, one: Overlap, scale: float) -> Overlap:
    """Returns the sum with one update's part multiplied by a factor; its weights stay."""
    less = tf.constant(1 - scale, tf.float32)
    total = {name: value - less * one.total[name] for name, value in overlaps.total.items()}
    return Overlap(total, overlaps.coverage)
