"""Fewer cases than all combinations, in which every pair of values still occurs."""

import itertools
from collections.abc import Sequence


def all_pairs(*factors: Sequence) -> list[tuple]:
    """Combinations of the factors' values in which any two values of two factors meet.

    Greedy: of all combinations the one with most pairs that have not met is taken, the first of
    several. The factors with most values decide how many there are, at least the product of the
    two largest.
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
