"""Measures the growth of a round's time and memory with its clients and the supernet's width.

`uv run python benchmarks/growth.py` runs each point in a separate process, so that memory peaks do
not mix: rounds of 10, 100 and 1,000 clients of `fedsup_cifar` (subnets of four tiers in turn, 32
images each); rounds of ten clients with the widths of the supernet multiplied by 1, 2 and 4 (128
images each); and, with --largest, rounds of 20 clients of the largest subnet with 32 and with 320
images, which determine the cost per example and per client (docs/scale.md). It prints a table and
writes growth.json, clients.png and width.png to --out. Peaks are `VmHWM`, of the program and summed
over TFF's workers, one per core.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import asyncio
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
import tensorflow_federated as tff
from absl import app, flags, logging
from round_data import PREPROCESSING, SPACE

from fedsup_tf.files.atomic_write import replace_file, write_json
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.search.costs import count_parameters
from tff_programs.execution.contexts import local_execution
from tff_programs.execution.streaming import DeferredData
from tff_programs.learning.training_process import build_fedsup_process
from tff_programs.reports.report import format_table
from tff_programs.simulation.clients import client_cost, client_element
from tff_programs.simulation.tiers import default_tiers

_CLIENTS = flags.DEFINE_list("clients", ["10", "100", "1000"], "Clients of a round.")
_WIDTHS = flags.DEFINE_list("widths", ["1", "2", "4"], "What the supernet's widths are times.")
_LARGEST = flags.DEFINE_bool("largest", True, "Also rounds of the largest subnet.")
_OUT = flags.DEFINE_string("out", "runs/benchmark_growth", "Folder of the results.")
_POINT = flags.DEFINE_string(
    "point", None, "clients,width,images,tiers: measures this point alone."
)


def wide_space(factor):
    """Returns `fedsup_cifar` with all widths multiplied by `factor`."""
    stages = tuple(
        dataclasses.replace(stage, widths=tuple(factor * width for width in stage.widths))
        for stage in SPACE.stages
    )
    return dataclasses.replace(SPACE, stem_width=factor * SPACE.stem_width, stages=stages)


def peak_mb(pid):
    """Returns the peak resident memory of a process in MB."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def worker_pids():
    """Returns the process ids of TFF's workers, which are children of this process."""
    tasks = pathlib.Path(f"/proc/{os.getpid()}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    names = {c: pathlib.Path(f"/proc/{c}/comm").read_text().strip() for c in children}
    return [child for child, name in names.items() if name.startswith("worker")]


def measure_point(clients, width, images, tiers):
    """Measures the median time of rounds after a smaller warm-up round, and peak memory."""
    space = wide_space(width)
    architectures = [tier.architecture for tier in default_tiers(space, 0)][-tiers:]

    def data(number):
        architecture = architectures[number % len(architectures)]

        def make():
            rng = np.random.default_rng(number)
            return client_element(
                space,
                rng.integers(0, 256, (images, *space.image_shape), np.uint8),
                rng.integers(0, space.classes, images, np.int32),
                architecture,
                number,
                (0, number),
            )

        return DeferredData(make, client_cost(space, architecture, images))

    async def rounds():
        state = await tff.program.materialize_value(process.initialize())
        seconds, program_seconds = [], []
        for count in [min(clients, 20), *[clients] * (3 if clients <= 20 else 1)]:
            start, program_start = time.perf_counter(), time.process_time()
            output = process.next(state, [data(number) for number in range(count)])
            await tff.program.materialize_value((output.state, output.metrics))
            seconds.append(time.perf_counter() - start)
            program_seconds.append(time.process_time() - program_start)
        return statistics.median(seconds[1:]), statistics.median(program_seconds[1:])

    with local_execution():
        process = build_fedsup_process(space, LocalTraining(batch_size=32), PREPROCESSING)
        seconds, program_seconds = asyncio.run(rounds())
        return {
            "clients": clients,
            "width": width,
            "parameters": count_parameters(space, space.largest()),
            "seconds": seconds,
            "program_seconds": program_seconds,
            "program_mb": peak_mb(os.getpid()),
            "worker_mb": sum(map(peak_mb, worker_pids())),
        }


def in_child(clients, width, images, tiers=4):
    """Runs `measure_point` in a child process and returns its result."""
    point = f"--point={clients},{width},{images},{tiers}"
    result = subprocess.run(
        [sys.executable, __file__, point], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise RuntimeError(f"{point}: {result.stderr[-2000:]}")
    measured = json.loads(result.stdout.splitlines()[-1])
    print(
        f"{clients} clients, width x {width}, {images} images: {measured['seconds']:.1f} s, "
        f"workers {measured['worker_mb']:.0f} MB, program {measured['program_mb']:.0f} MB",
        flush=True,
    )
    return measured


def draw(points, key, label, path):
    """Plots time and memory against the dimension `key`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    x = [point[key] for point in points]
    times.plot(x, [point["seconds"] for point in points], marker="o", color="tab:green")
    times.set(ylabel="seconds of a round", yscale="log")
    for name, colour in (("worker", "tab:blue"), ("program", "0.5")):
        memory.plot(x, [p[f"{name}_mb"] for p in points], marker="o", color=colour, label=name)
    memory.set(ylabel="peak memory, MB", ylim=(0, None))
    memory.legend(frameon=False)
    for axes in (times, memory):
        axes.set(xlabel=label, xscale="log", xticks=x, xticklabels=[f"{value:,}" for value in x])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=130))
    pyplot.close(figure)


def measure_largest():
    """Returns the cost of an example and of a client of the largest subnet, and peak memory."""
    few, many = (in_child(20, 1, images, tiers=1) for images in (32, 320))
    cores = len(os.sched_getaffinity(0))
    core_seconds_of_example = cores * (many["seconds"] - few["seconds"]) / 20 / (320 - 32)
    return {
        "core_seconds_of_example": core_seconds_of_example,
        "core_seconds_of_client": cores * few["seconds"] / 20 - 32 * core_seconds_of_example,
        "program_core_seconds_of_client": many["program_seconds"] / 20,
        "worker_mb": many["worker_mb"],
        "program_mb": many["program_mb"],
    }


def main(argv):
    """Measures all points, prints the table and writes the results."""
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags alone, received {argv[1:]}.")
    logging.set_verbosity(logging.ERROR)
    if _POINT.value:
        print(json.dumps(measure_point(*map(int, _POINT.value.split(",")))))
        return
    by_clients = [in_child(int(count), 1, 32) for count in _CLIENTS.value]
    by_width = [in_child(10, int(width), 128) for width in _WIDTHS.value]
    largest = measure_largest() if _LARGEST.value else None
    rows = [("dimension", "", "parameters", "seconds", "s/client", "workers MB", "program MB")]
    for dimension, points in (("clients", by_clients), ("width x", by_width)):
        for point in points:
            rows.append(
                (
                    dimension,
                    f"{point[dimension.split()[0]]:,}",
                    f"{point['parameters']:,}",
                    f"{point['seconds']:.2f}",
                    f"{point['seconds'] / point['clients']:.3f}",
                    f"{point['worker_mb']:.0f}",
                    f"{point['program_mb']:.0f}",
                )
            )
    print()
    print(format_table(rows))
    if largest:
        print(
            f"largest subnet: {1e3 * largest['core_seconds_of_example']:.2f} ms of a core an "
            f"example, {1e3 * largest['core_seconds_of_client']:.0f} ms a client; of the program's "
            f"{1e3 * largest['program_core_seconds_of_client']:.0f} ms a client of 320 images"
        )
    os.makedirs(_OUT.value, exist_ok=True)
    write_json(
        os.path.join(_OUT.value, "growth.json"),
        {"clients": by_clients, "width": by_width, "largest": largest},
    )
    draw(by_clients, "clients", "clients a round", os.path.join(_OUT.value, "clients.png"))
    draw(by_width, "width", "width of the supernet x", os.path.join(_OUT.value, "width.png"))
    print(f"In {_OUT.value}: growth.json, clients.png, width.png")


if __name__ == "__main__":
    app.run(main)
