"""Tests that files are written completely or not at all, and only regular files are replaced."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from fedsup_tf.files import atomic_write


def contents(folder):
    return sorted(entry.name for entry in folder.iterdir())


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def make_loop(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (make_pipe, "received a named pipe"),
        (make_socket, "received a socket"),
        (make_loop, "received a symbolic link"),
        (pathlib.Path.mkdir, "received a folder's"),
        (lambda path: path.symlink_to("/dev/null"), "received a device"),
    ],
)
def test_what_is_no_regular_file_is_refused_and_stays(tmp_path, make, told):
    path = tmp_path / "out"
    make(path)
    before = os.lstat(path)
    with pytest.raises(ValueError, match=f"out'.*expected.*{told}.*Choose another path"):
        atomic_write.write_text(path, "new")
    assert os.lstat(path).st_ino == before.st_ino
    assert os.lstat(path).st_mode == before.st_mode
    assert contents(tmp_path) == ["out"]


def test_a_device_itself_is_refused():
    with pytest.raises(ValueError, match=r"'/dev/null': expected a regular file.*a device"):
        atomic_write.write_bytes("/dev/null", b"new")


def test_an_output_that_is_an_input_is_refused(tmp_path):
    (tmp_path / "supernet").write_text("weights")
    (tmp_path / "link").symlink_to(tmp_path / "supernet")
    for path in ("supernet", "link", "../" + tmp_path.name + "/supernet"):
        with pytest.raises(ValueError, match="expected another file than the input"):
            atomic_write.check_outputs([tmp_path / "new", tmp_path / path], [tmp_path / "supernet"])
    atomic_write.check_outputs([tmp_path / "new"], [tmp_path / "supernet"])


def test_a_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("old")
    (tmp_path / "link").symlink_to("there/file")
    atomic_write.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "new"
    assert contents(tmp_path / "there") == ["file"]


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("old")
    told = f"expected a folder at '{tmp_path}/file', received a regular file"
    with pytest.raises(ValueError, match=told):
        atomic_write.write_text(tmp_path / "file" / "deep" / "out", "new")
    with pytest.raises(ValueError, match=told):
        atomic_write.make_folder(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"


def test_missing_folders_are_made(tmp_path):
    atomic_write.write_text(tmp_path / "a" / "b" / "out", "new")
    assert (tmp_path / "a" / "b" / "out").read_text() == "new"
    assert atomic_write.make_folder(tmp_path / "c")
    assert not atomic_write.make_folder(tmp_path / "c")


# Writes to a file system of one megabyte, or to a read-only one.
_WRITE = """
import sys
from fedsup_tf.files import atomic_write
try:
    atomic_write.write_bytes(sys.argv[1] + "/out", bytes(int(sys.argv[2])))
except (ValueError, OSError) as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("size=1m", "/out': No space left on device. What was there before is unchanged"),
        ("ro", "expected a folder that can be written"),
    ],
)
def test_a_disk_that_takes_nothing_is_one_sentence(tmp_path, options, told):
    script = (
        f'mount -t tmpfs -o {options} none "$1" && "$2" -c "$3" "$1" 5000000 && ls -A "$1" | wc -l'
    )
    enter = ("unshare", "--user", "--map-root-user", "--mount")
    result = subprocess.run(
        [*enter, "sh", "-c", script, "sh", tmp_path, sys.executable, _WRITE],
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    sentence, entries = result.stdout.splitlines()
    assert told in sentence
    assert entries == "0"


_WRITE_FOREVER = """
import sys, time
from fedsup_tf.files import atomic_write
def write(path):
    with open(path, "w") as file:
        file.write("half")
        file.flush()
        print("half", flush=True)
        time.sleep(600)
atomic_write.replace_file(sys.argv[1], write)
"""


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    path = tmp_path / "out.json"
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITE_FOREVER, path],
        cwd=pathlib.Path(__file__).parents[3],
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    # The temporary file of another writer is not removed while that writer lives.
    atomic_write.write_text(path, "first")
    assert len(contents(tmp_path)) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    atomic_write.write_text(tmp_path / "other", "of another file")
    assert len(contents(tmp_path)) == 3
    atomic_write.write_text(path, "second")
    assert contents(tmp_path) == ["other", "out.json"]
    assert path.read_text() == "second"


def test_files_that_only_look_left_over_to_people_stay(tmp_path):
    for name in (".12345678", ".1234567g.out", "12345678.out", ".config"):
        (tmp_path / name).write_text("kept")
    (tmp_path / ".12345678.out").mkdir()
    before = contents(tmp_path)
    atomic_write.remove_left_over(tmp_path)
    assert contents(tmp_path) == before


def test_an_error_of_the_writer_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "out"
    path.write_text("old")

    def write(temporary):
        pathlib.Path(temporary).write_text("half")
        raise KeyError("writer")

    with pytest.raises(KeyError):
        atomic_write.replace_file(path, write)
    assert path.read_text() == "old"
    assert contents(tmp_path) == ["out"]
