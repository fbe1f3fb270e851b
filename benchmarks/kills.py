"""Kills programs at random moments and checks that nothing is lost, left over or still running.

    uv run python benchmarks/kills.py --moments=20 --out=kills.json

Each program first runs to completion twice. Then, for each moment, it is started in an empty
folder, killed with `kill -9` after a random fraction of the first run's duration, and run again.
Its files must then equal those of the first run (except for files that also differ between the two
complete runs, such as figures that show times), and it must leave no processes and no temporary
files, neither in its folder nor in the system's. Files that a program writes once must also be
complete between the kill and the rerun. The exit code is 1 if a check fails.

Programs are forks of this process, which has imported TensorFlow but not used it. No kill is wasted
on the time of the imports, when there is nothing to lose.
"""

import argparse
import csv
import hashlib
import importlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from typing import NamedTuple

from tff_programs.programs import cli

SPACE = {
    "name": "tiny",
    "image_shape": [8, 8, 1],
    "classes": 10,
    "stem_width": 8,
    "stem_stride": 1,
    "stages": [{"name": "a", "widths": [8, 16], "depths": [1, 2], "kernels": [3, 5], "stride": 2}],
}
# CSV columns of measured times.
MEASURED = ("seconds", "examples_per_second")
TEMPORARY = re.compile(r"\.[0-9a-f]{8}\..+|.+_temp\d+|\.lock")
GRAPH = re.compile(r"saved_model\.pb|fingerprint\.pb|program_state_\d+\.sha256")
# Programs that write each of their files only once.
AT_ONCE = ("merge", "export", "search", "calibrate")
FAULTS = ("rerun fails", "lost", "half written", "orphans", "temporary files")
SECONDS_TO_END = 30


class Run(NamedTuple):
    """A completed run of a program.

    Attributes:
      code: Exit code, or the negative number of the signal that killed the program.
      seconds: Duration in seconds.
      output: Standard output and standard error.
      orphans: Ids of its child processes that are still running.
    """

    code: int
    seconds: float
    output: str
    orphans: set[int]


def run(arguments: list[str], folder: pathlib.Path, kill_after: float | None = None) -> Run:
    """Runs a program in a fork of this process.

    Args:
      arguments: Name, flags and arguments of the program, with `OUT` in place of the folder.
      folder: Output folder of the program; `folder.tmp` replaces the system's temporary folder.
      kill_after: Seconds after which the program is killed; None to let it finish.
    """
    words = [argument.replace("OUT", str(folder)) for argument in arguments]
    temporary = temporary_folder(folder)
    temporary.mkdir(exist_ok=True)
    log = folder.with_suffix(".log")
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        become(words, temporary, log)
    started, is_killed = set(), False
    while True:
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            break
        seconds = time.monotonic() - begin
        if kill_after is not None and not is_killed and seconds >= kill_after:
            started = descendants(child)
            os.kill(child, signal.SIGKILL)
            is_killed = True
        time.sleep(0.01)
    seconds = time.monotonic() - begin
    deadline = time.monotonic() + SECONDS_TO_END
    while any(map(is_running, started)) and time.monotonic() < deadline:
        time.sleep(0.1)
    output = log.read_text(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    return Run(code, seconds, output, set(filter(is_running, started)))


def become(words: list[str], temporary: pathlib.Path, log: pathlib.Path) -> None:
    """Turns this process into a program, and ends with it."""
    code = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
        sys.argv = ["fedsup", *words]
        cli.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if isinstance(error.code, str):
            print(error.code)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def temporary_folder(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder that replaces the system's temporary folder for a program."""
    return folder.with_suffix(".tmp")


def prepare(folder: pathlib.Path) -> dict[str, list[str]]:
    """Creates the programs' inputs: a trained supernet and the updates of two phones.

    Args:
      folder: Folder for the inputs.

    Returns:
      The arguments of each program by name, with `OUT` in place of its output folder.
    """
    space = folder / "space.json"
    space.write_text(json.dumps(SPACE))
    train = ["train", f"--space={space}", "--clients=6", "--clients_per_round=3"]
    train += ["--evaluate_every=1", "--tiers=smallest,largest", "--sandwich=1"]
    train += ["--random_subnets=0", "--nocalibrated_accuracy"]
    supernet = folder / "base" / "supernet.safetensors"
    model = folder / "smallest.tflite"
    finish([*train, "--rounds=1", f"--out={folder / 'base'}"], folder)
    finish(["export", str(supernet), f"--out={model}"], folder)
    updates = []
    for client in range(2):
        out = folder / f"client_{client}"
        finish(["device", str(model), f"--client={client}", "--epochs=1", f"--out={out}"], folder)
        updates.append(str(out / "update.safetensors"))
    search = ["--generations=2", "--population=3", "--parents=2", "--max_parameters=5000"]
    calibrate = ["--architectures=smallest", "--images_per_client=10", "--test_images=50"]
    fleet = ["--rounds=2", "--clients_per_round=1"]
    return {
        "train": [*train, "--rounds=2", "--out=OUT/run"],
        "merge": ["merge", str(supernet), *updates, "--out=OUT/merged.safetensors"],
        "export": ["export", str(supernet), "--quantize=float16", "--out=OUT/model.tflite"],
        "search": ["search", str(supernet), *search, "--out=OUT/search"],
        "calibrate": ["calibrate", str(supernet), *calibrate, "--out=OUT/calibrated"],
        "fleet": ["fleet", str(supernet), *fleet, "--out=OUT/fleet"],
    }


def finish(arguments: list[str], folder: pathlib.Path) -> Run:
    """Runs a program to completion; exits this program if it fails."""
    result = run(arguments, folder)
    if result.code:
        sys.exit(f"{' '.join(arguments)} ended with {result.code}:\n{result.output[-2000:]}")
    return result


def descendants(root: int) -> set[int]:
    """Returns the ids of all descendants of a process."""
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
    """Returns whether a process exists and is not a zombie."""
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Returns the hashes of a folder's files by name, ignoring measured times."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        # The names of TensorBoard's files contain the time. The graph of a state depends on the
        # number of functions in the process that saved it; the state's values are in other files.
        if not path.is_file() or "tensorboard" in path.parts or GRAPH.fullmatch(path.name):
            continue
        # A resumed fleet calibrates its subnets again, with the weights of a later round, so its
        # models and their names differ. Training does not depend on that, and its results are
        # compared.
        if path.parent.name == "models":
            continue
        data = path.read_bytes()
        if path.suffix == ".csv":
            with open(path, newline="") as file:
                rows = [
                    {key: value for key, value in row.items() if key not in MEASURED}
                    for row in csv.DictReader(file)
                ]
            data = json.dumps(rows).encode()
        # Reports contain the name of their folder.
        data = data.replace(os.fsencode(folder), b"OUT")
        hashes[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return hashes


def clear(folder: pathlib.Path) -> None:
    """Empties a program's folders."""
    for each in (folder, temporary_folder(folder)):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir()


def run_whole(arguments: list[str], folder: pathlib.Path) -> tuple[float, dict[str, str]]:
    """Runs a program to completion in an empty folder; returns its seconds and file hashes."""
    clear(folder)
    return finish(arguments, folder).seconds, contents(folder)


def left_over(folder: pathlib.Path) -> list[str]:
    """Returns the temporary files in a program's folder and in its temporary folder."""
    own = [path for path in folder.rglob("*") if TEMPORARY.fullmatch(path.name)]
    return [str(path) for path in (*own, *temporary_folder(folder).iterdir())]


def kill_once(
    arguments: list[str], folder: pathlib.Path, seconds: float, expected: dict[str, str]
) -> dict[str, str]:
    """Starts a program, kills it after some seconds, and runs it again.

    Args:
      arguments: Arguments of the program, with `OUT` in place of the folder.
      folder: Output folder of the program.
      seconds: Seconds after which the program is killed.
      expected: Hashes by name of the files that the program must have written in the end.

    Returns:
      Details of each fault that was found, by name.
    """
    clear(folder)
    killed = run(arguments, folder, seconds)
    between = contents(folder)
    again = run(arguments, folder)
    after = contents(folder)
    lost = [name for name, value in expected.items() if after.get(name) != value]
    half = []
    if arguments[0] in AT_ONCE:
        half = [name for name, value in expected.items() if between.get(name, value) != value]
    found = (
        again.output[-500:] if again.code else "",
        ", ".join(lost),
        ", ".join(half),
        ", ".join(map(str, killed.orphans)),
        ", ".join(left_over(folder)),
    )
    return {fault: text for fault, text in zip(FAULTS, found, strict=True) if text}


def main() -> None:
    """Kills each program at each moment and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=20, help="Kills of each program.")
    parser.add_argument("--programs", default="train,merge,export,search,calibrate,fleet")
    parser.add_argument("--seed", type=int, default=0, help="Decides the moments.")
    parser.add_argument("--out", help="JSON file of all kills.")
    options = parser.parse_args()
    names = options.programs.split(",")
    for name in ("train", "device", *names):
        importlib.import_module(f"tff_programs.programs.{name}")
    if len(os.listdir("/proc/self/task")) > 1:
        print("This process has threads already, which its forks lack.", flush=True)
    rng = random.Random(options.seed)
    rows, kills = [], []
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        folder = pathlib.Path(temporary)
        programs = prepare(folder)
        for name in names:
            out = folder / f"out_{name}"
            whole, first = run_whole(programs[name], out)
            _, second = run_whole(programs[name], out)
            expected = {file: value for file, value in first.items() if second.get(file) == value}
            varying = sorted(first.keys() - expected.keys())
            print(
                f"{name}: {whole:.1f} s, {len(expected)} files compared, not "
                f"{', '.join(varying) or '-'}",
                flush=True,
            )
            counts = dict.fromkeys(FAULTS, 0)
            for number in range(options.moments):
                seconds = whole * rng.uniform(0.0, 1.0)
                found = kill_once(programs[name], out, seconds, expected)
                for fault in found:
                    counts[fault] += 1
                kills.append({"program": name, "seconds": seconds, "whole": whole, **found})
                wrong = "; ".join(f"{fault}: {text}" for fault, text in found.items())
                print(
                    f"{name} {number + 1}/{options.moments}: {seconds:.1f} of {whole:.1f} s: "
                    f"{wrong or 'all holds'}",
                    flush=True,
                )
                if options.out:
                    pathlib.Path(options.out).write_text(json.dumps(kills, indent=1))
            rows.append((name, options.moments, f"{whole:.1f}", *counts.values()))
    print()
    for row in (("program", "kills", "seconds", *FAULTS), *rows):
        print("".join(f"{cell!s:>16}" for cell in row))
    sys.exit(any(any(row[3:]) for row in rows))


if __name__ == "__main__":
    main()
