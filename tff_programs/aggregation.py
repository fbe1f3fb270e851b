"""Aggregation that knows which part of the supernet each client's update covers."""

from collections import OrderedDict
from typing import NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf import slicing
from fedsup_tf.supernet import Supernet

KINDS = slicing.AGGREGATIONS


class SubnetUpdate(NamedTuple):
    """What a client sends to the server.

    Attributes:
      delta: Trained minus received weights, one tensor per tensor of the supernet, of the subnet's
        sizes.
      architecture: The subnet's `SearchSpace.index`, int32.
      client: The client's number, int32.
      examples: Number of its examples, float32.
      loss: Its mean training loss, float32.
    """

    delta: tuple
    architecture: tf.Tensor
    client: tf.Tensor
    examples: tf.Tensor
    loss: tf.Tensor


class MeanUpdate(NamedTuple):
    """What the server makes of all clients' updates.

    Attributes:
      delta: Mean update of every entry of the supernet, one tensor per tensor.
      covered: Whether any client trained the entry, bool, likewise.
    """

    delta: tuple
    covered: tuple


class _Accumulator(NamedTuple):
    total: tuple
    coverage: tuple
    weight: tf.Tensor
    loss: tf.Tensor
    examples: tf.Tensor
    clients: tf.Tensor
    rejected: tf.Tensor


class OverlapMeanFactory(tff.aggregators.WeightedAggregationFactory):
    """Weighted mean of updates that each cover a part of the supernet (law of E-FedSup).

    With `"coverage"`, an entry's mean runs over the clients whose subnet holds it (arXiv
    2206.01366, algorithm 2); with `"diluted"`, over all clients of the round, an entry that a
    client did not hold counting as unchanged (what the reference implementation does). Either way
    an entry that no client holds does not change.

    An update with a value that is not finite is left out, as if its client had not answered; the
    measurements name the client. Updates are padded to the supernet's size one at a time as they
    arrive, so that memory does not grow with their number.

    The created process has the type signature

        next: (<()@SERVER, {SubnetUpdate}@CLIENTS, {float32}@CLIENTS> ->
               <state=()@SERVER, result=MeanUpdate@SERVER, measurements=M@SERVER>)

    with M the mean `loss` by examples, the number of `examples`, the number of `clients` whose
    updates were used, and `rejected`, the numbers of those whose updates were not.
    """

    def __init__(self, supernet: Supernet, kind: str = "coverage", with_subnets: bool = False):
        """Makes the factory.

        Args:
          supernet: The supernet whose subnets were trained.
          kind: One of `KINDS`.
          with_subnets: Whether the updates hold the subnets' own subnets, see `Supernet.slices`.
        """
        if kind not in KINDS:
            raise ValueError(f"Expected an aggregation of {', '.join(KINDS)}, received {kind!r}.")
        self._supernet = supernet
        self._kind = kind
        self._with_subnets = with_subnets

    def create(
        self, value_type: tff.Type, weight_type: tff.Type
    ) -> tff.templates.AggregationProcess:
        """Creates the process for a `SubnetUpdate` type and a float32 weight."""
        supernet, kind, with_subnets = self._supernet, self._kind, self._with_subnets
        shapes = supernet.weight_shapes

        @tff.tensorflow.computation
        def zero():
            return _Accumulator(
                total=tuple(tf.zeros(shape) for shape in shapes.values()),
                coverage=tuple(tf.zeros(shape) for shape in shapes.values()),
                weight=0.0,
                loss=0.0,
                examples=0.0,
                clients=0,
                # Of unknown length, so that the accumulator keeps its type while it grows.
                rejected=tf.compat.v1.placeholder_with_default(tf.zeros([0], tf.int32), [None]),
            )

        accumulator_type = zero.type_signature.result

        @tff.tensorflow.computation(
            accumulator_type, tff.to_type(OrderedDict(update=value_type, weight=weight_type))
        )
        def accumulate(accumulator, weighted):
            update, weight = weighted["update"], weighted["weight"]
            finite = tf.reduce_all(
                [tf.reduce_all(tf.math.is_finite(part)) for part in update.delta]
                + [tf.math.is_finite(update.loss)]
            )
            use = tf.cast(finite, tf.float32)
            # Not a product with 0, which would keep what is not finite.
            delta = {
                name: tf.where(finite, part, tf.zeros_like(part))
                for name, part in zip(shapes, update.delta, strict=True)
            }
            code = supernet.code_at(update.architecture)
            slices = supernet.slices(code, with_subnets=with_subnets)
            one = slicing.overlap(delta, slices, shapes, weight * use)
            loss = tf.where(finite, update.loss * update.examples, 0.0)
            return _Accumulator(
                total=_add(accumulator.total, one.total.values()),
                coverage=_add(accumulator.coverage, one.coverage.values()),
                weight=accumulator.weight + weight * use,
                loss=accumulator.loss + loss,
                examples=accumulator.examples + update.examples * use,
                clients=accumulator.clients + tf.cast(finite, tf.int32),
                rejected=tf.concat(
                    [
                        accumulator.rejected,
                        tf.boolean_mask([update.client], [tf.logical_not(finite)]),
                    ],
                    0,
                ),
            )

        @tff.tensorflow.computation(accumulator_type, accumulator_type)
        def merge(first, second):
            merged = {
                field: getattr(first, field) + getattr(second, field)
                for field in ("weight", "loss", "examples", "clients")
            }
            return _Accumulator(
                total=_add(first.total, second.total),
                coverage=_add(first.coverage, second.coverage),
                rejected=tf.concat([first.rejected, second.rejected], 0),
                **merged,
            )

        @tff.tensorflow.computation(accumulator_type)
        def report(accumulator):
            coverage = dict(zip(shapes, accumulator.coverage, strict=True))
            covered = tuple(part > 0 for part in accumulator.coverage)
            total = dict(zip(shapes, accumulator.total, strict=True))
            mean = slicing.average(slicing.Overlap(total, coverage), kind, accumulator.weight)
            measurements = OrderedDict(
                loss=tf.math.divide_no_nan(accumulator.loss, accumulator.examples),
                examples=accumulator.examples,
                clients=accumulator.clients,
                rejected=accumulator.rejected,
            )
            return MeanUpdate(tuple(mean.values()), covered), measurements

        @tff.federated_computation
        def initialize():
            return tff.federated_value((), tff.SERVER)

        @tff.federated_computation(
            initialize.type_signature.result,
            tff.FederatedType(value_type, tff.CLIENTS),
            tff.FederatedType(weight_type, tff.CLIENTS),
        )
        def next_fn(state, updates, weights):
            weighted = tff.federated_zip(OrderedDict(update=updates, weight=weights))
            mean, measurements = tff.federated_aggregate(
                weighted, zero(), accumulate, merge, report
            )
            return tff.templates.MeasuredProcessOutput(state, mean, measurements)

        return tff.templates.AggregationProcess(initialize, next_fn)


def _add(first, second):
    return tuple(a + b for a, b in zip(first, second, strict=True))
