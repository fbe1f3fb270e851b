"""Kills programs at random moments and checks that nothing is lost, left over or still running.

    uv run python benchmarks/kills.py --moments=20

Each program is run twice to its end. Then, for each moment, it is started anew in its own folder,
killed with `kill -9` after a random part of the time of the first run, and run again. After that
its files are equal to those of the first run (but for those that the second run wrote otherwise
too, such as pictures with times in them), no process of it is left, and neither is a temporary
file. The exit code is 1 if something does not hold.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
SPACE = {
    "name": "tiny",
    "image_shape": [8, 8, 1],
    "classes": 10,
    "stem_width": 8,
    "stem_stride": 1,
    "stages": [{"name": "a", "widths": [8, 16], "depths": [1, 2], "kernels": [3, 5], "stride": 2}],
}
# Columns that hold measured times.
MEASURED = ("seconds", "examples_per_second")
TEMPORARY = re.compile(r"\.[0-9a-f]{8}\..+|.+_temp\d+|\.lock")
SECONDS_TO_END = 30


def fedsup(*arguments: str) -> list[str]:
    """Returns the command of a program of this checkout."""
    code = "from tff_programs.programs.cli import main; main()"
    return [sys.executable, "-c", code, *arguments]


def prepare(folder: pathlib.Path, names: list[str]) -> dict[str, list[str]]:
    """Makes what programs need: a supernet, for a merge also updates.

    Args:
      folder: Where it is made.
      names: The programs that are killed.

    Returns:
      The programs' arguments by name, with `OUT` for the folder into which they write.
    """
    space = folder / "space.json"
    space.write_text(json.dumps(SPACE))
    train = ["train", f"--space={space}", "--clients=6", "--clients_per_round=3"]
    train += ["--evaluate_every=1", "--tiers=smallest,largest"]
    supernet = folder / "base" / "supernet.safetensors"
    if names != ["train"]:
        finish(fedsup(*train, "--rounds=1", f"--out={folder / 'base'}"))
    if "merge" in names:
        model = folder / "smallest.tflite"
        finish(fedsup("export", str(supernet), f"--out={model}"))
        for client in range(2):
            out = folder / f"client_{client}"
            flags = (f"--client={client}", "--epochs=1", f"--out={out}")
            finish(fedsup("device", str(model), *flags))
    updates = [str(folder / f"client_{client}" / "update.safetensors") for client in range(2)]
    search = ["--generations=2", "--population=3", "--parents=2", "--max_parameters=5000"]
    return {
        "train": [*train, "--rounds=4", "--out=OUT/run"],
        "merge": ["merge", str(supernet), *updates, "--out=OUT/merged.safetensors"],
        "export": [
            "export",
            str(supernet),
            "--all_tiers",
            "--quantize=float16",
            "--out=OUT/models",
        ],
        "search": ["search", str(supernet), *search, "--out=OUT/search"],
        "calibrate": ["calibrate", str(supernet), "--out=OUT/calibrated"],
        "fleet": ["fleet", str(supernet), "--rounds=2", "--clients_per_round=2", "--out=OUT/fleet"],
    }


def finish(command: list[str]) -> str:
    """Runs a command to its end; returns what it printed."""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr[-2000:]}")
    return result.stdout


def descendants(root: int) -> set[int]:
    """Returns the processes that a process started, and those that these started."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found, front = set(), {root}
    while front:
        front = {process for process, parent in parents.items() if parent in front}
        found |= front
    return found


def is_running(process: int) -> bool:
    """Whether a process is there and not only waits to be reaped."""
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Returns the hashes of a folder's files by name, measured times left out."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        # The names of TensorBoard's files hold the time.
        if not path.is_file() or "tensorboard" in path.parts:
            continue
        data = path.read_bytes()
        if path.suffix == ".csv":
            with open(path, newline="") as file:
                rows = [
                    {key: value for key, value in row.items() if key not in MEASURED}
                    for row in csv.DictReader(file)
                ]
            data = json.dumps(rows).encode()
        # Reports name the folder that they are in.
        data = data.replace(os.fsencode(folder), b"OUT")
        hashes[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return hashes


def run_whole(arguments: list[str], folder: pathlib.Path) -> tuple[float, dict[str, str]]:
    """Runs a program to its end in an empty folder; returns its seconds and the files' hashes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    begin = time.monotonic()
    finish(fedsup(*(argument.replace("OUT", str(folder)) for argument in arguments)))
    return time.monotonic() - begin, contents(folder)


def kill_once(
    arguments: list[str], folder: pathlib.Path, seconds: float, expected: dict[str, str]
) -> dict[str, bool]:
    """Starts a program, kills it after some seconds, and runs it again.

    Args:
      arguments: The program's, with `OUT` for the folder.
      folder: Where it writes.
      seconds: When it is killed.
      expected: Hashes by name of the files that it shall write in the end.

    Returns:
      For each fault whether it was found.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    command = fedsup(*(argument.replace("OUT", str(folder)) for argument in arguments))
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    started = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + SECONDS_TO_END
    while any(map(is_running, started)) and time.monotonic() < deadline:
        time.sleep(0.1)
    orphans = any(map(is_running, started))
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    left = [path for path in folder.rglob("*") if TEMPORARY.fullmatch(path.name)]
    if again.returncode:
        print(again.stderr[-500:], flush=True)
    return {
        "rerun fails": again.returncode != 0,
        "lost": not expected.items() <= contents(folder).items(),
        "orphans": orphans,
        "temporary files": bool(left),
    }


def main() -> None:
    """Kills each program at each moment and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=20, help="Kills of each program.")
    parser.add_argument("--programs", default="train,merge,export,search,calibrate,fleet")
    parser.add_argument("--seed", type=int, default=0, help="Decides the moments.")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    faults = ("rerun fails", "lost", "orphans", "temporary files")
    rows = []
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        folder = pathlib.Path(temporary)
        names = options.programs.split(",")
        programs = prepare(folder, names)
        for name in names:
            out = folder / f"out_{name}"
            whole, first = run_whole(programs[name], out)
            _, second = run_whole(programs[name], out)
            expected = {file: value for file, value in first.items() if second.get(file) == value}
            varying = sorted(first.keys() - expected.keys())
            print(f"{name}: {len(expected)} files compared, not {', '.join(varying) or '-'}")
            counts = dict.fromkeys(faults, 0)
            for number in range(options.moments):
                seconds = whole * rng.uniform(0.1, 1.0)
                found = kill_once(programs[name], out, seconds, expected)
                for fault in faults:
                    counts[fault] += found[fault]
                wrong = ", ".join(fault for fault in faults if found[fault]) or "all holds"
                print(
                    f"{name} {number + 1}/{options.moments}: {seconds:.1f} s: {wrong}", flush=True
                )
            rows.append((name, options.moments, f"{whole:.0f}", *counts.values()))
    print()
    for row in (("program", "kills", "seconds", *faults), *rows):
        print("".join(f"{cell!s:>16}" for cell in row))
    sys.exit(any(any(row[3:]) for row in rows))


if __name__ == "__main__":
    main()
