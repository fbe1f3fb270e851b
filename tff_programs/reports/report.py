"""Report of a run: its progress lines, its final table and a figure of its curves."""

import csv
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.atomic_write import replace_file
from fedsup_tf.search.costs import architecture_cost, count_parameters
from fedsup_tf.space import SearchSpace
from tff_programs.simulation.round_plan import RoundReport
from tff_programs.simulation.tiers import Tier, format_accuracies


def progress_line(report: RoundReport, rounds: int, epochs: int) -> str:
    """Returns one line about a round.

    Args:
      report: Report of the round.
      rounds: Total number of rounds.
      epochs: Number of passes of each client over its examples.
    """
    metrics = report.metrics
    parts = [f"round {report.number:>{len(str(rounds))}}/{rounds}"]
    if report.plan.clients:
        speed = epochs * metrics.get("examples", 0) / max(metrics["seconds"], 1e-9)
        if "loss" in metrics:
            parts += [f"loss {metrics['loss']:.3f}", f"{speed:,.0f} examples/s"]
        else:
            parts.append("no update was usable, the supernet is unchanged")
        down, up = metrics["bytes_down_per_client"], metrics["bytes_up_per_client"]
        parts.append(f"{format_bytes(down)} down {format_bytes(up)} up a client")
    else:
        parts.append("no client answered, the supernet is unchanged")
    if len(report.plan.clients) < report.plan.asked:
        parts.append(f"{len(report.plan.clients)} of {report.plan.asked} clients answered")
    if "clipped" in metrics:
        parts.append(f"{metrics['clipped']:.0f} clipped to {metrics['clipping_norm']:.2g}")
    for what in ("zeroed", "set_aside"):
        if metrics.get(what):
            parts.append(f"{metrics[what]:.0f} {what.replace('_', ' ')}")
    if "epsilon" in metrics:
        parts.append(f"epsilon {metrics['epsilon']:.3g}")
    if report.rejected:
        named = ", ".join(map(str, report.rejected))
        parts.append(f"left out, updates not finite: client {named}")
    parts.append(f"simulated {format_seconds(metrics['simulated_seconds'])}")
    accuracies = accuracies_of(metrics)
    if accuracies:
        parts.append(format_accuracies(accuracies))
    return " | ".join(parts)


def accuracies_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the accuracies among flat metrics, by tier."""
    prefix = "accuracy/"
    return {
        name[len(prefix) :]: float(value)
        for name, value in metrics.items()
        if name.startswith(prefix) and value != ""
    }


def final_table(
    space: SearchSpace,
    tiers: Sequence[Tier],
    accuracies: Mapping[str, Mapping[str, float]],
    count_bytes: Callable[[Architecture], tuple[int, int]],
) -> str:
    """Formats a line for each tier: architecture, costs, accuracies and bytes per round.

    Args:
      space: Search space of the architectures.
      tiers: The tiers.
      accuracies: For each column of accuracies by its name, the accuracies, from 0 to 1, by tier;
        a tier that is missing has a dash.
      count_bytes: Function from an architecture to the bytes that its client receives and sends.
    """
    rows = [("tier", "architecture", "parameters", "MACs", *accuracies, "bytes a round")]
    for tier in tiers:
        cost = architecture_cost(space, tier.architecture)
        rows.append(
            (
                tier.name,
                str(tier.architecture),
                f"{cost.parameters:,}",
                f"{cost.macs:,}",
                *(
                    f"{100 * of_tiers[tier.name]:.1f} %" if tier.name in of_tiers else "-"
                    for of_tiers in accuracies.values()
                ),
                format_bytes(sum(count_bytes(tier.architecture))),
            )
        )
    return format_table(rows)


def random_subnets_table(space: SearchSpace, drawn: Sequence[tuple[Architecture, float]]) -> str:
    """Formats the distribution of the accuracies of random subnets.

    Args:
      space: The search space of the subnets.
      drawn: Pairs of an architecture and its accuracy, from 0 to 1.

    Returns:
      A table of the minimum, 10th percentile, median, 90th percentile and maximum accuracy, and of
      the rank correlation between accuracy and number of parameters.
    """
    accuracies = np.array([accuracy for _, accuracy in drawn])
    sizes = np.array([count_parameters(space, architecture) for architecture, _ in drawn])
    percentiles = np.percentile(accuracies, (0, 10, 50, 90, 100))
    cells = [f"{100 * accuracy:.1f} %" for accuracy in percentiles]
    correlation = "-"
    if np.ptp(accuracies) and np.ptp(sizes):
        correlation = f"{np.corrcoef(_ranks(sizes), _ranks(accuracies))[0, 1]:.2f}"
    header = ("minimum", "", "p10", "median", "p90", "maximum", "rank correlation with parameters")
    return format_table([header, (cells[0], "", *cells[1:], correlation)])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns the rank of each value from 1; equal values have the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def literal(text: str) -> str:
    """Escapes text for matplotlib, which typesets what stands between dollar signs as a formula."""
    return text.replace("$", r"\$")


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Formats rows in columns: the first two are left-aligned, the others right-aligned.

    Nonprintable characters, such as a newline in a name that a device chose, are escaped.
    """
    rows = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number > 1 else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def format_bytes(count: float) -> str:
    """Formats a number of bytes with its unit: `3.1 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def format_seconds(seconds: float) -> str:
    """Formats a time in hours, minutes and seconds: `26:03:09`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def time_unit(seconds: float) -> tuple[str, float]:
    """Returns the largest unit that fits at least twice into a time, and the unit's seconds."""
    units = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0))
    return next(((name, unit) for name, unit in units if seconds >= 2 * unit), ("seconds", 1.0))


def draw_curves(metrics_csv: str, path: str, title: str, tiers: Sequence[Tier]) -> None:
    """Draws the loss and the tiers' accuracies from the released metrics to a PNG.

    The upper row is by round; the lower row, if the metrics have it, is by simulated time. Without
    metrics no file is written.
    """
    # Not pyplot, which would change the backend of a notebook.
    from matplotlib import colormaps, ticker
    from matplotlib.figure import Figure

    with open(metrics_csv, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return
    scales = [("round", [float(row["round"]) for row in rows])]
    times = [float(row.get("simulated_seconds") or 0) for row in rows]
    if any(times):
        span = max(times) - min(times)
        name, unit = time_unit(span)
        label, begin = f"simulated {name}", 0
        if min(times) > 2 * span:  # The first clients came long after the start.
            begin = int(min(times))
            label += f" after {format_seconds(begin)}"
        scales.append((label, [(time - begin) / unit for time in times]))
    figure = Figure(figsize=(11, 4.2 * len(scales)), layout="constrained")
    axes = figure.subplots(len(scales), 2, sharex="row", squeeze=False)
    for (label, places), (loss_axes, accuracy_axes) in zip(scales, axes, strict=True):
        _draw_losses(loss_axes, places, rows)
        _draw_accuracies(accuracy_axes, places, rows, tiers, colormaps["viridis"])
        for each in (loss_axes, accuracy_axes):
            each.set_xlabel(label)
            each.xaxis.set_major_locator(ticker.MaxNLocator(integer=label == "round"))
            each.grid(alpha=0.25)
            each.spines[["top", "right"]].set_visible(False)
    figure.suptitle(literal(title))
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=130))


def _draw_losses(axes, places, rows):
    trained = [(place, row) for place, row in zip(places, rows, strict=True) if row.get("loss")]
    losses = [float(row["loss"]) for _, row in trained]
    axes.plot([place for place, _ in trained], losses, color="0.35", linewidth=1.5)
    axes.set(ylabel="clients' training loss", ylim=(0, None))


def _draw_accuracies(axes, places, rows, tiers, colours):
    evaluated = [(x, accuracies_of(row)) for x, row in zip(places, rows, strict=True)]
    evaluated = [(x, accuracies) for x, accuracies in evaluated if accuracies]
    names = [tier.name for tier in tiers] if evaluated else []
    for place, name in enumerate(names):
        points = [(x, 100 * accuracies[name]) for x, accuracies in evaluated if name in accuracies]
        axes.plot(
            *zip(*points, strict=True),
            marker="o",
            markersize=3.5,
            linewidth=1.8,
            color=colours(0.85 * place / max(1, len(names) - 1)),
            label=f"{name}  {points[-1][1]:.1f} %",
        )
    axes.set(ylabel="test accuracy, %", ylim=(0, 100))
    if names:
        axes.legend(loc="lower right", frameon=False)


def run_paths(folder: str) -> dict[str, str]:
    """Returns the paths of a run's files in its folder."""
    names = {
        "settings": "settings.json",
        "metrics": "metrics.csv",
        "tensorboard": "tensorboard",
        "state": "state",
        "supernet": "supernet.safetensors",
        "curves": "curves.png",
    }
    return {key: os.path.join(folder, name) for key, name in names.items()}
