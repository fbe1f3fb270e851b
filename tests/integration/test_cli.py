"""Tests of the console command: quick help and clear refusals."""

import io
import os
import subprocess
import sys
import types
from pathlib import Path

import programs
import pytest

from tff_programs.programs.cli import PROGRAMS, main

# The command that the package installs.
COMMAND = Path(sys.executable).with_name("fedsup")
# Calls and the messages that they print.
BAD_CALLS = {
    ("train",): "Expected --out",
    ("train", "--out=x", "--rounds=0"): "rounds",
    ("train", "--out=x", "--algorithm=magic"): "algorithm",
    ("train", "--out=x", "--nonsense=1"): "nonsense",
    ("train", "--out=x", "--space=no_such"): "fedsup_cifar, digits_small",
    ("train", "--out=x", "--tiers=huge"): "huge",
    ("evaluate",): "the supernet's file",
    ("evaluate", "no_such.safetensors"): "no_such.safetensors",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Returns exit code, output and errors of calls for help and of bad calls, by arguments."""
    folder = tmp_path_factory.mktemp("calls")
    calls = [*((name, "--help") for name in PROGRAMS), *BAD_CALLS]
    told = dict(zip(calls, programs.run_commands(calls, folder), strict=True))
    assert not list(folder.iterdir())  # No call wrote anything.
    return told


def test_help_names_every_program_without_loading_tensorflow():
    script = (
        "import sys; sys.argv = ['fedsup', '--help'];"
        "from tff_programs.programs.cli import main; main();"
        "print('tensorflow' in sys.modules, 'numpy' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    for name in PROGRAMS:
        assert f"  {name} " in result.stdout
    assert result.stdout.splitlines()[-1] == "False False"


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_lists_its_flags(results, name):
    code, printed, _ = results[name, "--help"]
    assert not code
    assert f"fedsup {name}" in printed
    listed = [line.split(":")[0] for line in printed.splitlines() if line[:4] == "  --"]
    assert listed
    assert len(listed) == len(set(listed))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", BAD_CALLS, ids=" ".join)
def test_bad_calls_are_refused_in_words(results, arguments):
    code, printed, errors = results[arguments]
    # Python prints the text of SystemExit as an error and then exits with 1.
    assert code
    assert BAD_CALLS[arguments] in f"{code}{printed}{errors}"
    assert "Traceback" not in errors


def test_names_that_a_terminal_cannot_show_end_no_program(monkeypatch):
    program = types.SimpleNamespace(main=lambda arguments: print("Zo\u00eb \u65e5"))
    monkeypatch.setitem(sys.modules, "tff_programs.programs.data", program)
    monkeypatch.setattr(sys, "argv", ["fedsup", "data"])
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="latin-1"))
    main()
    sys.stdout.flush()
    assert out.getvalue() == b"Zo\xeb \\u65e5\n"


def run_without_reader(*arguments):
    """Runs `fedsup` with an output that nothing reads; returns its exit code and errors."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed_pipe:
        result = subprocess.run(
            [COMMAND, *arguments],
            stdout=closed_pipe,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    return result.returncode, result.stderr.decode()


def test_help_for_a_reader_that_has_ended_is_no_error():
    assert run_without_reader("--help") == (0, "")


def test_a_program_stops_when_the_reader_of_its_output_has_ended():
    assert run_without_reader("data") == (
        1,
        "fedsup data: stopped, since the program that read its output has ended.\n",
    )


def test_a_refusal_ends_the_process_with_a_sentence():
    result = subprocess.run(
        [COMMAND, "trian"], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 1
    assert "expected a program of demo, train" in result.stderr
    assert "Traceback" not in result.stderr
