"""Tests that a program removes the temporary files of killed ones."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from fedsup_tf.files.temporary_folder import own_temporary_folder

HOLD = """
import tempfile, time
from fedsup_tf.files.temporary_folder import own_temporary_folder
with own_temporary_folder():
    tempfile.mkstemp()
    print(tempfile.mkdtemp(), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def system_folder(tmp_path, monkeypatch):
    """Returns a folder that replaces the system's folder for temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_temporary_files_are_removed_at_the_end(system_folder):
    def fail():
        with own_temporary_folder() as folder:
            assert os.environ["TMPDIR"] == folder == tempfile.gettempdir()
            tempfile.mkstemp()
            assert list(system_folder.iterdir())
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        fail()
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(system_folder)
    assert not list(system_folder.iterdir())


def test_those_of_a_killed_program_are_removed_and_of_a_running_one_stay(system_folder):
    (system_folder / "fedsup-temporary-link1234").symlink_to(tempfile.mkdtemp(prefix="other"))
    others = set(system_folder.iterdir())
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as held:
        folder = held.stdout.readline().strip()
        with own_temporary_folder():
            assert os.path.isdir(folder)
        held.send_signal(signal.SIGKILL)
    assert os.path.isdir(folder)
    with own_temporary_folder():
        assert not os.path.exists(folder)
    assert set(system_folder.iterdir()) == others
