"""SGD with Nesterov momentum, as a server optimizer."""

from collections import OrderedDict
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.files.validation import check_number

_LEARNING_RATE = tff.learning.optimizers.LEARNING_RATE_KEY
_MOMENTUM = "momentum"
_ACCUMULATOR = "accumulator"


class _Nesterov(tff.learning.optimizers.Optimizer):
    """SGD with Nesterov momentum, as `build_nesterov` describes it."""

    def __init__(self, learning_rate: float, momentum: float):
        check_number(learning_rate, "learning_rate", above=0, what="Nesterov momentum")
        check_number(momentum, "momentum", minimum=0, below=1, what="Nesterov momentum")
        self._learning_rate = learning_rate
        self._momentum = momentum

    def initialize(self, specs: Any) -> OrderedDict[str, Any]:
        zeros = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), specs)
        return OrderedDict(
            [
                (_LEARNING_RATE, self._learning_rate),
                (_MOMENTUM, self._momentum),
                (_ACCUMULATOR, zeros),
            ]
        )

    def next(self, state: OrderedDict[str, Any], weights: Any, gradients: Any):
        rate, momentum = state[_LEARNING_RATE], state[_MOMENTUM]
        accumulator = tf.nest.map_structure(
            lambda a, g: momentum * a + g, state[_ACCUMULATOR], gradients
        )
        stepped = tf.nest.map_structure(
            lambda w, a, g: w - rate * (g + momentum * a), weights, accumulator, gradients
        )
        return OrderedDict(state, **{_ACCUMULATOR: accumulator}), stepped

    def get_hparams(self, state: OrderedDict[str, Any]) -> OrderedDict[str, Any]:
        return OrderedDict((key, state[key]) for key in (_LEARNING_RATE, _MOMENTUM))

    def set_hparams(
        self, state: OrderedDict[str, Any], hparams: OrderedDict[str, Any]
    ) -> OrderedDict[str, Any]:
        return OrderedDict(state, **hparams)


def build_nesterov(
    learning_rate: float, momentum: float = 0.9
) -> tff.learning.optimizers.Optimizer:
    r"""Returns SGD with Nesterov momentum.

    With weights $w$, gradient $g$, learning rate $\eta$ and momentum $\mu$:

    $$a \leftarrow \mu a + g, \quad w \leftarrow w - \eta (g + \mu a)$$

    On the server, the gradient is the negative mean update. The weights sent to the clients are
    then one momentum step ahead of the result of the mean update, so that clients correct the
    momentum's direction instead of drifting from it (accelerated client gradient, Kim et al., arXiv
    2201.03172), without any additional communication.

    Args:
      learning_rate: Factor applied to the mean update, above 0.
      momentum: Share of the accumulator that is kept in each round, at least 0 and below 1.

    Raises:
      ValueError: If an argument is out of range.
    """
    return _Nesterov(learning_rate, momentum)
