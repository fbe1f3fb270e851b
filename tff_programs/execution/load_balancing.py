"""Assignment of a round's clients to workers, and their division into subrounds."""

import itertools
from collections.abc import Sequence

import numpy as np


def spread(costs: Sequence[float], capacities: Sequence[float]) -> list[list[int]]:
    """Divides clients among workers so that all are done at about the same time.

    How many a worker gets is in proportion to its speed, whatever the clients cost: it builds its
    sessions anew for each number of clients that it has not met. The dearest client first, each
    goes where it would be done first of the workers that lack one; then the slowest and the fastest
    worker swap two clients, as long as that lets both be done earlier than the slowest was.

    Args:
      costs: What each client's round computes.
      capacities: How fast each worker is, in the same order as what is returned.

    Returns:
      For each worker the numbers of its clients, in increasing order.
    """
    costs, capacities = np.asarray(costs, float), np.asarray(capacities, float)
    ends = (len(costs) * np.cumsum(capacities) / capacities.sum() + 0.5).astype(int)
    lacking = np.diff(ends, prepend=0)
    shares = [[] for _ in capacities]
    loads = np.zeros(len(capacities))
    for client in np.argsort(-costs, kind="stable"):
        done = np.where(lacking > 0, (loads + costs[client]) / capacities, np.inf)
        worker = int(np.argmin(done))
        loads[worker] += costs[client]
        lacking[worker] -= 1
        shares[worker].append(int(client))
    for _ in costs:
        done = loads / capacities
        slow, fast = int(np.argmax(done)), int(np.argmin(done))
        if not shares[slow] or not shares[fast]:
            break
        pair = [slow, fast]
        first, second = _best_swap(
            costs[shares[slow]], costs[shares[fast]], loads[pair], capacities[pair]
        )
        moved = costs[shares[slow][first]] - costs[shares[fast][second]]
        later = max(
            (loads[slow] - moved) / capacities[slow], (loads[fast] + moved) / capacities[fast]
        )
        if later >= done[slow] * (1 - 1e-9):
            break
        loads[slow] -= moved
        loads[fast] += moved
        shares[slow][first], shares[fast][second] = shares[fast][second], shares[slow][first]
    return [sorted(share) for share in shares]


def _best_swap(
    slow_costs: np.ndarray, fast_costs: np.ndarray, loads: np.ndarray, capacities: np.ndarray
) -> tuple[int, int]:
    """Returns the places of the two clients whose swap lets both workers be done soonest.

    Moving the cost m makes the slow worker's time fall and the fast one's rise, so that the best m
    is where they meet. For each client of the slow worker only two can be best: those of the fast
    worker whose costs are next to its own less m. That takes no memory for all pairs.
    """
    meeting = (loads[0] * capacities[1] - loads[1] * capacities[0]) / capacities.sum()
    order = np.argsort(fast_costs, kind="stable")
    ranked = fast_costs[order]
    above = np.minimum(np.searchsorted(ranked, slow_costs - meeting), len(ranked) - 1)
    candidates = np.stack([np.maximum(above - 1, 0), above])
    moved = slow_costs - ranked[candidates]
    later = np.maximum((loads[0] - moved) / capacities[0], (loads[1] + moved) / capacities[1])
    which, first = np.unravel_index(np.argmin(later), later.shape)
    return int(first), int(order[candidates[which, first]])


def subrounds(clients: Sequence[int], bound: int) -> list[list[int]]:
    """Cuts clients into as few runs as possible of at most `bound`, of two lengths at most.

    A worker builds its sessions anew for each number of clients that it has not met: equal runs
    keep these few.
    """
    count = max(1, -(-len(clients) // bound))
    ends = [len(clients) * number // count for number in range(count + 1)]
    return [list(clients[begin:end]) for begin, end in itertools.pairwise(ends)]
