"""Bounds how much one update can enlarge the mean of all updates or cancel the other updates.

An update that opposes the others makes each honest update look as if it opposed the rest.
Therefore only a few updates are ever reduced: the quarter that agrees least with the others, to
limit how much of the mean it cancels, and the quarter with the largest contributions to the sum, to
limit how much it enlarges the mean. A single hostile update is either among these, or it is no
longer than an honest update and agrees with the others better than an honest update does.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# Maximum factor by which an update may increase the length of the mean without the update.
MAX_GROWTH = 2.0
# An update that leaves less than the fraction `MIN_REMAINING_FRACTION` of the mean without it is
# reduced until it leaves `REMAINING_FRACTION_AFTER_CUT`. The stricter target keeps a reduced update
# from making others look hostile.
MIN_REMAINING_FRACTION = 0.25
REMAINING_FRACTION_AFTER_CUT = 0.5
# Fraction of the updates, rounded down but at least one, that may be reduced for either reason.
SUSPECTED_FRACTION = 0.25
# Number of bisection steps, which find the factor to within 2^-20.
_HALVINGS = 20


class Row(NamedTuple):
    """An update as one row of all entries of the supernet.

    Attributes:
      values: Delta of the update, float64 `(entries,)`; 0 in entries that it does not cover.
      covered: Mask of the entries that the update covers, bool `(entries,)`.
      weight: Weight of the update in the mean.
    """

    values: np.ndarray
    covered: np.ndarray
    weight: float


def influence_factors(read_row: Sequence[Callable[[], Row]], divisor: str) -> list[float]:
    """Returns the factor by which each of three or more updates is reduced.

    With factor t, an update counts with t times its weight and t times its delta. Let c be the mean
    without the update and m the mean with it. The factors ensure m . c >= |c|^2 / 4 for the quarter
    that agrees least, |m| <= 2 |c| for the quarter with the largest contributions to the sum, and
    both for an update whose contribution exceeds those of all others together. The means are taken
    over the entries that other updates cover too, since an entry that only one update covers cannot
    be compared.

    Args:
      read_row: Function for each update that reads it. Each is called up to five times, so that
        only one update is in memory at a time.
      divisor: One of `slicing.DIVISORS`.

    Returns:
      Factors from 0 to 1; 1 for updates that are not reduced.
    """
    sums, directions, lengths = _Sums(divisor), 0.0, 0.0
    for read in read_row:
        row = read()
        sums.add(row)
        directions = directions + _direction(row)
        lengths = lengths + np.abs(row.values) * row.weight
    agreements, reaches = [], []
    for read in read_row:
        row = read()
        shared = row.covered & (sums.counts > 1)
        own = _direction(row)
        # The mean and not the sum, which is smaller where fewer updates cover an entry.
        others = (directions - own)[shared] / (sums.counts[shared] - 1)
        agreements.append(_quotient(own[shared] @ others, _norm(own[shared]) * _norm(others)))
        part = np.abs(row.values[shared]) * row.weight
        reaches.append(_quotient(_norm(part), _norm(lengths[shared] - part)))
    few = max(1, int(SUSPECTED_FRACTION * len(read_row)))
    factors = np.ones(len(read_row))
    min_agreeing = np.argsort(agreements, kind="stable")[:few]
    for one in min_agreeing:
        sums.add(read_row[one](), -1)
    for one in reversed(min_agreeing):
        row = read_row[one]()
        factors[one] = _largest_factor(sums, row, may_undo=False, may_grow=True)
        sums.add(_cut(row, factors[one]))
    for one in np.argsort(np.negative(reaches), kind="stable")[:few]:
        row = _cut(read_row[one](), factors[one])
        sums.add(row, -1)
        factor = _largest_factor(sums, row, may_undo=reaches[one] <= 1, may_grow=False)
        sums.add(_cut(row, factor))
        factors[one] *= factor
    return factors.tolist()


class _Sums:
    """Sums over updates for each entry: weighted values, weights, and number of updates."""

    def __init__(self, divisor: str):
        self.covering = divisor == "coverage"
        self.totals, self.weights, self.counts = 0.0, 0.0, 0

    def add(self, row: Row, sign: int = 1) -> None:
        weight = sign * row.weight
        self.totals = self.totals + weight * row.values
        self.weights = self.weights + (weight * row.covered if self.covering else weight)
        self.counts = self.counts + sign * row.covered.astype(np.int64)


def _cut(row: Row, factor: float) -> Row:
    return row._replace(values=factor * row.values, weight=factor * row.weight)


def _largest_factor(sums: _Sums, row: Row, may_undo: bool, may_grow: bool) -> float:
    """Returns the largest factor with which an update may be added to the sums of the others."""
    shared = row.covered & (sums.counts > 0)
    totals, own = sums.totals[shared], row.values[shared]
    weights = np.broadcast_to(sums.weights, shared.shape)[shared]
    mean = np.divide(totals, weights, out=np.zeros_like(totals), where=weights > 0)
    square = mean @ mean
    longest = math.inf if may_grow else MAX_GROWTH**2 * square

    def length_and_rest(factor: float) -> tuple[float, float]:
        both = weights + factor * row.weight
        part = factor * factor * row.weight * own
        joint = np.divide(totals + part, both, out=np.zeros_like(totals), where=both > 0)
        return joint @ joint, joint @ mean

    length, rest = length_and_rest(1.0)
    undoes = not may_undo and rest < MIN_REMAINING_FRACTION * square
    if length <= longest and not undoes:
        return 1.0
    minimum = REMAINING_FRACTION_AFTER_CUT * square if undoes else -math.inf
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        length, rest = length_and_rest(middle)
        if length <= longest and rest >= minimum:
            low = middle
        else:
            high = middle
    return low


def _direction(row: Row) -> np.ndarray:
    """Returns the delta, scaled to a root mean square of 1 over the entries that it covers."""
    size = _norm(row.values) / math.sqrt(np.count_nonzero(row.covered))
    return row.values / (size or 1.0)


def _norm(values: np.ndarray) -> float:
    return float(np.sqrt(values @ values))


def _quotient(above: float, below: float) -> float:
    return above / below if below > 0 else 0.0
