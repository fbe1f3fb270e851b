"""Server update of the weights: an optimizer step and averaging over the rounds."""

import dataclasses
from collections import OrderedDict
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.files.validation import check_number
from tff_programs.types import MeanUpdate


@dataclasses.dataclass(frozen=True)
class ServerUpdate:
    """Applies a round's mean update to the supernet's weights.

    Its state is a pair of the optimizer's state and the average of the weights; either is an empty
    tuple if unused.

    Attributes:
      optimizer: Optimizer that uses the negative mean update as its gradient (FedOpt), on the
        entries that were trained in the round; if None, the mean update is added.
      averaging: Maximum share of itself that the average over the rounds keeps in each round, at
        least 0 and below 1; 0 disables averaging.

    Raises:
      ValueError: If `averaging` is out of range.
    """

    optimizer: tff.learning.optimizers.Optimizer | None = None
    averaging: float = 0.0

    def __post_init__(self):
        check_number(self.averaging, "averaging", minimum=0, below=1)

    def initialize(self, weights: tuple[tf.Tensor, ...]) -> tuple[Any, Any]:
        """Returns the state before the first round."""
        optimizer = ()
        if self.optimizer is not None:
            specs = tuple(tf.TensorSpec(weight.shape) for weight in weights)
            optimizer = self.optimizer.initialize(specs)
        return optimizer, weights if self.averaging else ()

    def next(
        self,
        state: tuple[Any, Any],
        weights: tuple[tf.Tensor, ...],
        mean: MeanUpdate,
        round_number: tf.Tensor,
    ) -> tuple[tuple[Any, Any], tuple[tf.Tensor, ...]]:
        """Computes the state and the weights after a round.

        Args:
          state: State before the round.
          weights: Weights before the round.
          mean: Mean of the clients' updates.
          round_number: Number of the round, int32, from 0.
        """
        optimizer, average = state
        if self.optimizer is None:
            weights = tuple(w + d for w, d in zip(weights, mean.delta, strict=True))
        else:
            gradients = tuple(-delta for delta in mean.delta)
            stepped_optimizer, stepped = self.optimizer.next(optimizer, weights, gradients)
            weights = _where_covered(mean.covered, stepped, weights)
            optimizer = OrderedDict(
                (
                    key,
                    _where_covered(mean.covered, stepped_optimizer[key], value)
                    if isinstance(value, tuple | list)
                    else stepped_optimizer[key],
                )
                for key, value in optimizer.items()
            )
        if self.averaging:
            # In the first rounds, the average forgets the initial weights faster.
            done = tf.cast(round_number, tf.float32)
            kept = tf.minimum(self.averaging, (1 + done) / (10 + done))
            average = tuple(
                old + (1 - kept) * (new - old) for old, new in zip(average, weights, strict=True)
            )
        return (optimizer, average), weights

    def evaluated(
        self, state: tuple[Any, Any], weights: tuple[tf.Tensor, ...]
    ) -> tuple[tf.Tensor, ...]:
        """Returns the weights to evaluate and to keep: the average if there is one."""
        return tuple(state[1]) if self.averaging else weights

    def replaced(self, state: tuple[Any, Any], weights: tuple[tf.Tensor, ...]) -> tuple[Any, Any]:
        """Returns the state of a training that continues from other weights."""
        return state[0], weights if self.averaging else ()


def _where_covered(covered, new, old):
    """Returns `new` for trained entries, otherwise `old`, so momentum moves nothing else."""
    return tuple(tf.where(c, n, o) for c, n, o in zip(covered, new, old, strict=True))
