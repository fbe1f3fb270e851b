"""Report of a search: its progress, table and files, and a figure of the Pareto front."""

import csv
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.atomic_write import replace_file, write_text
from fedsup_tf.search.budget import Budget, CostModel
from fedsup_tf.search.evolution import Candidate, Generation, SearchResult, pareto_front
from tff_programs.reports.report import format_table, literal

_INK, _FAINT = "#22303c", "#9aa5af"
_EVOLUTION, _RANDOM = "#3b6fb6", "#e07b39"
# Names of the costs in reports, their units and the size of a unit.
_SHOWN = {
    "parameters": ("parameters", "thousand", 1e3),
    "macs": ("MACs", "million", 1e6),
    "file_bytes": (".tflite, at most", "kB", 1e3),
    "train_memory_bytes": ("training memory", "MB", 1e6),
    "infer_latency_ms": ("inference", "ms", 1.0),
    "train_latency_ms": ("training step", "ms", 1.0),
}


class Scored(NamedTuple):
    """A row of the results.

    Attributes:
      name: Label of the row, such as the search that found the subnet.
      architecture: Architecture of the subnet.
      costs: Costs of the subnet by name.
      searched: Accuracy on the half of the clients' held-out images that the search used, as
        candidates are scored.
      reported: Accuracy on the other half of the clients' held-out images.
      central: Accuracy on the test set's images that the search never used.
    """

    name: str
    architecture: Architecture
    costs: Mapping[str, float]
    searched: float
    reported: float
    central: float


def describe_limits(budget: Budget) -> str:
    """Formats the limits of a budget."""
    limits = []
    for cost, limit in budget.limits.items():
        name, unit, size = _SHOWN[cost]
        limits.append(f"{name} <= {limit / size:,.6g} {unit}")
    return ", ".join(limits) or "no limit"


def progress_lines() -> Callable[[Generation], str]:
    """Returns a function that formats a generation and the time since the last one."""
    last = time.monotonic()

    def line(generation: Generation) -> str:
        nonlocal last
        now = time.monotonic()
        best = generation.best
        mean = np.mean([candidate.accuracy for candidate in generation.candidates])
        seconds, last = now - last, now
        return (
            f"  generation {generation.number:>2} | best {100 * best.accuracy:.1f} % "
            f"({best.architecture}) | mean {100 * mean:.1f} % | {generation.evaluations} candidates"
            f" | {seconds:.1f} s"
        )

    return line


def results_table(rows: Sequence[Scored], budget: Budget) -> str:
    """Formats a line for each subnet: its costs, and its accuracy on seen and unseen images."""
    costs = list(rows[0].costs)
    table = [
        (
            "subnet",
            "architecture",
            *(_column(cost)[0] for cost in costs),
            "search half",
            "other half",
            "test, other half",
        )
    ]
    for row in rows:
        cells = []
        for cost in costs:
            too_much = row.costs[cost] > budget.limits.get(cost, math.inf)
            cells.append(_column(cost)[1](row.costs[cost]) + ("!" if too_much else ""))
        shares = (f"{100 * share:.1f} %" for share in (row.searched, row.reported, row.central))
        table.append((row.name, str(row.architecture), *cells, *shares))
    over = " !: over the budget." if any("!" in cell for row in table for cell in row) else ""
    return (
        f"{format_table(table)}\nSearch half: the clients' held-out images that candidates were "
        "chosen by, scored as candidates are. Other half: those that the search never saw, scored, "
        f"if calibrated, as exported files are.{over}"
    )


def _column(cost: str) -> tuple[str, Callable[[float], str]]:
    """Returns the column header of a cost and the function that formats its values."""
    name, unit, size = _SHOWN[cost]
    if cost in ("parameters", "macs"):
        return name, lambda value: f"{value:,}"
    if unit == "ms":
        return f"{name}, {unit}", lambda value: f"{value:.2f}"
    return name, lambda value: f"{value / size:,.{0 if unit == 'kB' else 1}f} {unit}"


def write_results(
    folder: str,
    evolution: SearchResult,
    drawn: SearchResult,
    rows: Sequence[Scored],
    budget: Budget,
    costs: CostModel,
    title: str,
) -> list[str]:
    """Writes the best architecture, the Pareto fronts and a figure of them.

    Args:
      folder: Folder of the files.
      evolution: Result of the evolutionary search; its best architecture is written.
      drawn: Result of the random search.
      rows: The best subnet of each search, followed by the smallest and the largest.
      budget: Limits of the search.
      costs: Cost model, which defines the costs to report.
      title: Title of the figure.

    Returns:
      The paths of the files.
    """
    names = ("architecture.json", "front.csv", "front.png")
    paths = [os.path.join(folder, name) for name in names]
    best = evolution.best.architecture.to_json()
    write_text(paths[0], best + "\n")
    replace_file(paths[1], lambda path: _write_fronts(path, evolution, drawn, costs.names))
    _draw(paths[2], evolution, drawn, rows, budget, costs, title)
    return paths


def _all_candidates(evolution: SearchResult, drawn: SearchResult) -> list[Candidate]:
    by_architecture = {one.architecture: one for one in drawn.candidates + evolution.candidates}
    return list(by_architecture.values())


def _write_fronts(path, evolution: SearchResult, drawn: SearchResult, names) -> None:
    """Writes a row for each finalist and candidate on some cost's front, fewest MACs first."""
    candidates = _all_candidates(evolution, drawn)
    on_front: dict[Architecture, list[str]] = {}
    for cost in names:
        for candidate in pareto_front(candidates, cost):
            on_front.setdefault(candidate.architecture, []).append(cost)
    found_by = {
        name: {one.architecture for one in result.candidates}
        for name, result in (("evolution", evolution), ("random", drawn))
    }
    finalists = {one.architecture: one.accuracy for one in drawn.finalists + evolution.finalists}
    written = on_front.keys() | finalists.keys()
    points = [one for one in candidates if one.architecture in written]
    points.sort(key=lambda one: (one.costs["macs"], one.costs["parameters"], one.accuracy))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        header = ("accuracy", "finalist_accuracy", *names, "fronts", "found_by", "architecture")
        writer.writerow(header)
        for one in points:
            finders = [name for name, all_of in found_by.items() if one.architecture in all_of]
            again = finalists.get(one.architecture)
            writer.writerow(
                [
                    f"{one.accuracy:.6f}",
                    "" if again is None else f"{again:.6f}",
                    *(one.costs[name] for name in names),
                    " ".join(on_front.get(one.architecture, ())),
                    " ".join(finders),
                    one.architecture.to_json(),
                ]
            )


def _draw(path, evolution, drawn, rows, budget, costs: CostModel, title: str) -> None:
    """Draws accuracy against each cost: candidates, front, budget, smallest and largest."""
    from matplotlib.figure import Figure

    columns = math.ceil(len(costs.names) / 2)
    figure = Figure(figsize=(0.8 + 4.6 * columns, 7.6), layout="constrained", facecolor="white")
    grid = figure.subplots(2, columns, sharey=True)
    candidates = _all_candidates(evolution, drawn)
    fronts = [one.accuracy for cost in costs.names for one in pareto_front(candidates, cost)]
    shown = fronts + [row.searched for row in rows]
    accuracies = [one.accuracy for one in candidates]
    # Poor candidates would squeeze the relevant ones together.
    middle = float(np.median(accuracies))
    low = min(*shown, max(min(accuracies), middle - 2 * (max(shown) - middle)))
    margin = 0.06 * (max(shown) - low) + 0.004
    below = sum(accuracy < low - margin for accuracy in accuracies)
    for axes, cost in zip(grid.flat, costs.names, strict=True):
        _draw_cost(axes, cost, candidates, evolution, drawn, rows, budget.limits.get(cost))
        axes.set_ylim(100 * (low - margin), 100 * (max(shown) + 2 * margin))
        if cost == "train_memory_bytes":
            axes.set_xlabel(f"{axes.get_xlabel()} (batch {costs.train_batch_size})")
    if below:
        figure.text(
            0.99,
            0.985,
            f"{below} of {len(candidates)} candidates lie below",
            ha="right",
            va="top",
            size=9.5,
            color=_INK,
        )
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy on the search half, %", color=_INK)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    limited = next(
        (a for a, c in zip(grid.flat, costs.names, strict=True) if c in budget.limits), 0
    )
    if limited:
        handles, labels = limited.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False, fontsize=9.5)
    figure.suptitle(literal(title), color=_INK, weight="bold", x=0.01, ha="left")
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=130))


def _draw_cost(axes, cost, candidates, evolution, drawn, rows, limit) -> None:
    from matplotlib import ticker

    name, unit, size = _SHOWN[cost]
    all_costs = [one.costs[cost] for one in [*candidates, *rows]]

    def points(many):
        return [one.costs[cost] / size for one in many], [100 * one.accuracy for one in many]

    if limit is not None:
        axes.axvline(limit / size, color="#b03a48", linewidth=1.4, dashes=(4, 2), label="budget")
    style = {"s": 34, "linewidths": 1.1, "zorder": 2}
    axes.scatter(
        *points(drawn.candidates),
        facecolors="none",
        edgecolors=_RANDOM,
        alpha=0.55,
        label="random search",
        **style,
    )
    axes.scatter(
        *points(evolution.candidates),
        color=_EVOLUTION,
        edgecolors="none",
        alpha=0.35,
        label="evolution",
        **{**style, "s": 26},
    )
    best = next(
        one for one in evolution.candidates if one.architecture == evolution.best.architecture
    )
    front = points(pareto_front(candidates, cost))
    reach = max(one.costs[cost] for one in candidates) / size
    axes.plot([front[0][-1], reach], [front[1][-1]] * 2, color=_INK, linewidth=1.5, zorder=3)
    axes.step(*front, where="post", color=_INK, linewidth=1.5, zorder=3, label="front")
    axes.plot(*front, "o", color=_INK, markersize=3.5, zorder=3)
    axes.scatter(
        *points([best]),
        s=170,
        marker="*",
        color=_EVOLUTION,
        edgecolors="white",
        linewidths=0.9,
        zorder=5,
        label="best of evolution",
    )
    # Drawn as rings, since the best may be one of them.
    for row in rows[-2:]:
        point = row.costs[cost] / size, 100 * row.searched
        axes.scatter(*point, s=230, color="none", edgecolors=_INK, linewidths=1.3, zorder=4)
        axes.annotate(
            row.name,
            point,
            (0, -11),
            textcoords="offset points",
            ha="center",
            va="top",
            size=9,
            color=_INK,
            zorder=6,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )
    if max(all_costs) > 4 * min(all_costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.margins(x=0.09)
    axes.set_xlabel(f"{name}, {unit}", color=_INK)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, length=3)
