"""Aggregation that tolerates a stated share of poisoned clients."""

from collections import OrderedDict

import tensorflow as tf

from fedsup_tf import robust, slicing
from fedsup_tf.files.validation import check_number, check_whole_number
from fedsup_tf.slicing import Overlap
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators.overlap_mean import StreamedOverlapFactory, Upload


class RobustOverlapMeanFactory(StreamedOverlapFactory):
    """Overlap mean of the updates left when the least trustworthy share of them is set aside.

    Updates are compared as `fedsup_tf.robust` says:

    1. Clients are put into buckets in turn, and a bucket's update is its clients' overlap mean.
    2. The share `poisoned` of the buckets, rounded up, whose direction on the smallest subnet is
       farthest from the median direction are set aside.
    3. A bucket left that is more than twice as large as the median of all is scaled down to that.
    4. The overlap mean runs over the buckets left.

    With as many buckets as clients each is compared by itself. With fewer, memory stays bounded
    (the supernet's size twice for each bucket) and a poisoned client spoils its bucket: with n
    clients `poisoned` must then be the share of spoilt buckets, below one half.

    Type signature: that of `StreamedOverlapFactory`, S is `()`; M has also `set_aside`, the number
    of buckets set aside, int32. The server sees every update: secure sums and this exclude each
    other.
    """

    def __init__(
        self,
        supernet: Supernet,
        poisoned: float,
        buckets: int,
        divisor: str = "coverage",
        nested: bool = False,
        upload: Upload | None = None,
    ):
        """Makes the factory.

        Args:
          supernet: The supernet whose subnets were trained.
          poisoned: Share of the buckets that may be poisoned, from 0 and below 0.5.
          buckets: Number of buckets, usually of clients a round, at least 3.
          divisor: `"coverage"` or `"diluted"`, see `OverlapMeanFactory`.
          nested: Whether the updates hold the subnets' own subnets.
          upload: How updates travel, as they are by default.
        """
        super().__init__(supernet, divisor, nested, upload)
        check_number(poisoned, "the poisoned share", least=0, below=0.5, what="Robust mean")
        check_whole_number(buckets, "buckets", 3, what="Robust mean")
        self._poisoned = poisoned
        self._buckets = buckets

    def zero(self):
        """Returns each bucket's totals, coverage and sum of weights: zeros."""
        # The last tensor is each bucket's sum of weights, by which `diluted` divides.
        sums = (
            tuple(tf.zeros([self._buckets, *part.shape]) for part in parts.values())
            for parts in slicing.no_overlap(self.supernet.grids)
        )
        return (*sums, tf.zeros([self._buckets]))

    def add(self, sums, one, weight, number):
        """Adds a client's overlap and weight to the bucket that its number gives."""
        bucket = [[number % self._buckets]]
        *overlaps, weights = sums
        added = tuple(
            tuple(
                tf.tensor_scatter_nd_add(total, bucket, part[tf.newaxis])
                for total, part in zip(totals, parts.values(), strict=True)
            )
            for totals, parts in zip(overlaps, one, strict=True)
        )
        return (*added, tf.tensor_scatter_nd_add(weights, bucket, [weight]))

    def merge(self, first, second, number):
        """Adds the second sums to the first, their buckets moved on by `number`."""
        # The second sums' first client belongs to the bucket after the first sums' last client.
        moved = tf.nest.map_structure(lambda part: tf.roll(part, number, 0), second)
        return tf.nest.map_structure(tf.add, first, moved)

    def finish(self, state, sums, weight):
        """Sets the farthest buckets aside, scales large ones down and sums those left."""
        del weight
        names = list(self.supernet.weight_shapes)
        totals, coverages, weights = sums
        grids = self.supernet.grids
        spread = [grids[name].spread(part) for name, part in zip(names, coverages, strict=True)]
        means = [
            tf.math.divide_no_nan(total, coverage)
            for total, coverage in zip(totals, spread, strict=True)
        ]
        filled = weights > 0
        core = self._core(self.supernet.named(means))
        kept, aside = robust.nearest(core, filled, self._poisoned)
        squares = tf.add_n([_by_bucket(tf.square(mean)) for mean in means])
        covered = tf.add_n([_by_bucket(tf.cast(c > 0, tf.float32)) for c in spread])
        scale = robust.scales(tf.sqrt(tf.math.divide_no_nan(squares, covered)), filled)
        use = tf.cast(kept, tf.float32)
        overlap = Overlap(
            total=_combine(names, totals, use * scale),
            coverage=_combine(names, coverages, use),
        )
        overlap = slicing.by_entry(overlap, grids)
        return state, overlap, tf.reduce_sum(weights * use), OrderedDict(set_aside=aside)

    def _core(self, means):
        """The smallest subnet's entries of each bucket, `(buckets, entries)`."""
        slices = self.supernet.slices(self.supernet.space.smallest())
        parts = []
        for name, mean in means.items():
            begin, size = slices[name]
            part = tf.slice(mean, (0, *begin), (self._buckets, *size))
            parts.append(tf.reshape(part, [self._buckets, -1]))
        return tf.concat(parts, 1)


def _by_bucket(values):
    return tf.reduce_sum(tf.reshape(values, [tf.shape(values)[0], -1]), 1)


def _combine(names, stacked, weights):
    """Sum over the buckets, each times its weight."""
    return {
        name: tf.tensordot(weights, values, 1) for name, values in zip(names, stacked, strict=True)
    }
