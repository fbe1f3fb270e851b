"""Pairwise test cases: fewer than all combinations, but with every pair of values."""

import itertools
from collections.abc import Sequence


def all_pairs(*factors: Sequence) -> list[tuple]:
    """Returns combinations of values in which any two values of two factors occur together.

    Greedily takes the first combination that has the most pairs still missing. The number of
    combinations is at least the product of the sizes of the two largest factors.
    """
    indexed = [list(enumerate(values)) for values in factors]
    left = {
        (first, i, second, j)
        for first, second in itertools.combinations(range(len(factors)), 2)
        for i in range(len(factors[first]))
        for j in range(len(factors[second]))
    }
    combinations = list(itertools.product(*indexed))

    def pairs(combination):
        places = [index for index, _ in combination]
        return {
            (first, places[first], second, places[second])
            for first, second in itertools.combinations(range(len(places)), 2)
        }

    met = {combination: pairs(combination) for combination in map(tuple, combinations)}
    chosen = []
    while left:
        best = max(met, key=lambda combination: len(met[combination] & left))
        left -= met[best]
        chosen.append(tuple(value for _, value in best))
    return chosen
