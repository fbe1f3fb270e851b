"""fedsup data: shows a data set and its partition among clients, as a table and a plot.

`fedsup data --dataset=fashion_mnist --partition=dirichlet --clients=100 --plot=partition.png`
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.files.atomic_write import replace_file
from tff_programs.programs.flags.data_flags import (
    data_settings_from_flags,
    define_data_flags,
    load_data,
)
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags, parse_flags_only
from tff_programs.reports.report import literal

_INK, _FAINT, _STRIPE = "#22303c", "#7a8793", "#f3f5f7"
_COLOURS = (
    "#3b6fb6", "#e07b39", "#3f9b6c", "#c8504f", "#8567b0",
    "#a0745a", "#d778b0", "#6f7f8c", "#b3a02c", "#2ba6b5",
)  # fmt: skip


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_data_flags(define)
    define.output_file("plot", None, "PNG file for a plot of each client's examples by class.")


def main(argv: Sequence[str]) -> None:
    """Prints the data set and its partition, and plots them if requested."""
    options = parse_flags_only(define_flags, argv)
    data = load_data(options, data_settings_from_flags(options))
    partition_name = _partition_name(options, data.partition)
    print(describe(data, partition_name))
    if options.plot:
        title = f"{data.name}, {partition_name}"
        try:
            save_png(
                plot_partition(data.label_counts(), data.class_names, title), Path(options.plot)
            )
        except OSError as error:
            raise OSError(f"--plot={options.plot}: {error}") from error
        print(f"plot                {options.plot}")


def _partition_name(options: ProgramFlags, kind: str) -> str:
    details = {
        "natural": "",
        "contiguous": "",
        "iid": "",
        "shard": f"{options.classes_per_client} classes per client, ",
        "dirichlet": f"beta {options.beta:g}, ",
    }
    quantity = f"quantity {options.quantity:g}, " if options.quantity else ""
    return f"{kind} partition, {details[kind]}{quantity}seed {options.seed}"


def describe(data: FederatedDataset, partition_name: str) -> str:
    """Formats the table that the program prints.

    Args:
      data: The clients and their data set.
      partition_name: Description of the partition.

    Returns:
      The table as lines of text.
    """
    counts, dataset = data.label_counts(), data.dataset
    height, width, channels = data.image_shape
    rows = {
        "train examples": counts.sum(axis=1),
        "test examples": np.array(data.test_sizes),
        "classes": (counts > 0).sum(axis=1),
    }
    lines = [
        f"data set            {dataset.name}, {len(dataset.class_names)} classes",
        f"images              {height} x {width} x {channels}",
        f"train / test        {len(dataset.train_labels):,} / {len(dataset.test_labels):,} "
        "examples",
        f"partition           {partition_name}",
        f"clients             {len(data):,}",
        f"  of each client    {'min':>8}{'median':>8}{'max':>8}",
    ]
    for name, values in rows.items():
        numbers = (values.min(), np.median(values), values.max())
        # A median may lie halfway between two integers.
        cells = "".join(f"{f'{number:,.1f}'.removesuffix('.0'):>8}" for number in numbers)
        lines.append(f"  {name:<18}{cells}")
    return "\n".join(lines)


def plot_partition(counts: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """Plots clients against classes; a bubble's area is the number of training examples.

    Args:
      counts: Numbers of training examples, `(clients, classes)`.
      class_names: Name of each class.
      title: Name of the data set and its partition.

    Returns:
      The figure; bars above the matrix show the number of examples of each client.
    """
    clients, classes = counts.shape
    column, row = np.clip(11.5 / clients, 0.13, 0.46), np.clip(4.6 / classes, 0.15, 0.36)
    left = 0.45 + 0.075 * max(map(len, class_names))
    below, above, gap, bars_height = 0.74, 0.62, 0.1, 0.95
    plot_width, plot_height = np.clip(column * clients, 5.2, 60), row * classes
    width, height = left + plot_width + 0.35, below + plot_height + gap + bars_height + above
    figure = Figure(figsize=(width, height), facecolor="white")
    bars, matrix = (
        figure.add_axes((left / width, bottom / height, plot_width / width, tall / height))
        for bottom, tall in ((below + plot_height + gap, bars_height), (below, plot_height))
    )
    colours = [_COLOURS[i] if classes <= len(_COLOURS) else _COLOURS[0] for i in range(classes)]
    _draw_bars(bars, counts, colours)
    # In narrow columns, large bubbles may overlap the next column; small ones stay visible.
    reach = 1.0 if clients <= 40 else 1.6
    diameter = 72 * 0.94 * min(reach * plot_width / clients, row)
    legend = _draw_bubbles(matrix, counts, colours, class_names, diameter)
    for axes in (bars, matrix):
        axes.set_xlim(-0.5, clients - 0.5)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=8.5, labelcolor=_INK)
    text = {"ha": "left", "color": _INK}
    top, start = 1 - 0.16 / height, left / width
    figure.text(start, top, literal(title), va="top", size=12.5, weight="bold", **text)
    figure.text(start, 0.24 / height, "client", va="center", size=9, **text)
    figure.legend(
        handles=legend,
        loc="center right",
        bbox_to_anchor=((left + plot_width) / width, 0.24 / height),
        ncols=len(legend),
        frameon=False,
        fontsize=8.5,
        labelcolor=_INK,
        columnspacing=1.2,
        handlelength=max(1.2, diameter / 8.5),
        handletextpad=0.5,
        borderaxespad=0,
        borderpad=0,
    )
    return figure


def _draw_bars(axes: Axes, counts: np.ndarray, colours: Sequence[str]) -> None:
    totals = np.zeros(len(counts))
    # Stacked from the bottom, so that the first class is on top, as in the matrix.
    for label, colour in reversed(list(enumerate(colours))):
        axes.bar(range(len(counts)), counts[:, label], 0.72, totals, color=colour, linewidth=0)
        totals += counts[:, label]
    largest = int(totals.max())
    axes.set_ylim(0, largest * 1.04)
    axes.set_yticks([0, largest], ["0", f"{largest:,}"])
    axes.set_xticks([])
    axes.set_ylabel("examples", size=8.5, color=_FAINT, labelpad=2)


def _draw_bubbles(
    axes: Axes,
    counts: np.ndarray,
    colours: Sequence[str],
    class_names: Sequence[str],
    diameter: float,
) -> list[PathCollection]:
    """Draws the matrix and returns the handles of its legend."""
    clients, classes = counts.shape
    for label in range(0, classes, 2):
        axes.axhspan(label - 0.5, label + 0.5, color=_STRIPE, linewidth=0, zorder=0)
    # Areas are in square points; a minimum keeps one example visible next to thousands.
    scale = diameter**2 / counts.max()
    client, label = np.nonzero(counts)
    areas = np.maximum(counts[client, label] * scale, 3.0)
    order = np.argsort(-areas, kind="stable")
    axes.scatter(
        client[order],
        label[order],
        areas[order],
        [colours[i] for i in label[order]],
        edgecolors="white",
        # A white edge separates large bubbles, but would hide small ones.
        linewidths=np.where(areas[order] > 20, 0.4, 0),
        clip_on=False,
        zorder=2,
    )
    axes.set_ylim(classes - 0.5, -0.5)
    axes.set_yticks(range(classes), list(map(literal, class_names)))
    steps = (1, 5, 10, 50, 100, 500, 1000)
    step = next((step for step in steps if clients / step <= 25), clients)
    axes.set_xticks(np.arange(0, clients, step))
    # Round numbers; the largest does not exceed the largest bubble.
    wanted = [max(1.0, counts.max() * share) for share in (0.1, 0.4, 1)]
    digits = [10 ** int(np.log10(value)) for value in wanted]
    samples = sorted({int(v // d) * d for v, d in zip(wanted, digits, strict=True)})
    handles = [
        axes.scatter([], [], sample * scale, _FAINT, linewidths=0, label=f"{sample:,}")
        for sample in samples
    ]
    return [axes.scatter([], [], 0, label="training examples"), *handles]


def save_png(figure: Figure, path: Path) -> None:
    """Writes a PNG atomically: to a temporary file in the same folder, which is then renamed."""
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
