"""Aggregation that tolerates a given share of poisoned clients."""

from collections import OrderedDict

import tensorflow as tf

from fedsup_tf import robust, slicing
from fedsup_tf.files.validation import check_number, check_whole_number
from fedsup_tf.slicing import Overlap
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators.overlap_mean import StreamedOverlapFactory, Upload


class RobustOverlapMeanFactory(StreamedOverlapFactory):
    """Overlap mean of the updates that remain after the least trustworthy share is set aside.

    Updates are compared as described in `fedsup_tf.robust`:

    1. Clients are assigned to buckets in turn; a bucket's update is the overlap mean of its
       clients.
    2. The buckets whose direction on the smallest subnet is farthest from the median direction are
       set aside: the share `poisoned` of the buckets that received an update, rounded up.
    3. A remaining bucket whose root mean square is more than twice the median of all buckets that
       received an update is scaled down to twice the median.
    4. The overlap mean is taken over the remaining buckets.

    With one bucket per client, each client is compared individually. With fewer buckets, memory
    stays bounded (twice the supernet's size per bucket), but a poisoned client spoils its whole
    bucket: `poisoned` must then be the share of spoiled buckets, below one half.

    The type signature is that of `StreamedOverlapFactory` with S `()`; M also has `set_aside`, the
    number of buckets set aside, int32. The server sees every update, so secure sums cannot be used.
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
          supernet: Supernet whose subnets were trained.
          poisoned: Share of the buckets that may be poisoned, at least 0 and below 0.5.
          buckets: Number of buckets, at least 3; usually the number of clients per round.
          divisor: `"coverage"` or `"diluted"`, see `OverlapMeanFactory`.
          nested: Whether the updates also contain every subnet of a subnet, see `Supernet.slices`.
          upload: Encoding of uploads; by default updates are sent unchanged.
        """
        super().__init__(supernet, divisor, nested, upload)
        check_number(poisoned, "the poisoned share", minimum=0, below=0.5, what="Robust mean")
        check_whole_number(buckets, "buckets", 3, what="Robust mean")
        self._poisoned = poisoned
        self._buckets = buckets

    def zero(self):
        """Returns zero totals, coverage and sum of weights for each bucket."""
        # The last tensor is each bucket's sum of weights, the divisor of `diluted`.
        sums = (
            tuple(tf.zeros([self._buckets, *part.shape]) for part in parts.values())
            for parts in slicing.zero_overlap(self.supernet.grids)
        )
        return (*sums, tf.zeros([self._buckets]))

    def add(self, sums, one, weight, position):
        """Adds a client's overlap and weight to bucket `position` modulo the number of buckets."""
        bucket = [[position % self._buckets]]
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
        """Adds the second sums to the first, with their buckets shifted by `number`."""
        # The second sums' first client belongs to the bucket after the first sums' last client.
        moved = tf.nest.map_structure(lambda part: tf.roll(part, number, 0), second)
        return tf.nest.map_structure(tf.add, first, moved)

    def finish(self, state, sums, weight):
        """Sets the farthest buckets aside, scales large ones down and sums the remaining ones."""
        del weight
        names = list(self.supernet.weight_shapes)
        totals, coverages, weights = sums
        grids = self.supernet.grids
        spread = [grids[name].spread(part) for name, part in zip(names, coverages, strict=True)]
        means = [
            tf.math.divide_no_nan(total, coverage)
            for total, coverage in zip(totals, spread, strict=True)
        ]
        is_update = weights > 0
        core = self._core(self.supernet.named(means))
        kept, aside = robust.nearest(core, is_update, self._poisoned)
        squares = tf.add_n([_by_bucket(tf.square(mean)) for mean in means])
        covered = tf.add_n([_by_bucket(tf.cast(c > 0, tf.float32)) for c in spread])
        scale = robust.scale_factors(tf.sqrt(tf.math.divide_no_nan(squares, covered)), is_update)
        use = tf.cast(kept, tf.float32)
        overlap = Overlap(
            total=_combine(names, totals, use * scale),
            coverage=_combine(names, coverages, use),
        )
        overlap = slicing.expand_coverage(overlap, grids)
        return state, overlap, tf.reduce_sum(weights * use), OrderedDict(set_aside=aside)

    def _core(self, means):
        """Returns the smallest subnet's entries of each bucket, `(buckets, entries)`."""
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
    """Sums over the buckets, each multiplied by its weight."""
    return {
        name: tf.tensordot(weights, values, 1) for name, values in zip(names, stacked, strict=True)
    }
