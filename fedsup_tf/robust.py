"""Tells updates that lie far from the others' apart; the arithmetic of a robust mean.

An entry that only large subnets hold is covered by few clients: a median or a trimmed mean of each
entry by itself (Yin et al., arXiv 1803.01498) would follow one poisoned client there. But all
subnets hold the smallest one, the core. So updates are compared on the core, which every client
trains, and are used or set aside whole.
"""

import math

import tensorflow as tf

# Root mean square of an update over the median of all, above which it is scaled down.
LARGEST_SIZE = 2.0


def nearest(core: tf.Tensor, filled: tf.Tensor, poisoned: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the updates whose direction on the core is nearest to the median direction.

    A direction is an update's core over the core's norm, since clients of small subnets take longer
    steps there. Its distance is that from the median of all directions, entry by entry. The share
    `poisoned` of the updates, rounded up, that are farthest are set aside.

    Args:
      core: The smallest subnet's entries of each update, float32 `(updates, entries)`.
      filled: Which rows are updates, bool `(updates,)`.
      poisoned: Share of the updates that is set aside, from 0 and below 0.5.

    Returns:
      Which updates are used, bool `(updates,)`, and the number set aside, int32.
    """
    count = tf.reduce_sum(tf.cast(filled, tf.int32))
    directions = tf.math.divide_no_nan(core, tf.norm(core, axis=1, keepdims=True))
    centre = median(directions, filled)
    distances = tf.norm(directions - centre, axis=1)
    aside = tf.cast(tf.math.ceil(poisoned * tf.cast(count, tf.float32)), tf.int32)
    # Among the filled rows, ranked from the nearest.
    ranks = tf.argsort(tf.argsort(tf.where(filled, distances, math.inf)))
    return filled & (ranks < count - aside), aside


def scales(sizes: tf.Tensor, filled: tf.Tensor) -> tf.Tensor:
    """Returns what each update is multiplied by so that none is far larger than the others.

    Looking honest on the core does not buy a client weight elsewhere: an update whose root mean
    square is above `LARGEST_SIZE` times the median of all is scaled down to that.

    Args:
      sizes: Root mean square of each update over the entries it covers, float32 `(updates,)`.
      filled: Which of them are updates, bool `(updates,)`.

    Returns:
      Factors from 0 to 1, float32 `(updates,)`.
    """
    bound = LARGEST_SIZE * median(sizes[:, tf.newaxis], filled)[0]
    return tf.minimum(1.0, tf.math.divide_no_nan(bound, sizes))


def median(rows: tf.Tensor, filled: tf.Tensor) -> tf.Tensor:
    """Returns the median of each column over the filled rows; zeros if no row is filled."""
    count = tf.reduce_sum(tf.cast(filled, tf.int32))
    ordered = tf.sort(tf.where(filled[:, tf.newaxis], rows, math.inf), axis=0)
    last = tf.maximum(count - 1, 0)
    middle = (tf.gather(ordered, last // 2) + tf.gather(ordered, (last + 1) // 2)) / 2
    return tf.where(tf.math.is_finite(middle), middle, 0.0)
