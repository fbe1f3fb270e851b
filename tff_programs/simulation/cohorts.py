"""Selection of the clients asked in a round: at random, or in passes over all clients.

Both are pure functions of a seed and the round, so a resumed run asks the same clients.
"""

import numpy as np

COHORTS = ("passes", "random")


def default_cohorts(noise_multiplier: float | None) -> str:
    """Returns the kind of cohorts of a training; privacy is amplified by sampling at random."""
    return "random" if noise_multiplier else "passes"


def random_cohort(seed: tuple[int, ...], clients: np.ndarray, count: int) -> np.ndarray:
    """Draws clients uniformly without replacement, independently of other rounds.

    Args:
      seed: Seed of the draw; must differ between rounds.
      clients: Numbers of the clients to draw from, `(clients,)`.
      count: Number of clients to draw.

    Returns:
      Numbers of the drawn clients, `(count,)`, in random order.
    """
    return np.random.default_rng(seed).choice(clients, count, replace=False)


def cohort_of_pass(
    seed: tuple[int, ...], round_number: int, tier_of_clients: np.ndarray, count: int
) -> np.ndarray:
    """Returns the round's part of a pass in which no client is asked twice.

    A pass is a random order of all clients; each of its rounds asks the next `count` clients. A
    remainder that is too small for a round is not asked in this pass. The rounds of a pass together
    see (nearly) every client once, so an average over them is not biased towards the clients that
    random draws repeat. The clients of each tier are spread evenly over the pass, so each part of
    the supernet is trained by about the same number of clients in every round. Regularized
    participation of this kind converges faster than independent draws (Wang & Ji, arXiv
    2205.13648).

    Args:
      seed: Seed of the orders.
      round_number: Number of the round, from 0.
      tier_of_clients: Tier of each client, `(clients,)`.
      count: Number of clients asked per round.

    Returns:
      Numbers of the clients, `(count,)`.
    """
    clients = len(tier_of_clients)
    number, place = divmod(round_number, clients // count)
    rng = np.random.default_rng((*seed, number))
    # The i-th of a tier's n clients gets a random place in the i-th of n equal parts of the pass.
    places = np.empty(clients)
    for tier in np.unique(tier_of_clients):
        members = rng.permutation(np.flatnonzero(tier_of_clients == tier))
        places[members] = (np.arange(len(members)) + rng.random(len(members))) / len(members)
    return np.argsort(places)[place * count : (place + 1) * count]
