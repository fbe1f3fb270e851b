"""States on disk: the newest that is whole is loaded, the rest is said."""

import asyncio
import os
import pathlib
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import tensorflow as tf

from tff_programs.simulation.run_state import RunStateManager, saving


def state_of(number):
    return OrderedDict(weights=np.full((3, 4), number, np.float32), done=np.int32(number))


def run(coroutine):
    return asyncio.run(coroutine)


@pytest.fixture
def saved(tmp_path):
    """A folder with the states of rounds 2 and 3, a manager of it and what it tells."""
    lines = []
    folder = tmp_path / "state"
    manager = RunStateManager(str(folder), lines.append)
    for number in (1, 2, 3):
        run(manager.save(state_of(number), number))
    return folder, manager, lines


def assert_loads(manager, number):
    state, version = run(manager.load_latest(state_of(0)))
    assert version == number
    np.testing.assert_array_equal(state["weights"], state_of(number)["weights"])
    assert state["done"] == number


def test_the_newest_two_states_are_kept(saved):
    folder, manager, lines = saved
    names = [f"program_state_{number}{end}" for number in (2, 3) for end in ("", ".sha256")]
    assert sorted(os.listdir(folder)) == names
    assert_loads(manager, 3)
    assert not lines


def test_without_states_there_is_none(tmp_path):
    manager = RunStateManager(str(tmp_path / "state"), print)
    assert run(manager.load_latest(state_of(0))) == (None, 0)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, pathlib.Path.unlink])
@pytest.mark.parametrize("has_hash", [True, False])
def test_a_damaged_newest_state_gives_way_to_the_one_before(saved, damage, has_hash):
    folder, manager, lines = saved
    newest = folder / "program_state_3"
    if has_hash:
        damage(files_of(newest)[0])
    else:
        (folder / "program_state_3.sha256").unlink()
        (newest / "saved_model.pb").unlink()
    assert_loads(manager, 2)
    (line,) = lines
    assert "The state of round 3 in" in line
    assert "the run continues after round 2" in line
    # The round is made and saved again.
    run(manager.save(state_of(3), 3))
    assert_loads(manager, 3)
    assert len(lines) == 1


def test_a_state_without_its_hash_is_loaded(saved):
    folder, manager, lines = saved
    (folder / "program_state_3.sha256").unlink()
    assert_loads(manager, 3)
    assert not lines


def test_a_state_of_another_form_is_not_loaded(saved):
    _, manager, _ = saved
    other = OrderedDict(weights=np.zeros((3, 5), np.float32), done=np.int32(0))
    with pytest.raises(ValueError, match=r"damaged ones alone.*round 3: expected float32 \(3, 5\)"):
        run(manager.load_latest(other))


def test_all_states_damaged_is_an_error_and_no_new_run(saved):
    folder, manager, _ = saved
    for number in (2, 3):
        flip(files_of(folder / f"program_state_{number}")[0])
    with pytest.raises(ValueError, match=r"damaged ones alone.*round 3.*round 2.*another --out"):
        run(manager.load_latest(state_of(0)))
    assert {"program_state_2", "program_state_3"} <= set(os.listdir(folder))


_FILL = """
import asyncio, sys
import numpy as np
from tff_programs.simulation.run_state import RunStateManager
folder = sys.argv[1] + "/state"
manager = RunStateManager(folder, print)
asyncio.run(manager.save(np.zeros(1000, np.float32), 1))
try:
    asyncio.run(manager.save(np.zeros(3_000_000, np.float32), 2))
except OSError as error:
    print(error)
_, version = asyncio.run(manager.load_latest(np.zeros(1000, np.float32)))
print(version)
"""


@pytest.mark.slow
def test_a_full_disk_while_a_state_is_saved_is_one_sentence(tmp_path):
    script = 'mount -t tmpfs -o size=2m none "$1" && "$2" -c "$3" "$1" && ls "$1/state"'
    enter = ("unshare", "--user", "--map-root-user", "--mount")
    result = subprocess.run(
        [*enter, "sh", "-c", script, "sh", tmp_path, sys.executable, _FILL],
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, result.stderr
    sentence, version, *names = result.stdout.splitlines()
    assert sentence == (
        f"Could not save the state of round 2 in '{tmp_path}/state': No space left on device. What "
        "was saved before is kept: make room, or mend the folder, and repeat the command."
    )
    assert version == "1"
    assert names == ["program_state_1", "program_state_1.sha256"]


def test_an_error_of_the_computation_is_not_one_of_saving():
    with pytest.raises(ValueError, match="of its own"), saving("path", "the state"):
        raise ValueError("of its own")
    error = tf.errors.PermissionDeniedError(None, None, "not yours; really")
    with pytest.raises(OSError, match="save the state in 'path': not yours"):
        with saving("path", "the state"):
            raise error
