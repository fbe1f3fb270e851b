"""Assignment of a round's clients to workers, and their division into subrounds."""

import itertools
from collections.abc import Sequence

import numpy as np


def spread(costs: Sequence[float], capacities: Sequence[float]) -> list[list[int]]:
    """Divides clients among workers so that all finish at about the same time.

    The number of clients per worker is proportional to the worker's speed, regardless of the
    clients' costs, because a worker builds new sessions for each number of clients that it has not
    seen. In order of decreasing cost, each client is assigned to the worker that would finish it
    first, among the workers that still lack clients. Then the slowest and the fastest worker swap
    two clients as long as both then finish earlier than the slowest did.

    Args:
      costs: Cost of each client's round.
      capacities: Speed of each worker.

    Returns:
      For each worker, in the same order, the numbers of its clients in increasing order.
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
    """Returns the positions of the two clients whose swap lets both workers finish soonest.

    Moving a cost m to the fast worker shortens the slow worker's time and lengthens the fast one's,
    so the best m is where the two times meet. For each client of the slow worker, only two clients
    of the fast worker can be best: those whose costs are next to the client's own cost minus m.
    This avoids storing all pairs.
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
    """Splits clients into the fewest runs of at most `bound`, with at most two different lengths.

    A worker builds new sessions for each number of clients that it has not seen, so runs should
    have few different lengths.
    """
    count = max(1, -(-len(clients) // bound))
    ends = [len(clients) * number // count for number in range(count + 1)]
    return [list(clients[begin:end]) for begin, end in itertools.pairwise(ends)]
