"""Tests a `fedsup serve` that is repeatedly killed under load, and measures its throughput.

    uv run python benchmarks/gateway.py

1,000 simulated phones, which send prepared updates, take part in 20 rounds. Some of them drop out,
are late, send damaged bytes, send an update twice, or send a hostile update. The server is killed
with `kill -9` and restarted at ten random moments. In the end, every update that the server
acknowledged must be recorded exactly once, and merging the same updates again in a process that is
not killed must give the same supernet in each round, bit for bit.

Then devices check in and send updates as fast as possible, to the gateway and to a plain Tornado
handler that only stores bodies of the same size. The handler is measured twice: with a flush of the
file and its directory entry to disk before it answers, which an answer of the gateway guarantees,
and without. `--parts=processes --database=postgresql://...` measures the gateway with one process,
then with two, on an existing PostgreSQL database.

The results are written to gateway.json and gateway.png in --folder. The exit code is 1 if a check
of the rounds fails.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import portpicker
from gateway_phones import Crowd
from gateway_server import KilledServer, check_counts, repeat_rounds
from gateway_throughput import YARDSTICKS, run_processes, run_throughput
from matplotlib.figure import Figure

from tflite.together.address import ServerAddress

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARES = {"vanish": 0.05, "late": 0.05, "damaged": 0.05, "replay": 0.02, "hostile": 0.02}
CODE = "from tff_programs.programs.cli import main; main()"
INK, FAINT = "#22303c", "#3b6fb6"


def train(folder: pathlib.Path, space: str) -> pathlib.Path:
    """Trains a supernet for one round and returns the path of its file."""
    out = folder / "trained"
    flags = ["--rounds=1", "--clients=6", "--clients_per_round=2", "--tiers=smallest,largest"]
    command = [sys.executable, "-c", CODE, "train", f"--space={space}", f"--out={out}", *flags]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return out / "supernet.safetensors"


def run_rounds(options, supernet: pathlib.Path, folder: pathlib.Path) -> dict:
    """Runs rounds while the server is repeatedly killed; returns the results as JSON values."""
    rng = random.Random(options.seed)
    flags = [f"--goal={options.goal}", "--noredraw", "--test_batch_size=0", "--over_asking=0.5"]
    flags += ["--check_in_seconds=2", "--check_ins_per_second=1e6", "--round_deadline=600"]
    flags += ["--task_seconds=30"]
    server = KilledServer(supernet, folder / "gateway", portpicker.pick_unused_port(), flags)
    models = folder / "models"
    models.mkdir()
    address = ServerAddress(server.url, server.token)
    begin, first, curve, killed = time.monotonic(), None, [], []
    last = int(0.9 * options.rounds * options.goal)
    moments = sorted(rng.randrange(1, last) for _ in range(options.kills))
    crowd = Crowd(address, options.phones, SHARES, models, options.threads)
    try:
        while first is None or server.number() < first + options.rounds:
            first = server.number() if first is None else first
            if crowd.failures:
                raise crowd.failures[0]
            accepted = crowd.accepted()
            curve.append((time.monotonic() - begin, accepted))
            server.measure()
            if moments and accepted >= moments[0]:
                # A random delay, so that the kill may hit any state of the server.
                time.sleep(rng.uniform(0, 2))
                killed.append((time.monotonic() - begin, accepted))
                server.kill()
                moments.pop(0)
            time.sleep(0.2)
        crowd.stop()
    finally:
        server.end()
    if crowd.failures:
        raise crowd.failures[0]
    accepted = {task: hash_ for phone in crowd.phones for task, hash_ in phone.accepted.items()}
    counts = check_counts(folder / "gateway", accepted)
    closed, different, twice = repeat_rounds(server, folder / "again")
    return {
        "phones": options.phones,
        "rounds": closed,
        "kills": server.kills,
        "seconds": time.monotonic() - begin,
        "accepted": len(accepted),
        "faults": _sums(phone.faults for phone in crowd.phones),
        "refusals": _sums(phone.refusals for phone in crowd.phones),
        "counts": counts,
        "rounds_that_differ": different,
        "used_twice": twice,
        "server_megabytes": server.max_bytes / 1e6,
        "curve": curve,
        "killed": killed,
    }


def _sums(counts) -> dict[str, int]:
    total = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total


def draw(path: pathlib.Path, found: dict) -> None:
    """Plots accepted updates and kills over time, and the rates, as far as they were measured."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    if "rounds" in found:
        rounds = found["rounds"]
        left.plot(*zip(*rounds["curve"], strict=True), color=FAINT, label="accepted updates")
        if rounds["killed"]:
            left.plot(*zip(*rounds["killed"], strict=True), "x", color="#c8504f", label="kill -9")
        left.set(xlabel="seconds", title=f"{rounds['phones']:,} phones, {rounds['rounds']} rounds")
        left.legend(frameon=False)
    if "throughput" in found:
        throughput = found["throughput"]
        names = (*reversed(YARDSTICKS), "update", "check-in")
        right.barh(names, [throughput[name]["per_second"] for name in names], color=FAINT)
        right.set(xlabel="a second", title=f"updates of {throughput['update_bytes'] / 1e3:,.0f} kB")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK)
    figure.savefig(path, dpi=150)


def faults(rounds: dict, expected_rounds: int) -> list[str]:
    """Returns the names of the failed checks."""
    wrong = [name for name in ("lost", "unknown", "other") if rounds["counts"][name]]
    wrong += [name for name in ("rounds_that_differ", "used_twice") if rounds[name]]
    return wrong + (["too few rounds"] if rounds["rounds"] < expected_rounds else [])


def show(found: dict) -> None:
    """Prints the tables."""
    for name, value in found.get("rounds", {}).items():
        if name not in ("curve", "killed"):
            print(f"{name:24}{value if not isinstance(value, float) else f'{value:.1f}'}")
    keys = ("per_second", "p50_ms", "p99_ms", "cpu_ms")
    heads = "".join(f"{head:>12}" for head in ("a second", "p50 ms", "p99 ms", "CPU ms", "MB/s"))
    for part in ("throughput", "processes"):
        rows = {name: row for name, row in found.get(part, {}).items() if isinstance(row, dict)}
        if rows:
            print(f"\n{'':16}{heads}")
        for name, row in rows.items():
            size = f"{row['megabytes_per_second']:.1f}" if "megabytes_per_second" in row else "-"
            figures = "".join(f"{row[key]:12.2f}" for key in keys)
            print(f"{name:16}{figures}{size:>12}")
    if "throughput" in found:
        throughput = found["throughput"]
        print(
            f"updates of {throughput['update_bytes']:,.0f} bytes, ratio {throughput['ratio']:.2f}, "
            f"to the handler that does not wait for the disk "
            f"{throughput['ratio_without_disk']:.2f}; in the processor's time "
            f"{throughput['cpu_ratio']:.2f} and {throughput['cpu_ratio_without_disk']:.2f}"
        )
    if "processes" in found:
        ratios = [found["processes"][f"ratio of {kind}s"] for kind in ("check-in", "update")]
        print(f"two processes to one: check-ins {ratios[0]:.2f}, updates {ratios[1]:.2f}")


def main() -> None:
    """Runs the parts, prints the tables and plots the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phones", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--goal", type=int, default=200, help="Updates of a round.")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--threads", type=int, default=32, help="Phones at work at once.")
    parser.add_argument("--requests", type=int, default=1000, help="Of the throughput's parts.")
    parser.add_argument("--space", default="digits_small", help="The supernet's search space.")
    parser.add_argument("--supernet", help="A trained one's file, instead of --space.")
    parser.add_argument("--parts", default="rounds,throughput", help="Those to run.")
    parser.add_argument("--database", help="An empty one on PostgreSQL, for the part processes.")
    parser.add_argument("--seed", type=int, default=0, help="Decides the moments of the kills.")
    parser.add_argument("--folder", default="runs/gateway", help="Of the table and the picture.")
    options = parser.parse_args()
    out = pathlib.Path(options.folder)
    out.mkdir(parents=True, exist_ok=True)
    runs = {"rounds": run_rounds, "throughput": run_throughput, "processes": run_processes}
    if "processes" in options.parts.split(",") and not options.database:
        parser.error("--parts=processes needs --database=postgresql://... of an empty database.")
    with tempfile.TemporaryDirectory(prefix="gateway-") as temporary:
        folder = pathlib.Path(temporary)
        supernet = pathlib.Path(options.supernet or train(folder, options.space))
        parts = options.parts.split(",")
        found = {part: runs[part](options, supernet, folder) for part in parts}
    wrong = faults(found["rounds"], options.rounds) if "rounds" in found else []
    (out / "gateway.json").write_text(json.dumps({**found, "wrong": wrong}, indent=1))
    draw(out / "gateway.png", found)
    show(found)
    print(f"does not hold: {', '.join(wrong)}" if wrong else "all holds")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
