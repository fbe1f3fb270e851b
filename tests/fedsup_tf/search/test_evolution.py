"""Tests of evolutionary search: it meets its budget, scores nothing twice and finds the best."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from fedsup_tf.presets import digits_small, fedsup_cifar
from fedsup_tf.search import costs
from fedsup_tf.search.budget import COSTS, Budget, CostModel
from fedsup_tf.search.constraints import FeasibleSet
from fedsup_tf.search.cost_parts import Part, parts_of, parts_of_space
from fedsup_tf.search.evolution import Candidate, pareto_front, random_search, search_architectures
from fedsup_tf.search.latency import Latency, LatencyTable, Measurement
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage

# Widths decrease and do not nest between stages, so that greedy choices are not the cheapest.
UNEVEN = SearchSpace(
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
)
MEASUREMENT = Measurement(batch_size=1, threads=2, subnets=5, median_error=0.02, largest_error=0.1)


def table(space, seed=0):
    """Returns random latencies, which do not depend on sizes."""
    rng = np.random.default_rng(seed)
    rows = {part: Latency(*rng.uniform(0.1, 2, 2)) for part in parts_of_space(space)}
    return LatencyTable(space, rows, "a phone", MEASUREMENT, MEASUREMENT)


def all_costs(model):
    """Returns the costs of every architecture, of shape `(size, costs)`."""
    space = model.space
    return np.array(
        [list(model.costs(space.at(index)).values()) for index in range(space.size)], np.float64
    )


def rng(seed=0):
    return np.random.default_rng(seed)


# ---------------------------------------------------------------------- costs


def test_costs_are_those_of_the_formulas():
    space = digits_small()
    model = CostModel(space, table(space), train_batch_size=8)
    for architecture in (space.smallest(), space.largest(), space.sample(rng())):
        cost = costs.architecture_cost(space, architecture)
        latency = model.latencies.latency(architecture)
        actual = model.costs(architecture)
        assert tuple(actual) == COSTS
        assert actual["parameters"] == cost.parameters
        assert actual["macs"] == cost.macs
        parts = [model.part(part)[0] for part in parts_of(space, architecture)]
        graphs = 170_000 + 15_000 * sum(architecture.depths)
        assert actual["file_bytes"] == graphs + sum(math.ceil(4.6 * count) for count in parts)
        assert actual["infer_latency_ms"] == pytest.approx(latency.infer_ms)
        assert actual["train_latency_ms"] == pytest.approx(latency.train_ms)


def test_training_memory_counts_weights_three_times_and_the_maps_of_the_batch():
    # An image of 4 x 4 x 1; the stem has 2 channels; the stage halves the map and has 3.
    space = SearchSpace("one", (4, 4, 1), 5, 2, 1, (Stage("a", (3,), (2,), (3,), 2),))
    maps = (
        # The image, the stem's convolution and its activation, which enters the first block.
        16 + 32 + 32
        # Depthwise convolution, activation, pointwise convolution, the averaged shortcut.
        + 4 * 2 + 4 * 2 + 4 * 3 + 4 * 2
        # The second block: its input, depthwise, activation, pointwise.
        + 4 * 3 + 4 * 3 + 4 * 3 + 4 * 3
        # Its output, the mean over the map, the logits.
        + 4 * 3 + 3 + 5
    )  # fmt: skip
    parameters = costs.count_parameters(space, space.smallest())
    for batch in (1, 10):
        model = CostModel(space, train_batch_size=batch)
        actual = model.costs(space.smallest())["train_memory_bytes"]
        assert actual == 4 * (3 * parameters + batch * maps)


def test_latency_is_the_sum_of_the_rows_of_its_parts():
    space = digits_small()
    rows = {part: Latency(0.0, 0.0) for part in parts_of_space(space)}
    architecture = space.decode([16, 64, 96, 1, 2, 1, 5, 3, 5])
    chosen = [
        Part.of_stem(),
        Part.of_stage(0, 16, 16, 1, 5),
        Part.of_stage(1, 16, 64, 2, 3),
        Part.of_stage(2, 64, 96, 1, 5),
        Part.of_head(96),
    ]
    for number, part in enumerate(chosen):
        rows[part] = Latency(10.0**number, 2 * 10.0**number)
    measured = LatencyTable(space, rows, "", MEASUREMENT, MEASUREMENT)
    assert measured.latency(architecture) == (11111, 22222)
    assert set(parts_of(space, space.largest())) <= set(parts_of_space(space))


def test_a_cost_model_without_a_table_knows_no_latency():
    assert CostModel(UNEVEN).names == COSTS[:4]
    with pytest.raises(ValueError, match="infer_latency_ms, which needs a latency table"):
        FeasibleSet(CostModel(UNEVEN), Budget(infer_latency_ms=3.0))


def test_a_table_of_another_space_is_refused():
    with pytest.raises(ValueError, match=r"of search space 'digits_small' with name .* 'uneven'"):
        CostModel(digits_small(), table(UNEVEN))
    other = dataclasses.replace(UNEVEN, classes=UNEVEN.classes + 1)
    told = f"with classes {other.classes}, received one with classes {UNEVEN.classes}. Measure"
    with pytest.raises(ValueError, match=told):
        CostModel(other, table(UNEVEN))


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf"), "3", True])
def test_a_budget_takes_numbers_above_zero(limit):
    with pytest.raises(ValueError, match="expected macs to be a finite number above 0"):
        Budget(macs=limit)


# -------------------------------------------------------------- latency table


def test_a_table_comes_back_from_its_file(tmp_path):
    measured = table(UNEVEN)
    path = tmp_path / "folder" / "table.json"
    measured.save(path)
    loaded = LatencyTable.load(path)
    assert loaded.rows == measured.rows
    assert (loaded.space, loaded.machine) == (UNEVEN, "a phone")
    assert loaded.infer == loaded.train == MEASUREMENT


def changed(change):
    fields = json.loads(table(UNEVEN).to_json())
    change(fields)
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f["rows"].pop(1), "received 1 missing, such as stage 0, in_width 8, width "),
        (lambda f: f["rows"].append(dict(f["rows"][0])), "has a row before"),
        (lambda f: f["rows"].append({**f["rows"][1], "depth": 9}), "1 of no such part"),
        (lambda f: f["rows"][2].update(kind="tail"), "row 3: expected a kind of stem, stage, head"),
        (lambda f: f["rows"][2].pop("width"), "row 3: .* missing are ..width"),
        (lambda f: f["rows"][2].update(width="wide"), "row 3: .* as whole numbers"),
        (lambda f: f["rows"][0].update(train_ms=-1), "expected train_ms to be a finite number"),
        (lambda f: f["rows"][0].update(infer_ms=None), "expected infer_ms to be a finite number"),
        (lambda f: f.pop("machine"), "missing are ..machine"),
        (lambda f: f.update(rows={}), "rows to be a list"),
        (lambda f: f["train"].update(threads=0), "expected threads to be a whole number"),
        (
            lambda f: f["infer"].update(median_error="low"),
            "median_error to be a finite number",
        ),
        (lambda f: f["space"].pop("classes"), "missing are ..classes"),
    ],
)
def test_a_table_with_an_error_is_refused_by_name(tmp_path, change, told):
    path = tmp_path / "table.json"
    path.write_text(changed(change))
    with pytest.raises(ValueError, match=told) as raised:
        LatencyTable.load(path)
    assert str(path) in str(raised.value)


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        LatencyTable.load(tmp_path / "none.json")


# ---------------------------------------------------------------- constraints


@pytest.mark.parametrize("seed", range(3))
def test_the_least_of_each_cost_is_that_of_all_architectures(seed):
    model = CostModel(UNEVEN, table(UNEVEN, seed))
    values = all_costs(model)
    for name, minimum in zip(model.names, values.min(0), strict=True):
        FeasibleSet(model, Budget(**{name: minimum}))
        with pytest.raises(ValueError, match=f"smallest feasible values are: {name} "):
            FeasibleSet(model, Budget(**{name: np.nextafter(minimum, 0)}))


def test_a_budget_is_met_exactly_where_some_architecture_meets_it():
    """Tests limits that equal costs to the bit, where rounding would show."""
    model = CostModel(UNEVEN, table(UNEVEN))
    values = all_costs(model)
    random = rng()
    outcomes = set()
    for _ in range(40):
        names = random.choice(model.names, 3, replace=False)
        columns = [model.names.index(name) for name in names]
        limits = [random.choice(np.sort(values[:, column])[:12]) for column in columns]
        budget = Budget(**dict(zip(names, map(float, limits), strict=True)))
        inside = (values[:, columns] <= limits).all(1)
        outcomes.add(bool(inside.any()))
        if not inside.any():
            with pytest.raises(ValueError, match="No architecture of search space 'uneven'"):
                FeasibleSet(model, budget)
            continue
        feasible = FeasibleSet(model, budget)
        expected = {UNEVEN.at(index) for index in np.flatnonzero(inside)}
        drawn = set()
        while (architecture := feasible.draw(random, drawn)) is not None:
            drawn.add(architecture)
        assert drawn == expected
    assert outcomes == {True, False}


def test_a_budget_that_nothing_meets_names_the_least_of_each_limit():
    model = CostModel(fedsup_cifar())
    with pytest.raises(ValueError, match=r"parameters 163,946 \(limit 100,000\)\. Raise"):
        FeasibleSet(model, Budget(parameters=100_000))


def test_limits_that_exclude_each_other_are_told_with_what_each_leaves():
    space = UNEVEN
    model = CostModel(space, table(space))
    values = all_costs(model)
    parameters, latency = values[:, 0], values[:, 4]
    fast = latency.min() + 1e-6
    few = parameters[latency <= fast].min() - 1
    min_latency = latency[parameters <= few].min()
    assert parameters.min() <= few
    budget = Budget(parameters=float(few), infer_latency_ms=float(fast))
    with pytest.raises(ValueError, match="No architecture") as raised:
        FeasibleSet(model, budget)
    message = str(raised.value)
    assert f"{parameters.min():,.0f} alone, {few + 1:,.0f} while the other limits" in message
    told = float(message.split("infer_latency_ms")[1].split(", ")[1].split()[0])
    assert min_latency <= told < min_latency + 0.001
    FeasibleSet(model, Budget(parameters=float(few), infer_latency_ms=told))


# --------------------------------------------------------------------- search


class Scores:
    """Fitness with one best architecture; records the architectures it was asked for."""

    def __init__(self, space, best):
        self.space = space
        self.best = space.encode(best)
        self.calls = []

    def __call__(self, architectures):
        self.calls.append(list(architectures))
        return [
            float(np.mean(self.space.encode(architecture) == self.best))
            for architecture in architectures
        ]


def test_a_search_keeps_to_its_budget_and_scores_nothing_twice():
    space = fedsup_cifar()
    model = CostModel(space)
    budget = Budget(parameters=500_000, macs=5e6)
    fitness = Scores(space, space.largest())
    told = []
    result = search_architectures(
        space,
        fitness,
        budget,
        model,
        rng(),
        generations=6,
        population=10,
        on_generation=told.append,
    )
    asked = list(itertools.chain.from_iterable(fitness.calls))
    assert [len(call) for call in fitness.calls] == [10] * 6
    assert len(set(asked)) == 60
    assert [candidate.architecture for candidate in result.candidates] == asked
    for candidate in result.candidates:
        assert candidate.costs == model.costs(candidate.architecture)
        assert candidate.costs["parameters"] <= 500_000
        assert candidate.costs["macs"] <= 5e6
    assert [generation.number for generation in told] == [1, 2, 3, 4, 5, 6]
    assert [generation.evaluations for generation in told] == [10, 20, 30, 40, 50, 60]
    assert told[-1].best == result.best
    best = [generation.best.accuracy for generation in told]
    assert best == sorted(best)


def test_evolution_finds_the_best_where_random_search_does_not():
    space = fedsup_cifar()
    model = CostModel(space)
    target = space.decode([64, 64, 256, 512, 1, 2, 1, 2, 5, 3, 7, 5])
    found = {search_architectures: 0, random_search: 0}
    for seed in range(4):
        for method, arguments in (
            (search_architectures, {"generations": 12, "population": 16}),
            (random_search, {"evaluations": 192}),
        ):
            result = method(space, Scores(space, target), Budget(), model, rng(seed), **arguments)
            assert len(result.candidates) == 192
            found[method] += result.best.architecture == target
    assert found[search_architectures] == 4
    assert found[random_search] == 0


@pytest.mark.parametrize("method", [search_architectures, random_search])
def test_a_search_is_that_of_its_seed(method):
    space = digits_small()
    model = CostModel(space)
    results = [
        method(space, Scores(space, space.largest()), Budget(macs=2e5), model, rng(seed))
        for seed in (3, 3, 4)
    ]
    assert results[0] == results[1]
    assert results[0] != results[2]


@pytest.mark.parametrize("method", [search_architectures, random_search])
def test_a_search_ends_when_all_within_the_budget_are_scored(method):
    space = digits_small()
    model = CostModel(space)
    limit = float(np.sort(all_costs(model)[:, 1])[20])
    expected = {
        space.at(index)
        for index in range(space.size)
        if model.costs(space.at(index))["macs"] <= limit
    }
    fitness = Scores(space, space.smallest())
    result = method(space, fitness, Budget(macs=limit), model, rng(), population=16)
    assert {candidate.architecture for candidate in result.candidates} == expected
    assert all(fitness.calls)


@pytest.mark.parametrize("method", [search_architectures, random_search])
def test_a_search_begins_with_what_it_was_given_if_the_budget_allows(method):
    space = digits_small()
    model = CostModel(space)
    initial = [space.largest(), space.smallest(), space.smallest(), space.at(5)]
    fitness = Scores(space, space.smallest())
    method(space, fitness, Budget(macs=2e5), model, rng(), population=4, initial=initial)
    assert fitness.calls[0][:2] == [space.smallest(), space.at(5)]
    assert len(fitness.calls[0]) == 4


def test_a_space_of_one_point_is_searched():
    space = digits_small().fixed_architecture(digits_small().smallest())
    result = search_architectures(
        space, Scores(space, space.smallest()), Budget(), CostModel(space), rng()
    )
    assert [candidate.architecture for candidate in result.candidates] == [space.smallest()]


def test_the_front_holds_what_nothing_surpasses():
    space = digits_small()
    points = [(3, 0.5), (1, 0.2), (2, 0.2), (3, 0.6), (5, 0.6), (6, 0.9), (4, 0.1)]
    candidates = [
        Candidate(space.at(number), accuracy, {"macs": macs}, 1)
        for number, (macs, accuracy) in enumerate(points)
    ]
    front = pareto_front(candidates, "macs")
    assert [(one.costs["macs"], one.accuracy) for one in front] == [(1, 0.2), (3, 0.6), (6, 0.9)]


def test_of_equally_accurate_candidates_the_one_of_fewer_macs_is_best():
    space = digits_small()
    result = search_architectures(
        space, lambda many: [0.5] * len(many), Budget(), CostModel(space), rng()
    )
    minimum = min(candidate.costs["macs"] for candidate in result.candidates)
    assert result.best.costs["macs"] == minimum


@pytest.mark.parametrize("scores", [[0.5], [float("nan")] * 4])
def test_a_fitness_that_scores_wrongly_is_refused(scores):
    space = digits_small()
    with pytest.raises(ValueError, match="Expected the fitness to return 4 finite accuracies"):
        search_architectures(
            space, lambda _: scores, Budget(), CostModel(space), rng(), population=4
        )


def test_arguments_out_of_range_are_refused():
    space = digits_small()
    fitness, model = Scores(space, space.smallest()), CostModel(space)
    with pytest.raises(ValueError, match="population to be a whole number from 1"):
        search_architectures(space, fitness, Budget(), model, rng(), population=0)
    with pytest.raises(ValueError, match="evaluations to be a whole number from 1"):
        random_search(space, fitness, Budget(), model, rng(), evaluations=0)
    with pytest.raises(ValueError, match="cost model of search space 'uneven'"):
        search_architectures(UNEVEN, fitness, Budget(), model, rng())
    assert not fitness.calls
