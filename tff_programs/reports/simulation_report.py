"""Comparison of simulations: curves, cost of reaching an accuracy, clients, availability."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tff_programs.reports.report import (
    format_bytes,
    format_seconds,
    format_table,
    literal,
    time_unit,
)
from tff_programs.simulation.availability import DAY, HOUR, AvailabilityTrace
from tff_programs.simulation.in_memory import Simulation
from tff_programs.simulation.round_plan import RoundPlan

_COLOURS = ("#3b6fb6", "#e07b39", "#3f9b6c", "#c8504f", "#8567b0", "#a0745a")


class Spent(NamedTuple):
    """Cumulative cost of a simulation after each round, in arrays of shape `(rounds,)`.

    Attributes:
      rounds: Number of rounds.
      seconds: Simulated time, in seconds.
      bytes: Bytes received and sent by all clients whose updates arrived.
    """

    rounds: np.ndarray
    seconds: np.ndarray
    bytes: np.ndarray


def spent(simulation: Simulation) -> Spent:
    """Returns the cumulative cost of a simulation, from its metrics."""
    metrics = simulation.metrics
    of_rounds = [
        row["answered"] * (row["bytes_down_per_client"] + row["bytes_up_per_client"])
        for row in metrics
    ]
    return Spent(
        np.arange(1, len(metrics) + 1),
        np.array([row["simulated_seconds"] for row in metrics]),
        np.cumsum(of_rounds),
    )


def accuracy_curve(simulation: Simulation, net: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the rounds in which a net was evaluated, and its accuracies."""
    values = [row.get(f"accuracy/{net}") for row in simulation.metrics]
    places = [place for place, value in enumerate(values) if value is not None]
    return np.array(places, int), np.array([values[place] for place in places])


def draw_comparison(
    simulations: Mapping[str, Simulation], nets: Mapping[str, Sequence[str]]
) -> Figure:
    """Draws accuracy against rounds, simulated time and bytes.

    Args:
      simulations: Simulations by name, as shown in the legend.
      nets: Names of the simulations to show for each evaluated net; each net is a row.
    """
    figure = Figure(figsize=(12, 3.1 * len(nets)), layout="constrained", facecolor="white")
    grid = figure.subplots(len(nets), 3, sharey=True, squeeze=False)
    shown = [name for names in nets.values() for name in names]
    time, second = time_unit(max(spent(simulations[name]).seconds[-1] for name in shown))
    colours = dict(zip(simulations, _COLOURS * len(simulations), strict=False))
    for (net, names), row in zip(nets.items(), grid, strict=True):
        for name in names:
            places, accuracies = accuracy_curve(simulations[name], net)
            total = spent(simulations[name])
            for axes, values in zip(
                row, (total.rounds, total.seconds / second, total.bytes / 1e6), strict=True
            ):
                style = {"color": colours[name], "marker": "o", "markersize": 3}
                axes.plot(values[places], 100 * accuracies, label=name, **style)
        for axes, label in zip(row, ("round", f"simulated {time}", "MB, all clients"), strict=True):
            axes.set(xlabel=label, xlim=(0, None), ylim=(0, 100))
            _tidy(axes)
        row[0].set_ylabel(f"{net} net\ntest accuracy, %")
        row[-1].legend(loc="lower right", frameon=False)
    return figure


def cost_table(
    simulations: Mapping[str, Simulation], nets: Mapping[str, Sequence[str]], accuracy: float
) -> str:
    """Formats the rounds, simulated time and bytes until each net first reached an accuracy."""
    rows = [("net", "training", f"rounds to {100 * accuracy:.0f} %", "simulated", "bytes", "end")]
    for net, names in nets.items():
        for name in names:
            places, accuracies = accuracy_curve(simulations[name], net)
            reached = places[accuracies >= accuracy]
            cells = ("never", "", "")
            if len(reached):
                rounds, seconds, count = (values[reached[0]] for values in spent(simulations[name]))
                cells = (str(rounds), format_seconds(seconds), format_bytes(count))
            rows.append((net, name, *cells, f"{100 * accuracies[-1]:.1f} %"))
    return format_table(rows)


def draw_client_accuracies(accuracies: Mapping[str, Sequence[float]]) -> Figure:
    """Draws a row per simulation: a dot for each client's accuracy, and a line at their mean.

    Clients without test images, whose accuracy is NaN, are left out.
    """
    figure = Figure(
        figsize=(9, 0.6 + 0.65 * len(accuracies)), layout="constrained", facecolor="white"
    )
    axes = figure.subplots()
    percent = {name: 100 * np.asarray(values) for name, values in accuracies.items()}
    percent = {name: values[~np.isnan(values)] for name, values in percent.items()}
    for row, (measured, colour) in enumerate(zip(percent.values(), _COLOURS * 9, strict=False)):
        # Dots of equal values lie next to each other.
        values, counts = np.unique(measured, return_counts=True)
        for value, count in zip(values, counts, strict=True):
            heights = row + 0.09 * (np.arange(count) - (count - 1) / 2)
            axes.scatter([value] * count, heights, 22, colour, linewidths=0, alpha=0.8)
        axes.plot([measured.mean()] * 2, [row - 0.4, row + 0.4], color=colour, linewidth=1.5)
    axes.set_yticks(
        range(len(accuracies)),
        [f"{literal(name)}\nmean {measured.mean():.1f} %" for name, measured in percent.items()],
    )
    axes.set(xlabel="accuracy on a client's own test images, %", ylim=(len(accuracies) - 0.5, -0.5))
    _tidy(axes)
    return figure


def draw_availability(
    trace: AvailabilityTrace, plans: Sequence[RoundPlan], needed: int, days: int
) -> Figure:
    """Draws the number of available clients, and the rounds, over time.

    Args:
      trace: Availability of the clients.
      plans: Plans of the rounds, in order.
      needed: Number of clients that a round waits for.
      days: Number of days to show, from the first.
    """
    figure = Figure(figsize=(11, 2.9), layout="constrained", facecolor="white")
    axes = figure.subplots()
    times = np.arange(0, days * DAY, HOUR / 6)
    counts = [len(trace.available(time)) for time in times]
    axes.fill_between(times / DAY, counts, step="post", color="#c9d6e8", label="available")
    axes.axhline(needed, color="0.5", linewidth=1, linestyle=":", label="asked in a round")
    shown = [plan for plan in plans if plan.end_seconds <= days * DAY]
    ends = [plan.end_seconds / DAY for plan in shown]
    axes.scatter(
        ends, [len(plan.clients) for plan in shown], 14, _COLOURS[3], label="updates of a round"
    )
    axes.set(xlabel="simulated days, UTC", ylabel="clients", xlim=(0, days), ylim=(0, None))
    _tidy(axes)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=3, frameon=False)
    return figure


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
