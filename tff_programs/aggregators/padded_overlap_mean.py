"""Overlap means computed with any of TFF's own sums: secure, compressed, rotated."""

from collections import OrderedDict

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf import slicing
from fedsup_tf.files.validation import check_choice
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators.overlap_mean import DIVISORS, finite_delta, mean_update, overlap_of
from tff_programs.types import tensors_type


class PaddedOverlapMeanFactory(tff.aggregators.WeightedAggregationFactory):
    """Overlap mean whose sums are computed by TFF's factories, such as `SecureSumFactory`.

    TFF's sums need the same shape for all clients. Each client therefore pads its weighted update
    to the supernet's size and uploads it with its weight in the cells that its subnet covers (see
    `Supernet.grids`). A client leaves out its own update if it is not finite.

    The created process has the type signature

        next: (<<T, C>@SERVER, {SubnetUpdate}@CLIENTS, {float32}@CLIENTS> ->
               <state=<T, C>@SERVER, result=MeanUpdate@SERVER, measurements=M@SERVER>)

    with T and C the states of the two sums and M the mean `loss` weighted by examples, the number
    of `examples`, the number of `clients` whose updates were used, and `rejected`, which is always
    empty: only a client itself knows that its update was left out.

    The server learns what the sums reveal. With `secure_overlap_mean`, that is only the sums of
    updates, coverage, losses, examples and clients, and no single client's values. The server
    always knows which subnet each client trains, since it sent it.
    """

    def __init__(
        self,
        supernet: Supernet,
        total_sum: tff.aggregators.UnweightedAggregationFactory,
        coverage_sum: tff.aggregators.UnweightedAggregationFactory,
        divisor: str = "coverage",
        nested: bool = False,
    ):
        """Makes the factory.

        Args:
          supernet: Supernet whose subnets were trained.
          total_sum: Factory of the sum of weighted updates, a tuple of float32 tensors of the
            supernet's shapes.
          coverage_sum: Factory of the sum of the weights in the covered cells, a tuple of float32
            tensors, and of the measured counts.
          divisor: `"coverage"` or `"diluted"`, see `OverlapMeanFactory`.
          nested: Whether the updates also contain every subnet of a subnet, see `Supernet.slices`.
        """
        check_choice(divisor, "aggregation", DIVISORS)
        self._supernet = supernet
        self._total_sum = total_sum
        self._coverage_sum = coverage_sum
        self._divisor = divisor
        self._nested = nested

    def create(
        self, value_type: tff.Type, weight_type: tff.Type
    ) -> tff.templates.AggregationProcess:
        """Creates the process for a `SubnetUpdate` type and a float32 weight."""
        supernet, shapes = self._supernet, self._supernet.weight_shapes
        padded_type = tensors_type(shapes)
        cells_type = tensors_type({name: grid.cells for name, grid in supernet.grids.items()})
        counts_type = tff.to_type(
            OrderedDict.fromkeys(("weight", "loss", "examples", "clients"), np.float32)
        )
        total_process = self._total_sum.create(padded_type)
        coverage_process = self._coverage_sum.create(tff.to_type((cells_type, counts_type)))

        # Client computation.

        @tff.tensorflow.computation(value_type, weight_type)
        def pad(update, weight):
            finite, delta = finite_delta(supernet, update)
            use = tf.cast(finite, tf.float32)
            one = overlap_of(supernet, update.architecture, delta, weight * use, self._nested)
            counts = OrderedDict(
                weight=weight * use,
                loss=tf.where(finite, update.loss * update.examples, 0.0),
                examples=update.examples * use,
                clients=use,
            )
            return tuple(one.total.values()), (tuple(one.coverage.values()), counts)

        # Server computation.

        @tff.tensorflow.computation(padded_type, cells_type, counts_type)
        def divide(totals, coverages, counts):
            overlap = slicing.Overlap(supernet.named(totals), supernet.named(coverages))
            overlap = slicing.expand_coverage(overlap, supernet.grids)
            measurements = OrderedDict(
                loss=tf.math.divide_no_nan(counts["loss"], counts["examples"]),
                examples=counts["examples"],
                clients=tf.cast(tf.round(counts["clients"]), tf.int32),
                rejected=tf.compat.v1.placeholder_with_default(tf.zeros([0], tf.int32), [None]),
            )
            return mean_update(overlap, self._divisor, counts["weight"]), measurements

        @tff.federated_computation
        def initialize():
            return tff.federated_zip((total_process.initialize(), coverage_process.initialize()))

        @tff.federated_computation(
            initialize.type_signature.result,
            tff.FederatedType(value_type, tff.CLIENTS),
            tff.FederatedType(weight_type, tff.CLIENTS),
        )
        def next_fn(state, updates, weights):
            total_state, coverage_state = state
            totals, coverages = tff.federated_map(pad, (updates, weights))
            total_output = total_process.next(total_state, totals)
            coverage_output = coverage_process.next(coverage_state, coverages)
            coverage, counts = coverage_output.result
            mean, measurements = tff.federated_map(divide, (total_output.result, coverage, counts))
            return tff.templates.MeasuredProcessOutput(
                tff.federated_zip((total_output.state, coverage_output.state)), mean, measurements
            )

        return tff.templates.AggregationProcess(initialize, next_fn)


def secure_overlap_mean(
    supernet: Supernet, bound: float, divisor: str = "coverage", nested: bool = False
) -> PaddedOverlapMeanFactory:
    """Returns an overlap mean whose sums are secure sums of 32-bit integers.

    TFF runs secure sums only in its test context (`tff.backends.test`), which replaces the
    cryptographic protocol with plain sums of the same integers: the results are those of the
    protocol, but nothing is kept secret. The native context refuses them, since TFF ships no such
    protocol.

    Args:
      supernet: Supernet whose subnets were trained.
      bound: Maximum absolute value of a weighted entry and of a client's weight, examples and sum
        of losses; larger values are clipped. Sums are exact to `bound` x 2**-32 per client.
      divisor: `"coverage"` or `"diluted"`, see `OverlapMeanFactory`.
      nested: Whether the updates also contain every subnet of a subnet, see `Supernet.slices`.
    """
    return PaddedOverlapMeanFactory(
        supernet,
        tff.aggregators.SecureSumFactory(bound, -bound),
        # From 0, so that cells that no client covers sum to exactly 0.
        tff.aggregators.SecureSumFactory(bound, 0.0),
        divisor,
        nested,
    )
