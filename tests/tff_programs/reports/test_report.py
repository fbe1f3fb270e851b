"""Tests of a run's reports: times, and curves over rounds and simulated time."""

import struct

import matplotlib
import numpy as np
import pytest

from fedsup_tf.presets import digits_small
from fedsup_tf.search.costs import count_parameters
from tff_programs.reports import report
from tff_programs.reports.report import draw_curves, format_seconds, progress_line, time_unit
from tff_programs.reports.simulation_report import cost_table, spent
from tff_programs.simulation.in_memory import Simulation
from tff_programs.simulation.round_plan import RoundPlan, RoundReport
from tff_programs.simulation.tiers import Tier, default_tiers

TIERS = (Tier("smallest", digits_small().smallest()),)


def test_seconds_are_told_as_hours_minutes_and_seconds():
    told = [format_seconds(seconds) for seconds in (0, 59.9, 3661, 26 * 3600 + 189)]
    assert told == ["0:00:00", "0:00:59", "1:01:01", "26:03:09"]


@pytest.mark.parametrize(
    ("seconds", "unit"),
    [
        (100, ("seconds", 1)),
        (120, ("minutes", 60)),
        (7200, ("hours", 3600)),
        (2e5, ("days", 86400)),
    ],
)
def test_a_unit_is_the_largest_of_which_there_are_two(seconds, unit):
    assert time_unit(seconds) == unit


def height_of_curves(folder, column, values):
    lines = [f"round,loss,accuracy/smallest{column}"]
    lines += [f"{n},{2 / n},{n / 10}{value}" for n, value in enumerate(values, 1)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    draw_curves(folder / "metrics.csv", folder / "curves.png", "title", TIERS)
    return struct.unpack(">I", (folder / "curves.png").read_bytes()[20:24])[0]


@pytest.mark.slow
def test_curves_have_a_second_row_where_time_was_simulated(tmp_path):
    without = height_of_curves(tmp_path, "", ["", ""])
    with_time = height_of_curves(tmp_path, ",simulated_seconds", [",12.5", ",30"])
    assert with_time == 2 * without


def test_drawing_leaves_the_callers_backend_alone(tmp_path):
    before = matplotlib.get_backend()
    matplotlib.use("svg")
    try:
        height_of_curves(tmp_path, "", ["", ""])
        assert matplotlib.get_backend() == "svg"
    finally:
        matplotlib.use(before)


def test_examples_a_second_count_every_epoch():
    plan = RoundPlan(1, (0,), (digits_small().smallest(),), np.zeros((1, 2), np.int32))
    metrics = dict.fromkeys(
        ("loss", "bytes_down_per_client", "bytes_up_per_client", "simulated_seconds"), 0.0
    )
    done = RoundReport(1, plan, {**metrics, "seconds": 2.0, "examples": 100.0}, ())
    assert "50 examples/s" in progress_line(done, rounds=1, epochs=1)
    assert "150 examples/s" in progress_line(done, rounds=1, epochs=3)


def simulation(*rows):
    names = ("answered", "bytes_down_per_client", "bytes_up_per_client", "simulated_seconds")
    metrics = [dict(zip((*names, "accuracy/smallest"), row, strict=False)) for row in rows]
    return Simulation(tuple(metrics), {}, {})


def test_what_was_spent_adds_up_and_the_first_evaluation_good_enough_is_told():
    run = simulation((2, 100, 50, 10.0), (3, 200, 100, 75.0, 0.5), (1, 10, 10, 80.0, 0.9))
    total = spent(run)
    assert total.rounds.tolist() == [1, 2, 3]
    assert total.seconds.tolist() == [10, 75, 80]
    assert total.bytes.tolist() == [300, 1200, 1220]
    nets = {"smallest": ("run",)}
    row = cost_table({"run": run}, nets, 0.5).splitlines()[-1].split()
    assert row == ["smallest", "run", "2", "0:01:15", "1.2", "kB", "90.0", "%"]
    assert "never" in cost_table({"run": run}, nets, 0.95)


def test_the_final_table_has_a_dash_for_a_net_that_nobody_trained():
    tiers = default_tiers(digits_small(), seed=0)
    accuracies = {tier.name: 0.5 for tier in tiers}
    table = report.final_table(
        digits_small(),
        tiers,
        {"accuracy": accuracies, "calibrated": {"smallest": 0.75}},
        lambda architecture: (600, 400),
    )
    rows = [line.split() for line in table.splitlines()]
    assert rows[0][-5:] == ["accuracy", "calibrated", "bytes", "a", "round"]
    assert rows[2][-6:] == ["50.0", "%", "75.0", "%", "1.0", "kB"]
    assert rows[-1][-5:] == ["50.0", "%", "-", "1.0", "kB"]


def test_the_table_of_random_subnets_tells_their_distribution():
    space = digits_small()
    nets = [space.at(index) for index in range(0, space.size, 40)]
    nets.sort(key=lambda net: count_parameters(space, net))
    drawn = [(net, 0.5 + 0.04 * place) for place, net in enumerate(nets)]
    table = report.random_subnets_table(space, drawn).splitlines()
    assert table[2].split() == "50.0 % 53.6 % 68.0 % 82.4 % 86.0 % 1.00".split()
    equal = report.random_subnets_table(space, [(net, 0.5) for net in nets])
    assert equal.splitlines()[2].split()[-1] == "-"
