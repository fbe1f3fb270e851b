"""Tests of states on disk: the newest intact one is loaded, damaged ones are reported."""

import asyncio
import hashlib
import os
import pathlib
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.common_libs.serializable import Serializable

from tff_programs.simulation.run_state import RunStateManager, saving


def state_of(number):
    return OrderedDict(weights=np.full((3, 4), number, np.float32), done=np.int32(number))


def run(coroutine):
    return asyncio.run(coroutine)


@pytest.fixture
def saved(tmp_path):
    """Returns a folder with the states of rounds 2 and 3, its manager and its messages."""
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
    assert sorted(os.listdir(folder)) == ["round_2.safetensors", "round_3.safetensors"]
    assert run(manager.get_versions()) == [2, 3]
    assert_loads(manager, 3)
    assert not lines


def test_without_states_there_is_none(tmp_path):
    manager = RunStateManager(str(tmp_path / "state"), print)
    assert run(manager.load_latest(state_of(0))) == (None, 0)


def test_what_is_saved_is_loaded_in_its_structure_and_type(tmp_path):
    manager = RunStateManager(str(tmp_path / "state"), print)
    state = (
        OrderedDict(weights=(np.float32([1, np.nan]), np.zeros((0, 2), np.int64)), empty=()),
        [True, np.float64(0.1), Draws(7)],
    )
    run(manager.save(state, 1))
    loaded, version = run(manager.load_latest(state))
    assert version == 1
    (weights, none), empty = loaded[0]["weights"], loaded[0]["empty"]
    assert weights.tobytes() == state[0]["weights"][0].tobytes()
    assert (none.shape, none.dtype, empty) == ((0, 2), np.int64, ())
    assert (loaded[1][0], loaded[1][1], loaded[1][2].number) == (True, 0.1, 7)


class Draws(Serializable):
    """Value that is saved as bytes, like the clients' iterator."""

    def __init__(self, number):
        self.number = number

    def to_bytes(self):
        return str(self.number).encode()

    @classmethod
    def from_bytes(cls, data):
        return cls(int(data))


def test_a_round_is_saved_once(saved):
    _, manager, _ = saved
    with pytest.raises(tff.program.ProgramStateExistsError):
        run(manager.save(state_of(3), 3))


def test_all_states_are_removed(saved):
    folder, manager, _ = saved
    run(manager.remove_all())
    assert not os.listdir(folder)
    with pytest.raises(tff.program.ProgramStateNotFoundError):
        run(manager.load(3, state_of(0)))


def test_states_that_tff_saved_for_earlier_versions_are_loaded_and_replaced(tmp_path):
    lines = []
    earlier = tff.program.FileProgramStateManager(str(tmp_path))
    for number in (1, 2):
        run(earlier.save(state_of(number), number))
        state = tmp_path / f"program_state_{number}"
        # As earlier versions wrote it: a line per file with its path and hash.
        digest = hashlib.sha256()
        for path, folders, names in os.walk(state):
            folders.sort()
            for file in (pathlib.Path(path, name) for name in sorted(names)):
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(f"{file.relative_to(state)}\n{content}\n".encode())
        (tmp_path / f"program_state_{number}.sha256").write_text(digest.hexdigest())
    manager = RunStateManager(str(tmp_path), lines.append)
    assert_loads(manager, 2)
    run(manager.save(state_of(3), 3))
    assert sorted(os.listdir(tmp_path)) == [
        "program_state_2",
        "program_state_2.sha256",
        "round_3.safetensors",
    ]
    cut(tmp_path / "round_3.safetensors")
    assert_loads(manager, 2)
    assert len(lines) == 1
    flip(tmp_path / "program_state_2" / "saved_model.pb")
    with pytest.raises(ValueError, match=r"damaged ones alone \(round 2: its files are not those"):
        run(manager.load_latest(state_of(0)))


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def flip_header(path):
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, flip_header, cut, empty])
def test_a_damaged_newest_state_gives_way_to_the_one_before(saved, damage):
    folder, manager, lines = saved
    damage(folder / "round_3.safetensors")
    assert_loads(manager, 2)
    (line,) = lines
    assert "The state of round 3 in" in line
    assert "the run continues after round 2" in line
    # The round is run and saved again.
    run(manager.save(state_of(3), 3))
    assert_loads(manager, 3)
    assert len(lines) == 1


def test_a_state_of_another_form_is_not_loaded(saved):
    _, manager, _ = saved
    other = OrderedDict(weights=np.zeros((3, 5), np.float32), done=np.int32(0))
    with pytest.raises(ValueError, match=r"damaged ones alone.*round 3: expected float32 \(3, 5\)"):
        run(manager.load_latest(other))


def test_all_states_damaged_is_an_error_and_no_new_run(saved):
    folder, manager, _ = saved
    for number in (2, 3):
        flip(folder / f"round_{number}.safetensors")
    with pytest.raises(ValueError, match=r"damaged ones alone.*round 3.*round 2.*another --out"):
        run(manager.load_latest(state_of(0)))
    assert sorted(os.listdir(folder)) == ["round_2.safetensors", "round_3.safetensors"]


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
    assert names == ["round_1.safetensors"]


def test_an_error_of_the_computation_is_not_one_of_saving():
    with pytest.raises(ValueError, match="of its own"), saving("path", "the state"):
        raise ValueError("of its own")
    error = tf.errors.PermissionDeniedError(None, None, "not yours; really")
    with pytest.raises(OSError, match="save the state in 'path': not yours"):
        with saving("path", "the state"):
            raise error
