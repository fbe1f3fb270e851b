"""Differentially private aggregation and its privacy accounting."""

import dataclasses
import functools
from collections import OrderedDict

import dp_accounting
import tensorflow as tf

from fedsup_tf.files.validation import check_number, check_whole_number
from fedsup_tf.slicing import Overlap
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators.overlap_mean import OverlapMeanFactory, Upload

# Below a thousandth of the largest update, noise gives no privacy (an epsilon of millions); at a
# million times the largest update, it leaves no usable signal.
MIN_NOISE_MULTIPLIER = 1e-3
MAX_NOISE_MULTIPLIER = 1e6


class PrivateOverlapMeanFactory(OverlapMeanFactory):
    """Overlap mean with central, client-level differential privacy (arXiv 1710.06963).

    The server clips each update to an l2 norm over the entries it covers, sums the updates of all
    clients with weight 1, adds Gaussian noise with standard deviation `noise_multiplier` x
    `clipping_norm` to the sum of each covered entry, and divides by the coverage count. A client's
    subnet depends on its device, not on its data, so coverage counts are public and get no noise;
    entries that no client covers get no noise and do not change. A non-finite update counts as
    zero, since leaving it out would show in the counts; a client without examples counts like any
    other.

    The noise is drawn from a seed in the aggregator's state, so a repeated round releases the same
    noise and not a second draw. Anyone who knows the seed can subtract the noise: keep the state
    private.

    The type signature is that of `StreamedOverlapFactory`, with S an `OrderedDict` of `seed` (int32
    `(2,)`) and `round` (int32); weights are ignored. The server sees every client's update and is
    trusted with it. Against everyone else, the epsilon of `PrivacyAccount` holds, for the weights
    only: the measured loss and the number of examples are not private.
    """

    def __init__(
        self,
        supernet: Supernet,
        clipping_norm: float,
        noise_multiplier: float,
        seed: tuple[int, int],
        divisor: str = "coverage",
        nested: bool = False,
        upload: Upload | None = None,
    ):
        """Makes the factory.

        Args:
          supernet: Supernet whose subnets were trained.
          clipping_norm: Maximum l2 norm of an update.
          noise_multiplier: Standard deviation of the noise divided by `clipping_norm`.
          seed: Secret seed of the noise, two int32.
          divisor: `"coverage"` or `"diluted"`, see `OverlapMeanFactory`.
          nested: Whether the updates also contain every subnet of a subnet, see `Supernet.slices`.
          upload: Encoding of uploads; by default updates are sent unchanged.
        """
        super().__init__(supernet, divisor, nested, upload)
        check_number(clipping_norm, "the clipping norm", above=0, what="Privacy")
        _check_noise(noise_multiplier, above=0)
        self._clipping_norm = clipping_norm
        self._noise_multiplier = noise_multiplier
        self._seed = seed

    def initial_state(self):
        """Returns the seed of the noise and the number of the first round, 0."""
        return OrderedDict(seed=tf.constant(self._seed, tf.int32), round=0)

    def transform(self, delta):
        """Clips the update to the clipping norm."""
        norm = tf.linalg.global_norm(list(delta.values()))
        scale = self._clipping_norm / tf.maximum(norm, self._clipping_norm)
        return {name: part * scale for name, part in delta.items()}

    def client_weight(self, weight, finite):
        """Returns 1 for every client, even if its update is not finite."""
        return tf.ones_like(weight)

    def finish(self, state, sums, weight):
        """Adds Gaussian noise to the total of each covered entry and increments the round."""
        state, overlap, weight, measurements = super().finish(state, sums, weight)
        stddev = self._noise_multiplier * self._clipping_norm
        round_seed = tf.random.experimental.stateless_fold_in(state["seed"], state["round"])
        overlap = add_noise(overlap, stddev, round_seed)
        next_state = OrderedDict(seed=state["seed"], round=state["round"] + 1)
        return next_state, overlap, weight, measurements


def add_noise(overlap: Overlap, stddev: float, seed: tf.Tensor) -> Overlap:
    """Adds Gaussian noise to the total of each covered entry.

    Args:
      overlap: Sum over the clients, after `slicing.expand_coverage`.
      stddev: Standard deviation of the noise.
      seed: Secret seed of the noise, two int32.
    """
    total = {}
    for number, (name, part) in enumerate(overlap.total.items()):
        own = tf.random.experimental.stateless_fold_in(seed, number)
        noise = tf.random.stateless_normal(part.shape, own, stddev=stddev)
        total[name] = tf.where(overlap.coverage[name] > 0, part + noise, 0.0)
    return Overlap(total, overlap.coverage)


@dataclasses.dataclass(frozen=True)
class PrivacyAccount:
    """Privacy cost of rounds of `PrivateOverlapMeanFactory`.

    Two populations are neighbors if they differ in the examples of one client, but not in their
    number. A sum then changes by up to twice the clipping norm, so the effective noise multiplier
    is half of `noise_multiplier`.

    Attributes:
      noise_multiplier: See `PrivateOverlapMeanFactory`.
      delta: Probability that the bound does not hold; should be below one over the number of
        clients.
      clients_per_round: Number of clients asked per round.
      clients: Total number of clients.
      sampled: Whether each round asks a uniformly random subset of all clients that is unknown to
        everyone who sees the weights (Wang et al., arXiv 1808.00087); otherwise each client is
        counted as if it took part in every round.
    """

    noise_multiplier: float
    delta: float
    clients_per_round: int
    clients: int
    sampled: bool = True

    def __post_init__(self):
        check_number(self.delta, "delta", above=0, below=1, what="Privacy")
        _check_noise(self.noise_multiplier, minimum=MIN_NOISE_MULTIPLIER)
        clients = check_whole_number(self.clients, "clients", 1, what="Privacy")
        check_whole_number(self.clients_per_round, "clients_per_round", 1, clients, what="Privacy")

    def __str__(self):
        asked = f"{self.clients_per_round} of {self.clients} clients a round"
        if self.sampled:
            asked += ", drawn from a seed that must stay secret"
        else:
            asked += ", each counted as if it took part in every round"
        return (
            f"Epsilon is given at delta {self.delta:.1e}, of the weights alone, for one client's "
            f"examples; {asked}."
        )

    def epsilon_after(self, rounds: int) -> float:
        """Returns the epsilon of the weights' (epsilon, delta)-privacy after `rounds`."""
        if rounds == 0:
            return 0.0
        one = self._one_round
        epsilon, _ = dp_accounting.rdp.compute_epsilon(one.orders, rounds * one.rdp, self.delta)
        return float(epsilon)

    @functools.cached_property
    def _one_round(self) -> dp_accounting.rdp.RdpAccountant:
        """Account of one round; the costs of rounds add up at each RDP order."""
        event = dp_accounting.GaussianDpEvent(self.noise_multiplier / 2)
        if self.sampled:
            event = dp_accounting.SampledWithoutReplacementDpEvent(
                self.clients, self.clients_per_round, event
            )
        accountant = dp_accounting.rdp.RdpAccountant(
            neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE
        )
        accountant.compose(event)
        return accountant

    def rounds_within(self, epsilon: float, maximum: int) -> int:
        """Returns the maximum number of rounds, up to `maximum`, that cost at most `epsilon`."""
        check_number(epsilon, "the budget of epsilon", above=0, what="Privacy")
        low, high = 0, maximum
        while low < high:
            middle = (low + high + 1) // 2
            if self.epsilon_after(middle) <= epsilon:
                low = middle
            else:
                high = middle - 1
        return low


def _check_noise(noise_multiplier: float, **bound: float) -> None:
    bounds = {**bound, "maximum": MAX_NOISE_MULTIPLIER}
    check_number(noise_multiplier, "the noise multiplier", **bounds, what="Privacy")
