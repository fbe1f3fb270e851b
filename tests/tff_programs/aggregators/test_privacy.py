"""Tests of differential privacy: clipping, placement of noise, privacy accounting."""

import dataclasses
import functools
import math

import numpy as np
import pytest
from updates import SUPERNET, assert_equal, cohort, overlap_mean, run

from tff_programs.aggregators.privacy import PrivacyAccount, PrivateOverlapMeanFactory

ACCOUNT = PrivacyAccount(4.0, 1e-5, clients_per_round=100, clients=10_000)


@functools.cache
def private(noise_multiplier=1.0, clipping_norm=1.0, seed=(1, 2), divisor="coverage"):
    return PrivateOverlapMeanFactory(SUPERNET, clipping_norm, noise_multiplier, seed, divisor)


@pytest.mark.parametrize("divisor", ["coverage", "diluted"])
def test_without_much_noise_it_is_the_clipped_unweighted_mean(execution, divisor):
    updates = cohort()
    norms = [update.norm() for update in updates]
    bound = float(np.median(norms))
    (result,) = run(execution, private(1e-9, bound, divisor=divisor), updates)
    for update, norm in zip(updates, norms, strict=True):
        update.delta = {name: d * min(1.0, bound / norm) for name, d in update.delta.items()}
    assert_equal(result.delta, overlap_mean(updates, weights=[1.0] * 4, divisor=divisor)[0])


def test_noise_lies_on_covered_sums_alone_and_is_of_its_size(execution):
    updates = [update for update in cohort() if update.architecture != SUPERNET.space.largest()]
    for update in updates:
        update.delta = {name: 0 * part for name, part in update.delta.items()}
    (result,) = run(execution, private(0.5, 3.0), updates)
    counts = {
        name: sum(update.mask()[name].astype(int) for update in updates) for name in result.delta
    }
    assert any((counts[name] == 0).any() for name in counts)
    noise = []
    for name, delta in result.delta.items():
        assert np.all(delta[counts[name] == 0] == 0)
        assert np.array_equal(result.covered[name], counts[name] > 0)
        noise.append((delta * counts[name])[counts[name] > 0])
    noise = np.concatenate(noise)
    # Standard deviation 1.5; both statistics within five of their standard errors.
    assert noise.std() == pytest.approx(1.5, rel=5 / math.sqrt(2 * noise.size))
    assert abs(noise.mean()) < 5 * 1.5 / math.sqrt(noise.size)


def test_an_update_that_is_not_finite_counts_as_zero(execution):
    updates = cohort()
    next(iter(updates[1].delta.values())).flat[0] = np.nan
    (result,) = run(execution, private(1e-9, 1e3), updates)
    updates[1].delta = {name: np.zeros_like(part) for name, part in updates[1].delta.items()}
    mean, covered = overlap_mean(updates, weights=[1.0] * 4)
    assert_equal(result.delta, mean)
    assert all(np.array_equal(result.covered[name], covered[name]) for name in mean)


def test_every_round_has_noise_of_its_own_that_the_state_decides(execution):
    updates = cohort()
    first, second = run(execution, private(), updates, rounds=2)
    again, _ = run(execution, private(), updates, rounds=2)
    (other,) = run(execution, private(seed=(1, 3)), updates)
    for name in first.delta:
        assert np.array_equal(first.delta[name], again.delta[name])
        assert not np.array_equal(first.delta[name], second.delta[name])
        assert not np.array_equal(first.delta[name], other.delta[name])
    assert second.state["round"] == 2
    assert list(second.state["seed"]) == [1, 2]


def test_epsilon_without_sampling_is_that_of_the_gaussian_mechanism():
    # Renyi divergence of order a after r rounds, between Gaussians with distance 2 C and standard
    # deviation z C: r * 2 a / z**2; converted as by Canonne, Kamath and Steinke (arXiv 2004.00010).
    rounds, z, delta = 30, 20.0, 1e-5
    orders = np.linspace(1.01, 400, 20_000)
    renyi = rounds * 2 * orders / z**2
    bound = renyi + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    told = PrivacyAccount(z, delta, 10, 100, sampled=False).epsilon_after(rounds)
    assert told == pytest.approx(bound.min(), rel=0.01)


@pytest.mark.slow
def test_sampling_costs_less_and_rounds_add_up():
    sampled = [ACCOUNT.epsilon_after(rounds) for rounds in (0, 1, 10, 100)]
    assert sampled[0] == 0
    assert sampled == sorted(sampled)
    assert sampled[3] < dataclasses.replace(ACCOUNT, sampled=False).epsilon_after(100)
    assert dataclasses.replace(ACCOUNT, noise_multiplier=8.0).epsilon_after(10) < sampled[2]


def test_a_budget_holds_as_many_rounds_as_it_can():
    budget = ACCOUNT.epsilon_after(12)
    assert ACCOUNT.rounds_within(budget, 500) == 12
    assert ACCOUNT.rounds_within(1e-9, 500) == 0
    assert ACCOUNT.rounds_within(1e9, 500) == 500


@pytest.mark.parametrize(
    ("clipping_norm", "noise_multiplier", "told"),
    [
        (0.0, 1.0, "clipping norm to be a finite number above 0, received 0.0"),
        (1.0, -1.0, "noise multiplier to be a finite number above 0"),
    ],
)
def test_bounds_without_sense_are_refused(clipping_norm, noise_multiplier, told):
    with pytest.raises(ValueError, match=told):
        private(noise_multiplier, clipping_norm)
