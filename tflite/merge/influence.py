"""Bounds how far one update can carry the mean of all, and how much of it it can undo.

An update that points against the others makes each of them look as if it were the one that undoes
the rest. Therefore only few are ever cut: the quarter that agrees least with the others, for what
it undoes, and the quarter whose part of the sum is largest, for how far it carries the mean. One
hostile update is among them, or it is no longer than an honest one and agrees with the others
better than an honest one.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# An update may make the mean at most this many times as long as it is without the update.
LARGEST_GROWTH = 2.0
# An update that leaves less than `LEAST_REST` of what the mean is without it is cut until it leaves
# `REST_AFTER_CUT`: one that is cut shall not make others look as if they were hostile.
LEAST_REST = 0.25
REST_AFTER_CUT = 0.5
# Share of the updates, rounded down but at least one, that may be cut for either reason.
SUSPECTED = 0.25
# The factor is found to 2^-20 by halving.
_HALVINGS = 20


class Row(NamedTuple):
    """One update, over all entries of the supernet in one row.

    Attributes:
      values: Its delta, float64 `(entries,)`; 0 where it covers nothing.
      covered: Which entries it covers, bool `(entries,)`.
      weight: Its weight in the mean.
    """

    values: np.ndarray
    covered: np.ndarray
    weight: float


def trusted_shares(read_row: Sequence[Callable[[], Row]], divisor: str) -> list[float]:
    """Returns the share of its weight with which each update of three or more counts.

    An update with the share t counts for t times its weight and with t times its delta. With c the
    mean without it and m the mean with it, m . c >= |c|^2 / 4 then holds for the quarter that
    agrees least, and |m| <= 2 |c| for the quarter whose part of the sum is largest; both for one
    whose part is larger than those of all others together. Means are taken over the entries that
    other updates cover too: what an update alone covers cannot be compared.

    Args:
      read_row: For each update a function that reads it; each is called up to four times, so that
        one update is held at a time.
      divisor: One of `slicing.DIVISORS`.

    Returns:
      Shares from 0 to 1; 1 for updates that are not cut.
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
        # Where fewer cover an entry, the sum of directions is shorter.
        others = (directions - own)[shared] / (sums.counts[shared] - 1)
        agreements.append(_quotient(own[shared] @ others, _norm(own[shared]) * _norm(others)))
        part = np.abs(row.values[shared]) * row.weight
        reaches.append(_quotient(_norm(part), _norm(lengths[shared] - part)))
    few = max(1, int(SUSPECTED * len(read_row)))
    shares = np.ones(len(read_row))
    least_agreeing = np.argsort(agreements, kind="stable")[:few]
    for one in least_agreeing:
        sums.add(read_row[one](), -1)
    for one in reversed(least_agreeing):
        row = read_row[one]()
        shares[one] = _largest_share(sums, row, may_undo=False, may_grow=True)
        sums.add(_cut(row, shares[one]))
    for one in np.argsort(np.negative(reaches), kind="stable")[:few]:
        row = _cut(read_row[one](), shares[one])
        sums.add(row, -1)
        share = _largest_share(sums, row, may_undo=reaches[one] <= 1, may_grow=False)
        sums.add(_cut(row, share))
        shares[one] *= share
    return shares.tolist()


class _Sums:
    """The sum of some updates, for each entry: weighted values, weights, and their number."""

    def __init__(self, divisor: str):
        self.covering = divisor == "coverage"
        self.totals, self.weights, self.counts = 0.0, 0.0, 0

    def add(self, row: Row, sign: int = 1) -> None:
        weight = sign * row.weight
        self.totals = self.totals + weight * row.values
        self.weights = self.weights + (weight * row.covered if self.covering else weight)
        self.counts = self.counts + sign * row.covered.astype(np.int64)


def _cut(row: Row, share: float) -> Row:
    return row._replace(values=share * row.values, weight=share * row.weight)


def _largest_share(sums: _Sums, row: Row, may_undo: bool, may_grow: bool) -> float:
    """Returns the share with which an update may be added to a sum of others."""
    shared = row.covered & (sums.counts > 0)
    totals, own = sums.totals[shared], row.values[shared]
    weights = np.broadcast_to(sums.weights, shared.shape)[shared]
    mean = np.divide(totals, weights, out=np.zeros_like(totals), where=weights > 0)
    square = mean @ mean
    longest = math.inf if may_grow else LARGEST_GROWTH**2 * square

    def length_and_rest(share: float) -> tuple[float, float]:
        both = weights + share * row.weight
        part = share * share * row.weight * own
        joint = np.divide(totals + part, both, out=np.zeros_like(totals), where=both > 0)
        return joint @ joint, joint @ mean

    length, rest = length_and_rest(1.0)
    undoes = not may_undo and rest < LEAST_REST * square
    if length <= longest and not undoes:
        return 1.0
    least = REST_AFTER_CUT * square if undoes else -math.inf
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        length, rest = length_and_rest(middle)
        if length <= longest and rest >= least:
            low = middle
        else:
            high = middle
    return low


def _direction(row: Row) -> np.ndarray:
    """Returns the delta with a root mean square of 1 over the entries that it covers."""
    size = _norm(row.values) / math.sqrt(np.count_nonzero(row.covered))
    return row.values / (size or 1.0)


def _norm(values: np.ndarray) -> float:
    return float(np.sqrt(values @ values))


def _quotient(above: float, below: float) -> float:
    return above / below if below > 0 else 0.0
