"""Tests of drawing architectures within bounds of parameters or multiply-accumulates."""

import numpy as np
import pytest

from fedsup_tf.presets import digits_small, fedsup_cifar
from fedsup_tf.search import constraints, costs
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage

COSTS = costs.Cost._fields
SPACES = {
    "digits_small": digits_small(),
    # Widths decrease and do not nest between stages, so that greedy choices reach no bound.
    "uneven": SearchSpace(
        "uneven",
        (7, 9, 3),
        4,
        8,
        2,
        (
            Stage("a", (3, 30), (1, 3), (1, 3), 1),
            Stage("b", (5, 8, 40), (1, 2), (3, 7), 2),
            Stage("c", (2, 30), (1,), (1, 9), 1),
        ),
    ),
}


def all_costs(space, cost):
    """Returns the given cost of every architecture in the space, by index."""
    return np.array(
        [
            getattr(costs.architecture_cost(space, space.at(index)), cost)
            for index in range(space.size)
        ]
    )


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_feasible_range_is_that_of_all_architectures(space, cost):
    values = all_costs(space, cost)
    assert constraints.feasible_range(space, cost) == (values.min(), values.max())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cost", COSTS)
def test_draws_lie_within_random_bounds(seed, cost):
    space = fedsup_cifar()
    rng = np.random.default_rng(seed)
    for _ in range(5):
        # Bounds around an existing architecture, some of them wide and some very narrow.
        value = getattr(costs.architecture_cost(space, space.sample(rng)), cost)
        low, high = value * (1 - rng.random() ** 4), value * (1 + rng.random() ** 4)
        drawn = constraints.sample_within(space, rng, cost, low, high)
        space.check(drawn)
        assert low <= getattr(costs.architecture_cost(space, drawn), cost) <= high


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_an_architecture_alone_within_the_bounds_is_found(space, cost):
    values = all_costs(space, cost)
    alone = [index for index, value in enumerate(values) if np.sum(values == value) == 1]
    assert len(alone) >= 20
    for index in alone[:: len(alone) // 10]:
        rng = np.random.default_rng(index)
        found = constraints.sample_within(space, rng, cost, values[index], values[index])
        assert found == space.at(index)


@pytest.mark.parametrize("cost", COSTS)
def test_what_uniform_draws_miss_is_found_by_the_walk(monkeypatch, cost):
    monkeypatch.setattr(constraints, "UNIFORM_TRIES", 0)
    space = SPACES["uneven"]
    values = all_costs(space, cost)
    for value in np.unique(values)[::7]:
        found = constraints.sample_within(space, np.random.default_rng(0), cost, value, value)
        assert getattr(costs.architecture_cost(space, found), cost) == value


def test_the_walk_is_random(monkeypatch):
    monkeypatch.setattr(constraints, "UNIFORM_TRIES", 0)
    space = SPACES["digits_small"]
    rng = np.random.default_rng(0)
    drawn = {constraints.sample_within(space, rng, "parameters", 0, np.inf) for _ in range(20)}
    assert len(drawn) > 10


def test_draws_reach_all_that_lies_within():
    space = SPACES["digits_small"]
    values = all_costs(space, "parameters")
    low, high = np.quantile(values, [0.4, 0.45])
    inside = {space.at(index) for index in np.flatnonzero((low <= values) & (values <= high))}
    rng = np.random.default_rng(0)
    drawn = {
        constraints.sample_within(space, rng, "parameters", low, high)
        for _ in range(10 * len(inside))
    }
    assert drawn == inside


def test_a_draw_is_that_of_its_seed():
    space = fedsup_cifar()
    first, second = (
        [
            constraints.sample_within(space, np.random.default_rng(seed), "macs", 5e6, 6e6)
            for seed in range(5)
        ]
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) > 1


@pytest.mark.parametrize(
    ("cost", "low", "high", "feasible"),
    [
        # Within the range of the space, but no architecture has as many.
        ("parameters", 0.9e6, 1.2e6, "163,946 to 1,858,826"),
        ("parameters", 2e6, 3e6, "163,946 to 1,858,826"),
        ("parameters", 0, 1e5, "163,946 to 1,858,826"),
        ("parameters", 5e5, 4e5, "163,946 to 1,858,826"),
        ("parameters", float("nan"), 4e5, "163,946 to 1,858,826"),
        ("macs", 2e7, float("inf"), "1,643,008 to 13,321,216"),
        ("macs", 0, 1e6, "1,643,008 to 13,321,216"),
    ],
)
def test_bounds_that_nothing_meets_are_an_error_that_names_the_range(cost, low, high, feasible):
    message = f"'fedsup_cifar' has {cost} from .*; they range from {feasible}"
    with pytest.raises(ValueError, match=message):
        constraints.sample_within(fedsup_cifar(), np.random.default_rng(0), cost, low, high)


def test_a_gap_of_macs_is_an_error_too():
    space = SPACES["uneven"]
    values = np.unique(all_costs(space, "macs"))
    gap = np.argmax(np.diff(values))
    with pytest.raises(ValueError, match="No architecture of search space 'uneven' has macs"):
        constraints.sample_within(
            space, np.random.default_rng(0), "macs", values[gap] + 1, values[gap + 1] - 1
        )


def test_an_unknown_cost_is_an_error():
    with pytest.raises(ValueError, match="cost to be one of parameters, macs, received 'bytes'"):
        constraints.sample_within(digits_small(), np.random.default_rng(0), "bytes", 0, 1)
