"""The console command: quick help, clear refusals."""

import subprocess
import sys

import commands
import pytest

from tff_programs.programs.cli import PROGRAMS


def fedsup(*arguments):
    return subprocess.run(
        commands.fedsup(*arguments),
        capture_output=True,
        text=True,
        check=False,
    )


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


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_lists_its_flags(name):
    result = fedsup(name, "--help")
    assert result.returncode == 0, result.stderr
    assert f"fedsup {name}" in result.stdout
    listed = [line.split(":")[0] for line in result.stdout.splitlines() if line[:4] == "  --"]
    assert listed
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian"], "expected a program of demo, train"),
        (["train"], "Expected --out"),
        (["train", "--out=x", "--rounds=0"], "rounds"),
        (["train", "--out=x", "--algorithm=magic"], "algorithm"),
        (["train", "--out=x", "--nonsense=1"], "nonsense"),
        (["train", "--out=x", "--space=no_such"], "fedsup_cifar, digits_small"),
        (["train", "--out=x", "--tiers=huge"], "huge"),
        (["evaluate"], "the supernet's file"),
        (["evaluate", "no_such.safetensors"], "no_such.safetensors"),
    ],
)
def test_bad_calls_are_refused_in_words(tmp_path, arguments, told):
    arguments = [a.replace("--out=x", f"--out={tmp_path / 'x'}") for a in arguments]
    result = fedsup(*arguments)
    assert result.returncode != 0
    assert told in result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "x").exists()
