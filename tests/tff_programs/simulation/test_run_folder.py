"""Tests of a run's folder: one program at a time, settings never replaced, no leftover files."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tff_programs.simulation.run_folder import hold_run, keep_settings

_HOLD = """
import sys, time
from tff_programs.simulation.run_folder import hold_run
with hold_run(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Yields a process that holds a run's folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, tmp_path / "run"],
        cwd=pathlib.Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_program_is_refused_with_the_first_named(tmp_path, holder):
    told = rf"run'.* is being trained by process {holder.pid} on .*give another --out"
    with pytest.raises(ValueError, match=told), hold_run(str(tmp_path / "run")):
        pass
    assert holder.poll() is None


def test_the_lock_dies_with_its_owner_and_leaves_nothing(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold_run(str(tmp_path / "run")):
        (tmp_path / "run" / "kept").write_text("of the run")
    assert os.listdir(tmp_path / "run") == ["kept"]


def test_a_folder_in_which_nothing_was_written_is_not_left(tmp_path):
    with pytest.raises(KeyError), hold_run(str(tmp_path / "run")):
        raise KeyError("a flag that is refused")
    assert not (tmp_path / "run").exists()
    (tmp_path / "empty").mkdir()
    with hold_run(str(tmp_path / "empty")):
        pass
    assert (tmp_path / "empty").is_dir()


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match="expected a folder"), hold_run(str(tmp_path / "run")):
        pass
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("name", [".lock", "metrics.csv", "state", "tensorboard"])
def test_something_else_in_the_place_of_what_a_run_writes_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}'.* received a named pipe"):
        with hold_run(str(tmp_path)):
            pass


def test_what_killed_programs_left_is_removed_and_nothing_else(tmp_path):
    state = tmp_path / "state"
    (state / "program_state_3_temp1234" / "variables").mkdir(parents=True)
    (state / "program_state_3").mkdir()
    for name in ("metrics.csv_temp77", ".0123abcd.supernet.safetensors"):
        (tmp_path / name).write_text("half")
    kept = ("metrics.csv", "my_temp1", ".hidden", "notes_temp5.txt")
    for name in kept:
        (tmp_path / name).write_text("kept")
    with hold_run(str(tmp_path)):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "state"])
    assert os.listdir(state) == ["program_state_3"]


def test_settings_are_written_once_and_compared_then(tmp_path):
    path = str(tmp_path / "settings.json")
    keep_settings(path, {"rounds": 3, "seed": 0}, False)
    keep_settings(path, {"rounds": 3, "seed": 0}, True)
    with pytest.raises(ValueError, match=r"other settings: --seed was 0, is 1\. Repeat"):
        keep_settings(path, {"rounds": 3, "seed": 1}, True)


def test_own_data_may_be_moved_but_not_changed(tmp_path):
    path = str(tmp_path / "settings.json")
    keep_settings(path, {"dataset": "here", "data_hash": "ab"}, False)
    keep_settings(path, {"dataset": "there", "data_hash": "ab"}, True)
    with pytest.raises(ValueError, match="--data_hash was ab, is cd; --dataset was here, is there"):
        keep_settings(path, {"dataset": "there", "data_hash": "cd"}, True)
    named = tmp_path / "named"
    keep_settings(str(named), {"dataset": "digits"}, False)
    with pytest.raises(ValueError, match="--dataset was digits, is cifar10"):
        keep_settings(str(named), {"dataset": "cifar10"}, True)


def test_a_run_of_other_random_numbers_is_not_continued(tmp_path):
    path = str(tmp_path / "settings.json")
    keep_settings(path, {"seed": 0}, False)
    with pytest.raises(ValueError, match="drew other random numbers from a seed"):
        keep_settings(path, {"seed": 0, "random_streams": 2}, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "expected the settings of the run whose rounds are saved.*found no file"),
        ('{"rounds": 3, "se', "expected"),
        ("", "expected"),
        ("[" * 100_000, "expected"),
        ("\xff\x00", "expected the run's settings"),
        ("[]", "received list"),
    ],
)
def test_settings_that_are_lost_are_not_replaced(tmp_path, text, told):
    path = tmp_path / "settings.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=rf"settings\.json.*{told}.*Put back the file"):
        keep_settings(str(path), {"rounds": 3}, True)
    assert path.exists() == (text is not None)
    if text is not None:
        assert path.read_text(encoding="latin-1") == text
