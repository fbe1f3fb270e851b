"""Aggregation of updates that each cover part of the supernet."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf import slicing
from fedsup_tf.files.validation import check_choice
from fedsup_tf.slicing import Overlap
from fedsup_tf.supernet import Supernet
from tff_programs.types import MeanUpdate, SubnetUpdate

DIVISORS = slicing.DIVISORS
# Largest absolute value of an update that is used. Far above any change of a weight; weighted sums
# and sums of squares of such values stay finite in float32.
_MAX_VALUE = 1e12


def finite_delta(
    supernet: Supernet, update: SubnetUpdate
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Returns whether an update is finite, and its delta by tensor name, all zeros if it is not.

    Values of more than 1e12 count as infinite, since sums over clients would overflow.
    """
    # A comparison with NaN is false.
    finite = tf.reduce_all(
        [tf.reduce_all(tf.abs(part) <= _MAX_VALUE) for part in update.delta]
        + [tf.math.is_finite(update.loss)]
    )
    # Multiplying by 0 would turn infinity into NaN and keep NaN.
    delta = {
        name: tf.where(finite, part, tf.zeros_like(part))
        for name, part in zip(supernet.weight_shapes, update.delta, strict=True)
    }
    return finite, delta


def overlap_of(
    supernet: Supernet,
    architecture: tf.Tensor,
    delta: Mapping[str, tf.Tensor],
    weight: tf.Tensor,
    nested: bool,
) -> Overlap:
    """Pads one client's weighted update to the supernet's size and returns it with its coverage.

    Args:
      supernet: Supernet whose subnets were trained.
      architecture: `SearchSpace.index` of the client's subnet.
      delta: The client's update by tensor name; an empty tensor (of a frozen part) covers nothing.
      weight: The client's weight.
      nested: Whether the update also contains every subnet of the subnet, see `Supernet.slices`.
    """
    slices = supernet.slices(supernet.code_at(architecture), nested=nested)
    for name, part in delta.items():
        if part.shape.num_elements() == 0:
            slices[name] = slicing.Slice((0,) * len(part.shape), tuple(part.shape))
    return slicing.overlap(delta, slices, supernet.grids, weight)


def mean_update(sums: Overlap, divisor: str, weight: tf.Tensor) -> MeanUpdate:
    """Computes the mean update from the sums over the clients.

    Args:
      sums: Sums over the clients, after `slicing.expand_coverage`.
      divisor: One of `DIVISORS`.
      weight: Sum of all clients' weights.
    """
    mean = slicing.average(sums, divisor, weight)
    return MeanUpdate(tuple(mean.values()), tuple(part > 0 for part in sums.coverage.values()))


class Upload:
    """Upload of updates as they are; a subclass may encode them."""

    # Names of the float32 scalars that `decode` returns; they are averaged over the clients.
    measurements = ()

    def encode(self, update: SubnetUpdate):
        """Encodes an update as the structure of tensors to send; runs on the client."""
        return update

    def decode(self, message) -> tuple[SubnetUpdate, tuple]:
        """Returns the update and its measurements from a message; runs on the server."""
        return message, ()


class _Accumulator(NamedTuple):
    sums: tuple
    weight: tf.Tensor
    loss: tf.Tensor
    examples: tf.Tensor
    clients: tf.Tensor
    measured: tuple
    rejected: tf.Tensor


class StreamedOverlapFactory(tff.aggregators.WeightedAggregationFactory):
    """Base class of aggregations that accumulate padded updates one at a time.

    Updates are padded to the supernet's size; memory does not grow with the number of clients. A
    subclass defines the sums and how the mean follows from them. An update with a non-finite value
    is left out, as if its client had not answered; the measurements name the client.

    The created process has the type signature

        next: (<S@SERVER, {SubnetUpdate}@CLIENTS, {float32}@CLIENTS> ->
               <state=S@SERVER, result=MeanUpdate@SERVER, measurements=M@SERVER>)

    with M the mean `loss` weighted by examples, the number of `examples`, the number of `clients`
    whose updates were used, `rejected` (the numbers of the clients whose updates were not), the
    mean of each of the upload's measurements, and the subclass's own measurements. The server sees
    every client's update.
    """

    def __init__(
        self,
        supernet: Supernet,
        divisor: str = "coverage",
        nested: bool = False,
        upload: Upload | None = None,
    ):
        """Makes the factory.

        Args:
          supernet: Supernet whose subnets were trained.
          divisor: One of `DIVISORS`.
          nested: Whether the updates also contain every subnet of a subnet, see `Supernet.slices`.
          upload: Encoding of uploads; by default updates are sent unchanged.
        """
        check_choice(divisor, "aggregation", DIVISORS)
        self.supernet = supernet
        self.divisor = divisor
        self.nested = nested
        self.upload = upload or Upload()

    def initial_state(self):
        """Returns the state S before the first round; runs on the server."""
        return ()

    def zero(self):
        """Returns the sums over no clients, a structure of tensors; runs on the server."""
        raise NotImplementedError

    def transform(self, delta: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        """Transforms a client's update before it is added; runs on the server."""
        return delta

    def client_weight(self, weight: tf.Tensor, finite: tf.Tensor) -> tf.Tensor:
        """Returns the weight of a client's entries, float32; runs on the server."""
        return tf.where(finite, weight, 0.0)

    def add(self, sums, one: Overlap, weight: tf.Tensor, position: tf.Tensor):
        """Adds one client's overlap and weight to the sums; runs on the server.

        Args:
          sums: Sums over the clients so far.
          one: Overlap of the client.
          weight: Weight of the client's entries.
          position: Number of the clients so far, including those left out.
        """
        raise NotImplementedError

    def merge(self, first, second, number: tf.Tensor):
        """Merges the sums over `number` clients with those over later ones; runs on the server."""
        del number
        return tf.nest.map_structure(tf.add, first, second)

    def finish(self, state, sums, weight: tf.Tensor):
        """Computes the next state and the overlap that gives the mean; runs on the server.

        Returns:
          The next state, the `Overlap` to divide (after `slicing.expand_coverage`), its sum of
          weights and an `OrderedDict` of measurements.
        """
        raise NotImplementedError

    def create(
        self, value_type: tff.Type, weight_type: tff.Type
    ) -> tff.templates.AggregationProcess:
        """Creates the process for a `SubnetUpdate` type and a float32 weight."""
        supernet = self.supernet

        # Client computation.

        @tff.tensorflow.computation(value_type)
        def encode(update):
            return self.upload.encode(update)

        # Server computations.

        @tff.tensorflow.computation
        def initial_state():
            return self.initial_state()

        @tff.tensorflow.computation
        def zero():
            return _Accumulator(
                sums=self.zero(),
                weight=0.0,
                loss=0.0,
                examples=0.0,
                clients=0,
                measured=(0.0,) * len(self.upload.measurements),
                # The length is unknown, so the accumulator keeps its type as it grows.
                rejected=tf.compat.v1.placeholder_with_default(tf.zeros([0], tf.int32), [None]),
            )

        state_type = initial_state.type_signature.result
        accumulator_type = zero.type_signature.result
        sent_type = tff.to_type(
            OrderedDict(message=encode.type_signature.result, weight=weight_type)
        )

        @tff.tensorflow.computation(accumulator_type, sent_type)
        def accumulate(accumulator, sent):
            update, measured = self.upload.decode(sent["message"])
            finite, delta = finite_delta(supernet, update)
            weight = self.client_weight(sent["weight"], finite)
            one = overlap_of(
                supernet, update.architecture, self.transform(delta), weight, self.nested
            )
            use = tf.cast(finite, tf.float32)
            return _Accumulator(
                sums=self.add(accumulator.sums, one, weight, _number(accumulator)),
                weight=accumulator.weight + weight,
                loss=accumulator.loss + tf.where(finite, update.loss * update.examples, 0.0),
                examples=accumulator.examples + update.examples * use,
                clients=accumulator.clients + tf.cast(finite, tf.int32),
                measured=tuple(
                    total + tf.where(finite, part, 0.0)
                    for total, part in zip(accumulator.measured, measured, strict=True)
                ),
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
            sums = self.merge(first.sums, second.sums, _number(first))
            rejected = tf.concat([first.rejected, second.rejected], 0)
            first, second = (part._replace(sums=(), rejected=()) for part in (first, second))
            merged = tf.nest.map_structure(tf.add, first, second)
            return merged._replace(sums=sums, rejected=rejected)

        @tff.tensorflow.computation(accumulator_type)
        def report(accumulator):
            return accumulator

        @tff.tensorflow.computation(state_type, accumulator_type)
        def finish(state, accumulator):
            state, sums, weight, measured = self.finish(state, accumulator.sums, accumulator.weight)
            measurements = OrderedDict(
                loss=tf.math.divide_no_nan(accumulator.loss, accumulator.examples),
                examples=accumulator.examples,
                clients=accumulator.clients,
                rejected=accumulator.rejected,
            )
            clients = tf.cast(accumulator.clients, tf.float32)
            for name, total in zip(self.upload.measurements, accumulator.measured, strict=True):
                measurements[name] = tf.math.divide_no_nan(total, clients)
            return state, mean_update(sums, self.divisor, weight), measurements | measured

        @tff.federated_computation
        def initialize():
            return tff.federated_eval(initial_state, tff.SERVER)

        @tff.federated_computation(
            initialize.type_signature.result,
            tff.FederatedType(value_type, tff.CLIENTS),
            tff.FederatedType(weight_type, tff.CLIENTS),
        )
        def next_fn(state, updates, weights):
            messages = tff.federated_map(encode, updates)
            sent = tff.federated_zip(OrderedDict(message=messages, weight=weights))
            sums = tff.federated_aggregate(sent, zero(), accumulate, merge, report)
            state, mean, measurements = tff.federated_map(finish, (state, sums))
            return tff.templates.MeasuredProcessOutput(state, mean, measurements)

        return tff.templates.AggregationProcess(initialize, next_fn)


def _number(accumulator):
    """Returns the number of clients accumulated so far, including those left out."""
    return accumulator.clients + tf.size(accumulator.rejected)


class OverlapMeanFactory(StreamedOverlapFactory):
    """Weighted mean of updates that each cover part of the supernet (E-FedSup's aggregation).

    With `"coverage"`, each entry is averaged over the clients whose subnet holds it (arXiv
    2206.01366, algorithm 2); with `"diluted"`, over all clients of the round, where an entry that a
    client does not hold counts as unchanged (as in the reference implementation). Either way, an
    entry that no client holds does not change.

    For the type signature and what the server learns, see `StreamedOverlapFactory`; S is `()`.
    """

    def zero(self):
        """Returns zero totals and zero coverage."""
        return Overlap(
            *(tuple(parts.values()) for parts in slicing.zero_overlap(self.supernet.grids))
        )

    def add(self, sums, one, weight, position):
        """Adds one client's totals and coverage to the sums."""
        del weight, position
        return Overlap(
            *(
                tuple(total + part for total, part in zip(totals, parts.values(), strict=True))
                for totals, parts in zip(sums, one, strict=True)
            )
        )

    def finish(self, state, sums, weight):
        """Expands the coverage to entries; changes no state and adds no measurements."""
        overlap = Overlap(*map(self.supernet.named, sums))
        return state, slicing.expand_coverage(overlap, self.supernet.grids), weight, OrderedDict()
