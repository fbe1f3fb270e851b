"""Study of methods x partitions x seeds with one program, reported as a table and a figure.

    uv run python experiments/study/study.py --settings=digits --processes=2

Trains every cell that has no result yet, each in a process on one core, and writes its result to
`results/SETTING/PARTITION/METHOD-SEED.json`; interrupted cells are resumed. Then writes
`results/SETTING.md` and `results/SETTING.png` from all existing results. `--report` does only the
latter. A cell trains with the flags of its setting, its partition and its method, in that order.
"""

import concurrent.futures
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags
from tables import write_report

from fedsup_tf.files.atomic_write import write_json

FOLDER = Path(__file__).parent

# Methods whose nets differ in width alone. They train in a space of `spaces/widths/`, whose tiers
# have about as many parameters as those of the setting's space.
_WIDTHS_ALONE = ("fjord", "heterofl")

_SETTINGS = flags.DEFINE_list("settings", ["digits"], "Settings: names in settings/.")
_METHODS = flags.DEFINE_list("methods", None, "Methods: names in methods/. All by default.")
_PARTITIONS = flags.DEFINE_list(
    "partitions", ["shard_2", "shard_5", "dirichlet_0.3"], "Partitions: names in partitions/."
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
_PROCESSES = flags.DEFINE_integer("processes", 1, "Cells trained at once.", lower_bound=1)
_RESULTS = flags.DEFINE_string("results", str(FOLDER / "results"), "Folder of the results.")
_RUNS = flags.DEFINE_string("runs", "runs/study", "Folder of the trainings, which can be resumed.")
_REPORT = flags.DEFINE_bool("report", False, "Trains nothing, writes tables and pictures alone.")


def main(argv):
    """Trains the missing cells and reports all results."""
    del argv
    methods = _METHODS.value or sorted(path.stem for path in (FOLDER / "methods").glob("*.flags"))
    cells = [
        cell
        for cell in itertools.product(_SETTINGS.value, _PARTITIONS.value, _SEEDS.value, methods)
        if not result_path(*cell).exists()
    ]
    chosen = {"settings": _SETTINGS.value, "partitions": _PARTITIONS.value, "methods": methods}
    for kind, names in chosen.items():
        known = sorted(path.stem for path in (FOLDER / kind).glob("*.flags"))
        if unknown := set(names) - set(known):
            raise app.UsageError(f"--{kind}: expected {known}, received {sorted(unknown)}.")
    if cells and not _REPORT.value:
        print(f"{len(cells)} cells to train", flush=True)
        with concurrent.futures.ThreadPoolExecutor(_PROCESSES.value) as pool:
            for cell, seconds in zip(cells, pool.map(train_cell, cells), strict=True):
                print(f"{' '.join(cell)}: {seconds:.0f} s", flush=True)
    for setting in _SETTINGS.value:
        write_report(Path(_RESULTS.value), setting)


def result_path(setting, partition, seed, method) -> Path:
    """Returns the path of a cell's result."""
    return Path(_RESULTS.value) / setting / partition / f"{method}-{seed}.json"


def train_cell(cell) -> float:
    """Trains and measures a cell and writes the result; returns the duration in seconds."""
    setting, partition, seed, method = cell
    start = time.monotonic()
    folder = Path(_RUNS.value) / "-".join(cell)
    command = [
        "train",
        f"--flagfile={FOLDER / 'settings' / setting}.flags",
        f"--flagfile={FOLDER / 'partitions' / partition}.flags",
        f"--flagfile={FOLDER / 'methods' / method}.flags",
        *(_flags_of_widths(setting) if method in _WIDTHS_ALONE else ()),
        f"--seed={seed}",
        "--clients_at_once=1",
        "--random_subnets=0",
        "--nocalibrated_accuracy",
    ]
    try:
        if "--algorithm=exclusive" in (FOLDER / "methods" / f"{method}.flags").read_text():
            measured = exclusive_nets(folder, command)
        else:
            run(folder, command)
            measured = measure(folder)
    except DivergedError as error:
        # Divergence is also a result, which the table counts.
        measured = {"diverged": str(error)}
    write_json(result_path(*cell), measured)
    shutil.rmtree(folder)
    return time.monotonic() - start


def _flags_of_widths(setting) -> list[str]:
    text = (FOLDER / "settings" / f"{setting}.flags").read_text(encoding="utf-8")
    space = Path(re.search(r"^--space=(\S+)$", text, re.MULTILINE)[1]).stem
    return [f"--flagfile={FOLDER / 'spaces' / 'widths' / space}.flags"]


def exclusive_nets(folder, command) -> dict:
    """Trains the net of each default tier separately and joins the measurements."""
    run(folder / "smallest", [*command, "--architecture=smallest"])
    one = measure(folder / "smallest")
    rounds = [one["rounds"]]
    for tier, net in one["nets"].items():
        if tier == "smallest":
            continue
        path = folder / f"{tier}.json"
        path.write_text(net, encoding="utf-8")
        run(folder / tier, [*command, f"--architecture={path}"])
        measured = measure(folder / tier)
        one["tiers"][tier] = measured["tiers"][tier]
        rounds.append(measured["rounds"])
    # Slices of a net that was not trained as a supernet are not subnets.
    return {**one, "rounds": join_rounds(rounds), "random": []}


def join_rounds(runs) -> list[dict]:
    """Joins evaluations of separate trainings: mean accuracy, total traffic and time."""
    return [
        {
            "round": at_once[0]["round"],
            "accuracy": sum(run["accuracy"] for run in at_once) / len(at_once),
            "bytes": sum(run["bytes"] for run in at_once),
            "seconds": sum(run["seconds"] for run in at_once),
        }
        for at_once in zip(*runs, strict=True)
    ]


class DivergedError(Exception):
    """Raised when a training diverged."""


def run(folder, arguments) -> None:
    """Runs a program of `fedsup` in a child process."""
    command = [os.path.join(os.path.dirname(sys.executable), "fedsup"), *arguments]
    done = subprocess.run(
        [*command, f"--out={folder}"], capture_output=True, text=True, check=False
    )
    if "The training diverged" in done.stderr:
        raise DivergedError(done.stderr.strip())
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")


def measure(folder) -> dict:
    """Measures a trained run in a child process."""
    command = [sys.executable, str(FOLDER / "measure.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    app.run(main)
