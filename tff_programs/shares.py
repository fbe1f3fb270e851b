"""Which worker computes which clients, and in how many subrounds."""

import itertools
from collections.abc import Sequence

import numpy as np


def spread(costs: Sequence[float], capacities: Sequence[float]) -> list[list[int]]:
    """Divides clients among workers so that all are done at about the same time.

    The dearest client first, each goes where it would be done first. No worker is then done later
    than the mean by more than one client.

    Args:
      costs: What each client's round computes.
      capacities: How fast each worker is, in the same order as what is returned.

    Returns:
      For each worker the numbers of its clients, in increasing order.
    """
    shares = [[] for _ in capacities]
    loads = np.zeros(len(capacities))
    capacities = np.asarray(capacities, float)
    for client in np.argsort(-np.asarray(costs, float), kind="stable"):
        worker = int(np.argmin((loads + costs[client]) / capacities))
        loads[worker] += costs[client]
        shares[worker].append(int(client))
    return [sorted(share) for share in shares]


def subrounds(clients: Sequence[int], bound: int) -> list[list[int]]:
    """Cuts clients into as few runs as possible of at most `bound`, of two lengths at most.

    A worker builds its sessions anew for each number of clients that it has not met: equal runs
    keep these few.
    """
    count = max(1, -(-len(clients) // bound))
    ends = [len(clients) * number // count for number in range(count + 1)]
    return [list(clients[begin:end]) for begin, end in itertools.pairwise(ends)]
