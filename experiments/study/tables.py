"""Results of the study as a Markdown table and a figure."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from fedsup_tf.files.atomic_write import replace_file, write_text

# Mean accuracy of the tiers, as trained, up to which traffic and simulated time are reported.
_TARGET = 0.5


def write_report(results: Path, setting: str) -> None:
    """Writes `SETTING.md` and `SETTING.png` from all results of a setting, if there are any."""
    cells, diverged = (defaultdict(lambda: defaultdict(list)) for _ in range(2))
    for path in sorted((results / setting).glob("*/*.json")):
        method = path.stem.rpartition("-")[0]
        result = json.loads(path.read_text(encoding="utf-8"))
        kind = diverged if "diverged" in result else cells
        kind[path.parent.name][method].append(result)
    if not cells:
        return
    text = [f"# {setting}", ""]
    for partition, methods in sorted(cells.items()):
        text += [f"## {partition}", "", *_table(methods), ""]
        for method, runs in sorted(diverged[partition].items()):
            text += [f"{method}: {len(runs)} more that diverged.", ""]
    write_text(results / f"{setting}.md", "\n".join(text))
    _draw(cells, setting, results / f"{setting}.png")


def _table(methods) -> list[str]:
    tiers = list(next(iter(methods.values()))[0]["tiers"])
    share = f"{100 * _TARGET:.0f} %"
    measured = (
        "worst client, as trained",
        "random p10",
        "MB of all clients",
        f"MB to {share}",
        f"simulated minutes to {share}",
    )
    header = ["method", "seeds", *tiers, *measured]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for method, runs in sorted(methods.items()):
        cells = [method, str(len(runs))]
        for tier in tiers:
            ways = ("deployed", "kept")
            shares = [[run["tiers"][tier][way] for run in runs] for way in ways]
            cells.append(" / ".join(_spread(of_way) for of_way in shares))
        cells.append(
            _spread([min(t["worst_client"] for t in run["tiers"].values()) for run in runs])
        )
        p10 = [np.percentile(run["random"], 10) for run in runs if run["random"]]
        cells.append(_spread(p10) if p10 else "-")
        cells += _costs(runs)
        lines.append("| " + " | ".join(cells) + " |")
    older = sorted(
        method
        for method, runs in methods.items()
        if not all("penalty" in tier for run in runs for tier in run["tiers"].values())
    )
    given = f"(0.001, on 100 images of a client instead of 400, for {', '.join(older)}) "
    given = given if older else ""
    note = (
        "Test accuracy in percent, calibrated, one image at a time, with a classifier that is "
        f"refitted with a penalty chosen by the data {given}/ the classifier as trained. Random "
        "subnets are calibrated with a penalty of 0.01 on 30 images of a client. Mean and standard "
        "deviation over the seeds. MB are what all clients send and receive in all rounds, or "
        f"until {share}: the first evaluation in which the trained tiers have this mean accuracy, "
        'as trained. Minutes are of phones, by the simulated speeds of devices. "-" if a seed does '
        "not reach the accuracy, or its evaluations were not recorded."
    )
    return [*lines, "", note]


def _costs(runs) -> list[str]:
    """Formats mean MB in all rounds, and mean MB and minutes until the target accuracy."""

    def mean(evaluations, field, unit):
        if None in evaluations:
            return "-"
        value = np.mean([one[field] for one in evaluations]) / unit
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}"

    last = [run["rounds"][-1] if run["rounds"] else None for run in runs]
    reached = [
        next((one for one in run["rounds"] if one["accuracy"] >= _TARGET), None) for run in runs
    ]
    return [mean(last, "bytes", 1e6), mean(reached, "bytes", 1e6), mean(reached, "seconds", 60)]


def _spread(shares) -> str:
    if None in shares:  # Not measured.
        return "-"
    shares = 100 * np.asarray(shares)
    if len(shares) == 1:
        return f"{shares[0]:.1f}"
    return f"{shares.mean():.1f} ± {shares.std(ddof=1):.1f}"


def _draw(cells, setting, path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6 * len(cells)), layout="constrained")
    for axes, (partition, methods) in zip(
        figure.subplots(len(cells), squeeze=False)[:, 0], sorted(cells.items()), strict=True
    ):
        for number, (method, runs) in enumerate(sorted(methods.items())):
            tiers = list(runs[0]["tiers"])
            if None in (tier["deployed"] for run in runs for tier in run["tiers"].values()):
                continue  # Not measured.
            shares = 100 * np.array(
                [[run["tiers"][tier]["deployed"] for tier in tiers] for run in runs]
            )
            places = np.arange(len(tiers)) + 0.8 * (number / len(methods) - 0.5)
            error = shares.std(0, ddof=1) if len(runs) > 1 else None
            # Ten colours per marker.
            mark, colour = "os^Dv"[number // 10 % 5], f"C{number % 10}"
            axes.errorbar(
                places, shares.mean(0), error, fmt=mark, color=colour, capsize=2, label=method
            )
        axes.set_xticks(range(len(tiers)), tiers)
        axes.set(title=f"{setting}, {partition}", ylabel="accuracy as deployed, %")
        axes.grid(axis="y", alpha=0.25)
        axes.legend(fontsize=7, ncols=2, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=120))
