"""Clipping and zeroing of updates by the norm of their covered entries."""

from collections import OrderedDict

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.files.validation import check_number

_NORM_TYPE = tff.TensorType(np.float32)


class _NormFactory(tff.aggregators.WeightedAggregationFactory):
    """Changes each update whose norm exceeds a bound, then aggregates all with `inner`."""

    # The measurements are called `{verb}_norm` and `{participle}`.
    verb: str
    participle: str

    def __init__(
        self,
        norm: float | tff.templates.EstimationProcess,
        inner: tff.aggregators.WeightedAggregationFactory,
    ):
        """Makes the factory.

        Args:
          norm: Maximum l2 norm; for an adaptive bound, a process that estimates it from the
            clients' norms, such as `tff.aggregators.PrivateQuantileEstimationProcess`.
          inner: Factory of the process that aggregates the changed updates.
        """
        if not isinstance(norm, tff.templates.EstimationProcess):
            process = "Or give an estimation process."
            check_number(norm, "the norm", above=0, what=self.verb.capitalize(), advice=process)
        self._norm = norm
        self._inner = inner

    def change(self, part: tf.Tensor, norm: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
        """Changes one tensor of an update whose norm exceeds the bound; runs on the client."""
        raise NotImplementedError

    def create(
        self, value_type: tff.Type, weight_type: tff.Type
    ) -> tff.templates.AggregationProcess:
        """Creates the process for a `SubnetUpdate` type and a float32 weight."""
        inner = self._inner.create(value_type, weight_type)
        bound_process = self._norm
        if not isinstance(bound_process, tff.templates.EstimationProcess):
            bound_process = _constant_process(self._norm)

        # Client computation.

        @tff.tensorflow.computation(value_type, _NORM_TYPE)
        def change(update, bound):
            norm = tf.linalg.global_norm(update.delta)
            above = norm > bound
            delta = tuple(
                tf.where(above, self.change(part, norm, bound), part) for part in update.delta
            )
            return update._replace(delta=delta), norm, tf.cast(above, tf.int32)

        @tff.federated_computation
        def initialize():
            return tff.federated_zip((bound_process.initialize(), inner.initialize()))

        @tff.federated_computation(
            initialize.type_signature.result,
            tff.FederatedType(value_type, tff.CLIENTS),
            tff.FederatedType(weight_type, tff.CLIENTS),
        )
        def next_fn(state, updates, weights):
            bound_state, inner_state = state
            bound = bound_process.report(bound_state)
            changed, norms, above = tff.federated_map(
                change, (updates, tff.federated_broadcast(bound))
            )
            output = inner.next(inner_state, changed, weights)
            names = tff.structure.name_list(output.measurements.type_signature.member)
            measurements = OrderedDict((name, output.measurements[name]) for name in names)
            measurements[f"{self.verb}_norm"] = bound
            measurements[self.participle] = tff.federated_sum(above)
            return tff.templates.MeasuredProcessOutput(
                tff.federated_zip((bound_process.next(bound_state, norms), output.state)),
                output.result,
                tff.federated_zip(measurements),
            )

        return tff.templates.AggregationProcess(initialize, next_fn)


class ClippingFactory(_NormFactory):
    """Scales updates above a maximum norm down to it before `inner` aggregates them.

    The norm is taken over the entries that the client's subnet covers, without padding. With an
    estimation process, the bound follows the norms of recent rounds (Andrew et al., arXiv
    1905.03871).

    The created process has the type signature

        next: (<<E, S>@SERVER, {SubnetUpdate}@CLIENTS, {float32}@CLIENTS> ->
               <state=<E, S>@SERVER, result=R@SERVER, measurements=M@SERVER>)

    with E the state of the estimation process (`()` for a fixed norm), S and R the state and result
    of `inner`, and M the measurements of `inner` plus `clipping_norm` (float32) and `clipped`
    (int32), the number of clients that exceeded it. In addition to what `inner` reveals, the server
    learns `clipped` and, with an estimation process, the sums that it uses: for a quantile, the
    number of norms below the estimate.
    """

    verb, participle = "clipping", "clipped"

    def change(self, part, norm, bound):
        """Multiplies the tensor by the ratio of the bound to the norm."""
        return part * (bound / norm)


class ZeroingFactory(_NormFactory):
    """Sets updates whose norm exceeds a bound to zero before `inner` aggregates them.

    Such a client counts as one whose training changed nothing. The type signature and what the
    server learns are as for `ClippingFactory`, with `zeroing_norm` and `zeroed`.
    """

    verb, participle = "zeroing", "zeroed"

    def change(self, part, norm, bound):
        """Returns zeros in place of the tensor."""
        return tf.zeros_like(part)


def adaptive_clipping_norm(initial: float = 1.0) -> tff.templates.EstimationProcess:
    """Returns an estimator of the clients' 80th percentile norm, as used in `tff.learning`."""
    return tff.aggregators.PrivateQuantileEstimationProcess.no_noise(
        initial_estimate=initial, target_quantile=0.8, learning_rate=0.2
    )


def adaptive_zeroing_norm(initial: float = 10.0) -> tff.templates.EstimationProcess:
    """Returns an estimator of twice the 98th percentile norm plus 1, as used in `tff.learning`."""
    return tff.aggregators.PrivateQuantileEstimationProcess.no_noise(
        initial_estimate=initial,
        target_quantile=0.98,
        learning_rate=float(np.log(10.0)),
        multiplier=2.0,
        increment=1.0,
    )


def _constant_process(value):
    @tff.federated_computation
    def initialize():
        return tff.federated_value((), tff.SERVER)

    @tff.federated_computation(
        initialize.type_signature.result, tff.FederatedType(_NORM_TYPE, tff.CLIENTS)
    )
    def next_fn(state, norms):
        del norms
        return state

    @tff.federated_computation(initialize.type_signature.result)
    def report(state):
        del state
        return tff.federated_value(np.float32(value), tff.SERVER)

    return tff.templates.EstimationProcess(initialize, next_fn, report)
