"""Law 6 (docs/laws.md): a killed run ends like one that was not killed; and what runs keep."""

import csv
import json
import os
import shutil
import signal
import time

import programs
import pytest
from commands import train
from processes import children_of, is_running

from fedsup_tf.files.checkpoint import read_tensors
from tff_programs.simulation.run_folder import hold_run

# So slow that a night has time for one or two rounds.
DEVICES = {
    name: {"macs_per_second": 1e4 * n, "down_bytes_per_second": 50, "up_bytes_per_second": 20}
    for n, name in enumerate(("smallest", "middle", "middle-large", "largest"), 1)
}
ROUNDS = 4

pytestmark = pytest.mark.slow


def command(folder, *more):
    devices = folder.parent / "devices.json"
    devices.write_text(json.dumps(DEVICES))
    return train(
        folder,
        ROUNDS,
        "--clients_per_round=5",
        # Tracing a third net would take half as long again.
        "--sandwich=2",
        "--availability=0.7",
        f"--devices={devices}",
        "--availability_trace=diurnal",
        "--redraw",
        "--server_optimizer=sgdm",
        "--server_learning_rate=0.5",
        "--evaluate_every=2",
        "--weighting=uniform",
        "--clipping=3",
        "--noise_multiplier=0.01",
        "--noise_seed=5",
        *more,
    )


def run(folder, *more):
    return programs.run(*command(folder, *more))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, run_programs):
    """Returns a complete run's folder, its metrics, and the output of it and of later calls."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    arguments = command(folder)
    evaluate = ["evaluate", str(folder / "supernet.safetensors")]
    (whole,) = run_programs([arguments])
    assert not whole[1]
    kept = metrics(folder)
    calls = {
        "again": [*arguments, "--calibrated_accuracy"],
        "other settings": [*arguments, "--learning_rate=0.2"],
        "evaluate": [*evaluate, "--architectures=tiers", "--test_batch_sizes=50"],
    }
    told = dict(zip(calls, run_programs(list(calls.values())), strict=True))
    return folder, kept, {"whole": whole, **told}


def metrics(folder):
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = ("seconds",)
    return [{key: value for key, value in row.items() if key not in measured} for row in rows]


def test_a_run_killed_at_two_moments_ends_as_a_whole_one(runs, tmp_path):
    whole, _, _ = runs
    folder = tmp_path / "run"
    for line, pause in (("round 1/", 0.05), ("round 3/", 0.0)):
        process = programs.Program(*command(folder))
        for printed in process.stdout:
            if printed.startswith(line):
                break
        time.sleep(pause)
        workers = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert workers
        deadline = time.monotonic() + 20
        while any(map(is_running, workers)):
            assert time.monotonic() < deadline, "the worker outlived its killed program"
            time.sleep(0.1)
    result = run(folder)
    assert result.returncode == 0, result.stderr
    assert "Continuing after round" in result.stdout
    expected, _ = read_tensors(whole / "supernet.safetensors", "supernet")
    actual, _ = read_tensors(folder / "supernet.safetensors", "supernet")
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert value.tobytes() == actual[name].tobytes(), name
    assert metrics(folder) == metrics(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_ends_a_program_ends_its_workers(tmp_path, number):
    process = programs.Program(*train(tmp_path / "run", ROUNDS, "--sandwich=1"))
    for printed in process.stdout:
        if printed.startswith("round 1/"):
            break
    workers = children_of(process.pid)
    assert len(workers) == len(os.sched_getaffinity(0))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    if number == signal.SIGINT:
        assert "fedsup train: stopped." in errors
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "a worker outlived its program"
        time.sleep(0.1)


def test_a_run_tells_and_keeps_what_it_did(runs):
    folder, _, told = runs
    printed, _ = told["whole"]
    for number in range(1, ROUNDS + 1):
        assert f"round {number}/{ROUNDS} | " in printed
    rows = metrics(folder)
    assert [int(row["round"]) for row in rows] == list(range(1, ROUNDS + 1))
    assert [bool(row["accuracy/smallest"]) for row in rows] == [False, True, False, True]
    times = [float(row["simulated_seconds"]) for row in rows]
    assert times == sorted(set(times))
    assert f"simulated {int(times[-1]) // 3600}:" in printed
    final = {row.split()[0]: row for row in printed.splitlines() if row.rstrip().endswith("kB")}
    assert {"smallest", "largest"} <= final.keys()
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "tensorboard").iterdir())
    _, metadata = read_tensors(folder / "supernet.safetensors", "supernet")
    assert metadata["information"]["round"] == ROUNDS
    missing = sum(int(row["asked"]) - int(row["answered"]) for row in rows)
    assert missing > 0
    assert "clients answered" in printed


def test_a_finished_run_is_not_trained_again(runs):
    folder, kept, told = runs
    printed, error = told["again"]
    assert not error
    assert f"All {ROUNDS} rounds were done before." in printed
    assert metrics(folder) == kept


def test_a_run_is_not_continued_with_other_settings(runs):
    _, _, told = runs
    assert "--learning_rate was 0.1, is 0.2" in told["other settings"][1]


def test_a_run_with_a_damaged_state_and_without_metrics_goes_on_and_says_so(runs, tmp_path):
    whole, _, _ = runs
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "metrics.csv").unlink()
    state = folder / "state" / f"round_{ROUNDS}.safetensors"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    (folder / "state" / f"program_state_{ROUNDS}_temp1234").mkdir()
    result = run(folder)
    assert result.returncode == 0, result.stderr
    assert f"The state of round {ROUNDS} in" in result.stdout
    assert f"Continuing after round {ROUNDS - 1}." in result.stdout
    assert f"has no metrics of rounds 1 to {ROUNDS - 1}, which" in result.stdout
    assert [int(row["round"]) for row in metrics(folder)] == [ROUNDS]
    assert not list(folder.glob("state/*_temp*"))
    expected, _ = read_tensors(whole / "supernet.safetensors", "supernet")
    actual, _ = read_tensors(folder / "supernet.safetensors", "supernet")
    for name, value in expected.items():
        assert value.tobytes() == actual[name].tobytes(), name


def test_runs_that_cannot_be_continued_are_refused_and_stay(runs, tmp_path, run_programs):
    whole, _, _ = runs
    for name in ("held", "lost", "cut", "stateless", "renamed"):
        shutil.copytree(whole, tmp_path / name)
    shutil.rmtree(tmp_path / "stateless" / "state")
    states = tmp_path / "renamed" / "state"
    max(states.iterdir()).rename(states / "round_99.safetensors")
    (tmp_path / "lost" / "settings.json").unlink()
    (tmp_path / "cut" / "settings.json").write_text('{"seed": ')
    (tmp_path / "file").write_text("mine")
    told = {
        "held": f"is being trained by process {os.getpid()} on ",
        "lost": "expected the settings of the run whose rounds are saved",
        "cut": "The run's settings are lost",
        "stateless": "expected the state of the run whose supernet, of round ",
        "renamed": "Expected the state of round 99 of the run, received that of round ",
        "file": "expected a folder",
        "file/run": "expected a folder",
    }
    with hold_run(str(tmp_path / "held")):
        results = run_programs(
            [
                command(tmp_path / name)
                if name in ("stateless", "renamed")
                else ["train", f"--out={tmp_path / name}"]
                for name in told
            ]
        )
    for (name, expected), (_, error) in zip(told.items(), results, strict=True):
        assert expected in error, name
    assert not (tmp_path / "lost" / "settings.json").exists()
    assert (tmp_path / "cut" / "settings.json").read_text() == '{"seed": '
    assert (tmp_path / "file").read_text() == "mine"


def test_evaluate_reads_what_train_wrote(runs):
    folder, _, told = runs
    printed, error = told["evaluate"]
    assert not error
    lines = {line.split()[0]: line for line in printed.splitlines() if line}
    share = float(metrics(folder)[-1]["accuracy/largest"])
    assert f"{100 * share:.1f} %" in lines["largest"]


def test_the_table_tells_the_accuracies_of_evaluate(runs):
    _, _, told = runs
    trained, evaluated = (
        {line.split()[0]: line.split() for line in told[call][0].splitlines() if "x1k" in line}
        for call in ("again", "evaluate")
    )
    assert trained.keys() == evaluated.keys() >= {"smallest", "largest"}
    for tier, cells in trained.items():
        # Columns: tier, architecture, parameters, MACs, accuracy, %, calibrated, %, bytes, unit.
        assert cells[4:8] == evaluated[tier][4:8]
