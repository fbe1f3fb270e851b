"""Differential privacy of a gateway's rounds: the noise, and the accounting of the privacy cost."""

import dataclasses
import functools
import hashlib
import hmac
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from fedsup_tf.slicing import Overlap
from tff_programs.aggregators.privacy import PrivacyAccount, add_noise


@dataclasses.dataclass(frozen=True)
class RoundPrivacy:
    """Privacy of each device's examples in the supernets that a gateway produces.

    As in `PrivateOverlapMeanFactory`, each update is clipped, all updates have the same weight, and
    noise is added to their sum. A device sends at most one update per round and is counted as if it
    sent one in every round. Rounds that were rolled back are counted too, since somebody may have
    their supernet.

    Attributes:
      account: Privacy account of one device.
      clip_norm: Maximum L2 norm of an update.
      secret: Secret that determines the noise; a round that is merged again after the process was
        killed gets the same noise.
      max_epsilon: Privacy budget; None for no limit.
    """

    account: PrivacyAccount
    clip_norm: float
    secret: bytes = dataclasses.field(repr=False)
    max_epsilon: float | None = None

    def budget_exceeded_reason(self, round_id: int) -> str | None:
        """Returns a message if merging the given round would exceed the budget; None otherwise."""
        cost = self.account.epsilon_after(round_id)
        if self.max_epsilon is None or cost <= self.max_epsilon:
            return None
        return (
            f"--max_epsilon: expected rounds that cost at most {self.max_epsilon:g}, this one "
            f"would make it {cost:.3g} at delta {self.account.delta:.1e}. The budget is spent; "
            "what was sent waits, and devices get no task. Give a larger one to go on."
        )

    def noise(self, round_id: int, base_hash: str) -> Callable[[Overlap], Overlap]:
        """Returns a function that adds a round's noise to the sum of its updates."""
        text = f"noise\n{round_id}\n{base_hash}".encode()
        digest = hmac.new(self.secret, text, hashlib.sha256).digest()
        seed = tf.constant(np.frombuffer(digest[:8], "<i4"), tf.int32)
        stddev = self.account.noise_multiplier * self.clip_norm
        return functools.partial(add_noise, stddev=stddev, seed=seed)
