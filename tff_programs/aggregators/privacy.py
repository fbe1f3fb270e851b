"""Differentially private aggregation, and the account of what it has cost."""

import dataclasses
import functools
from collections import OrderedDict

import dp_accounting
import tensorflow as tf

from fedsup_tf.files.validation import check_number, check_whole_number
from fedsup_tf.slicing import Overlap
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators.overlap_mean import OverlapMeanFactory, Upload

# Noise a million times as large as any update drowns all of them.
LARGEST_NOISE_MULTIPLIER = 1e6


class PrivateOverlapMeanFactory(OverlapMeanFactory):
    """Overlap mean with central differential privacy for each client (arXiv 1710.06963).

    The server clips each update to an l2 norm over the entries it covers, sums the updates of all
    clients with weight 1, adds Gaussian noise of `noise_multiplier` x `clipping_norm` to each sum
    of a covered entry, and divides by the coverage count. Which subnet a client trains follows from
    its device, not from its data: coverage counts are public and get no noise, and entries that no
    client covers get none and stay. An update that is not finite counts as zero, since leaving it
    out would show it in the counts; a client without examples counts like any other.

    The noise comes from a seed in the aggregator's state, so that a round that is repeated releases
    the same noise and not a second draw of it. The seed suffices to subtract the noise: keep the
    state private.

    Type signature: that of `StreamedOverlapFactory`, with S an `OrderedDict` of `seed` (int32
    `(2,)`) and `round` (int32); weights are ignored. The server sees every client's update and is
    trusted with it; what holds for everybody else is the epsilon of `PrivacyAccount`. It is that of
    the weights alone: the measured loss and the number of examples are not private.
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
          supernet: The supernet whose subnets were trained.
          clipping_norm: Largest l2 norm of an update.
          noise_multiplier: Standard deviation of the noise over `clipping_norm`.
          seed: Two secret int32 that decide the noise.
          divisor: `"coverage"` or `"diluted"`, see `OverlapMeanFactory`.
          nested: Whether the updates hold the subnets' own subnets.
          upload: How updates travel, as they are by default.
        """
        super().__init__(supernet, divisor, nested, upload)
        check_number(clipping_norm, "the clipping norm", above=0, what="Privacy")
        _check_noise(noise_multiplier)
        self._clipping_norm = clipping_norm
        self._noise_multiplier = noise_multiplier
        self._seed = seed

    def initial_state(self):
        """Returns the seed of the noise and the number of the first round."""
        return OrderedDict(seed=tf.constant(self._seed, tf.int32), round=0)

    def prepare(self, delta):
        """Clips the update to the clipping norm."""
        norm = tf.linalg.global_norm(list(delta.values()))
        scale = self._clipping_norm / tf.maximum(norm, self._clipping_norm)
        return {name: part * scale for name, part in delta.items()}

    def count(self, weight, finite):
        """Returns 1 for every client, also for one whose update is not finite."""
        return tf.ones_like(weight)

    def finish(self, state, sums, weight):
        """Adds Gaussian noise to the total of each covered entry and counts the round."""
        state, overlap, weight, measurements = super().finish(state, sums, weight)
        stddev = self._noise_multiplier * self._clipping_norm
        round_seed = tf.random.experimental.stateless_fold_in(state["seed"], state["round"])
        overlap = add_noise(overlap, stddev, round_seed)
        next_state = OrderedDict(seed=state["seed"], round=state["round"] + 1)
        return next_state, overlap, weight, measurements


def add_noise(overlap: Overlap, stddev: float, seed: tf.Tensor) -> Overlap:
    """Adds Gaussian noise to the total of each covered entry.

    Args:
      overlap: The sum over the clients, after `slicing.by_entry`.
      stddev: Standard deviation of the noise.
      seed: Two secret int32 that decide it.
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

    Two populations are neighbours if one client holds other examples, as many. Its clipped update
    then moves a sum by up to twice the clipping norm, hence half the noise multiplier.

    Attributes:
      noise_multiplier: See `PrivateOverlapMeanFactory`.
      delta: Chance that the bound does not hold; below one over the number of clients.
      clients_per_round: Number of clients asked in a round.
      clients: Number of all clients.
      sampled: Whether each round asks a uniformly random subset of all clients, which those who see
        the weights cannot know (Wang et al., arXiv 1808.00087); otherwise a client is counted as if
        it took part in every round.
    """

    noise_multiplier: float
    delta: float
    clients_per_round: int
    clients: int
    sampled: bool = True

    def __post_init__(self):
        check_number(self.delta, "delta", above=0, below=1, what="Privacy")
        _check_noise(self.noise_multiplier)
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
        """The epsilon of (epsilon, delta)-differential privacy of the weights after `rounds`."""
        if rounds == 0:
            return 0.0
        one = self._one_round
        epsilon, _ = dp_accounting.rdp.compute_epsilon(one.orders, rounds * one.rdp, self.delta)
        return float(epsilon)

    @functools.cached_property
    def _one_round(self) -> dp_accounting.rdp.RdpAccountant:
        """The account of a round; rounds add up order by order."""
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

    def rounds_within(self, epsilon: float, most: int) -> int:
        """The largest number of rounds, up to `most`, that cost at most `epsilon`."""
        check_number(epsilon, "the budget of epsilon", above=0, what="Privacy")
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.epsilon_after(middle) <= epsilon:
                low = middle
            else:
                high = middle - 1
        return low


def _check_noise(noise_multiplier: float) -> None:
    bounds = {"above": 0, "most": LARGEST_NOISE_MULTIPLIER}
    check_number(noise_multiplier, "the noise multiplier", **bounds, what="Privacy")
