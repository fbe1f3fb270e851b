"""Detection of outlying updates: the arithmetic of a robust mean.

Entries that only large subnets contain are covered by few clients, so an entry-wise median or
trimmed mean (Yin et al., arXiv 1803.01498) would follow a single poisoned client there. But all
subnets contain the smallest one, the core. Updates are therefore compared on the core, which every
client trains, and are used or discarded as a whole.
"""

import math

import tensorflow as tf

# Maximum root mean square of an update, as a multiple of the median over all updates.
MAX_RELATIVE_RMS = 2.0


def nearest(
    core: tf.Tensor, is_update: tf.Tensor, discard_share: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the updates whose direction on the core is nearest to the median direction.

    A direction is an update's core divided by its norm, since clients with small subnets take
    longer steps there. Distances are measured from the entry-wise median of all directions. The
    most distant updates are discarded: the share `discard_share`, rounded up to a whole number.

    Args:
      core: The smallest subnet's entries of each update, float32 `(updates, entries)`.
      is_update: Mask of the rows that contain updates, bool `(updates,)`.
      discard_share: Share of the updates to discard, at least 0 and less than 0.5.

    Returns:
      A mask of the updates to use, bool `(updates,)`, and the number of discarded ones, int32.
    """
    count = tf.reduce_sum(tf.cast(is_update, tf.int32))
    directions = tf.math.divide_no_nan(core, tf.norm(core, axis=1, keepdims=True))
    centre = median(directions, is_update)
    distances = tf.norm(directions - centre, axis=1)
    # Slightly less, since a product with a share such as 0.3 may be rounded up past a whole number.
    aside = tf.cast(tf.math.ceil(discard_share * tf.cast(count, tf.float32) - 1e-4), tf.int32)
    # Ranks start with the nearest row; rows without an update come last.
    ranks = tf.argsort(tf.argsort(tf.where(is_update, distances, math.inf)))
    return is_update & (ranks < count - aside), aside


def scale_factors(sizes: tf.Tensor, is_update: tf.Tensor) -> tf.Tensor:
    """Returns a factor for each update that prevents it from being far larger than the others.

    A client whose update looks honest on the core must not gain influence on other entries: an
    update whose root mean square exceeds `MAX_RELATIVE_RMS` times the median is scaled down to
    that.

    Args:
      sizes: Root mean square of each update over the entries it covers, float32 `(updates,)`.
      is_update: Mask of the entries of `sizes` that belong to updates, bool `(updates,)`.

    Returns:
      Factors from 0 to 1, float32 `(updates,)`.
    """
    bound = MAX_RELATIVE_RMS * median(sizes[:, tf.newaxis], is_update)[0]
    return tf.minimum(1.0, tf.math.divide_no_nan(bound, sizes))


def median(rows: tf.Tensor, is_update: tf.Tensor) -> tf.Tensor:
    """Returns the median of each column over the rows that contain updates; zeros if none does."""
    count = tf.reduce_sum(tf.cast(is_update, tf.int32))
    ordered = tf.sort(tf.where(is_update[:, tf.newaxis], rows, math.inf), axis=0)
    last = tf.maximum(count - 1, 0)
    middle = (tf.gather(ordered, last // 2) + tf.gather(ordered, (last + 1) // 2)) / 2
    return tf.where(tf.math.is_finite(middle), middle, 0.0)
