"""Tests that a robust mean excludes poisoned clients, even where few honest ones contribute."""

import functools

import numpy as np
import pytest
from spaces import FEWER_CHOICES as SPACE
from updates import SUPERNET, Update, assert_equal, overlap_mean, run

from fedsup_tf.slicing import Slice
from tff_programs.aggregators.overlap_mean import OverlapMeanFactory
from tff_programs.aggregators.robust import RobustOverlapMeanFactory

PLAIN = OverlapMeanFactory(SUPERNET)


@functools.cache
def robust_mean(poisoned, buckets, divisor="coverage"):
    """Returns the factory, cached by arguments so that it is compiled once."""
    return RobustOverlapMeanFactory(SUPERNET, poisoned, buckets, divisor)


def honest_and_poisoned(count=10, poisoned=(3, 7), attack=-10.0, architectures=None):
    """Returns clients that agree on a direction except for noise, with some poisoned ones."""
    ends = [SPACE.smallest(), SPACE.largest()]
    direction = Update(99, SPACE.largest()).placed()
    updates = []
    for number in range(count):
        update = Update(number, ends[number % 2] if architectures is None else architectures)
        for name, part in update.slices.items():
            update.delta[name] = direction[name][part.indices()] + 0.3 * update.delta[name]
            if number in poisoned:
                update.delta[name] = np.float32(attack) * update.delta[name]
        updates.append(update)
    return updates, [update for n, update in enumerate(updates) if n not in poisoned]


@pytest.mark.parametrize("attack", [-10.0, -1.0])
def test_poisoned_updates_are_set_aside_whole(execution, attack):
    # Client 7 trains the largest net, whose last entries only four honest clients have.
    updates, honest = honest_and_poisoned(attack=attack)
    factory = robust_mean(0.2, 10)
    (robust,) = run(execution, factory, updates)
    (plain,) = run(execution, PLAIN, updates)
    expected, covered = overlap_mean(honest)
    for name in expected:
        span = np.abs(expected[name]).max()
        assert np.abs(robust.delta[name] - expected[name]).max() < 1e-5 * span
        assert np.array_equal(robust.covered[name], covered[name])
    moved = np.mean([np.abs(plain.delta[n] - expected[n]).mean() for n in expected])
    assert moved > 0.1
    assert robust.measurements["set_aside"] == 2


def test_a_boosted_update_is_scaled_down_to_twice_the_median(execution):
    updates, _ = honest_and_poisoned(attack=30.0)
    factory = robust_mean(0.0, 10)
    (robust,) = run(execution, factory, updates)
    counts = [sum(part.size for part in update.delta.values()) for update in updates]
    sizes = [u.norm() / np.sqrt(count) for u, count in zip(updates, counts, strict=True)]
    bound = 2 * np.median(sizes)
    assert sum(size > bound for size in sizes) == 2
    for update, size in zip(updates, sizes, strict=True):
        update.delta = {name: d * min(1.0, bound / size) for name, d in update.delta.items()}
    assert_equal(robust.delta, overlap_mean(updates)[0])


def test_looking_honest_on_the_core_buys_no_more_weight_elsewhere(execution):
    updates, _ = honest_and_poisoned(poisoned=())
    core = SUPERNET.slices(SPACE.smallest())
    liar = updates[1]
    for name, part in liar.delta.items():
        outside = np.ones(part.shape, bool)
        within = np.subtract(core[name].begin, liar.slices[name].begin)
        outside[Slice(tuple(within), core[name].size).indices()] = False
        liar.delta[name] = np.where(outside, -100 * part, part)
    factory = robust_mean(0.0, 10)
    (robust,) = run(execution, factory, updates)
    (plain,) = run(execution, PLAIN, updates)
    largest = {name: np.abs(plain.delta[name]).max() for name in plain.delta}
    assert max(largest.values()) > 30
    assert max(np.abs(robust.delta[name]).max() for name in largest) < 10


def test_without_suspicion_equal_updates_give_their_mean(execution):
    updates = [Update(5, SPACE.largest()) for _ in range(3)]
    factory = robust_mean(0.0, 3)
    (result,) = run(execution, factory, updates)
    assert_equal(result.delta, overlap_mean(updates)[0])
    assert result.measurements["set_aside"] == 0


@pytest.mark.parametrize("divisor", ["coverage", "diluted"])
def test_buckets_hold_several_clients_and_may_stay_empty(execution, divisor):
    updates, _ = honest_and_poisoned(count=4, poisoned=())
    (few,) = run(execution, robust_mean(0.0, 3, divisor), updates)
    (many,) = run(execution, robust_mean(0.0, 16, divisor), updates)
    expected, covered = overlap_mean(updates, divisor=divisor)
    for result in (few, many):
        for name in expected:
            assert np.array_equal(result.covered[name], covered[name])
        assert_equal(result.delta, expected)


def test_an_update_that_is_not_finite_fills_no_bucket(execution):
    updates = [Update(5, SPACE.largest()) for _ in range(4)]
    next(iter(updates[2].delta.values())).flat[0] = np.nan
    # Its weighted sum would be infinite, and a product with 0 not a number.
    next(iter(updates[3].delta.values())).flat[0] = 3e38
    factory = robust_mean(0.0, 4)
    (result,) = run(execution, factory, updates)
    assert_equal(result.delta, overlap_mean(updates[:2])[0])
    assert list(result.measurements["rejected"]) == [5, 5]


@pytest.mark.parametrize(
    ("poisoned", "buckets", "told"),
    [
        (0.5, 10, "below 0.5, received 0.5"),
        (-0.1, 10, "of at least 0"),
        (0.1, 2, "buckets to be a whole number from 3"),
    ],
)
def test_shares_without_sense_are_refused(poisoned, buckets, told):
    with pytest.raises(ValueError, match=told):
        RobustOverlapMeanFactory(SUPERNET, poisoned, buckets)
