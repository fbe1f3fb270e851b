"""Tests that library code neither prints nor reads flags, but uses arguments and callbacks."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tff_programs.programs.cli import PROGRAMS

ROOT = Path(__file__).parents[2]
# Child processes, whose output the parent process reads.
CHILD_PROCESSES = {"tflite/profiling/engine_worker.py", "tflite/profiling/memory_probe.py"}


def library_files():
    """Returns the paths and syntax trees of all modules except programs and child processes."""
    for package in ("fedsup_tf", "tflite", "tff_programs"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name not in CHILD_PROCESSES:
                yield name, ast.parse(path.read_text(encoding="utf-8"))


def test_only_programs_print():
    found = {
        name
        for name, tree in library_files()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "print"
        # A line to another process is not output.
        and not any(keyword.arg == "file" for keyword in node.keywords)
    }
    programs = {f"tff_programs/programs/{name}.py" for name in (*PROGRAMS, "cli", "console")}
    assert found <= programs


def test_no_module_has_global_flags():
    found = {
        name
        for name, tree in library_files()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "flags.FLAGS"
    }
    assert not found


@pytest.mark.slow
def test_programs_import_together_and_define_no_flags_of_the_process():
    script = (
        "import importlib\n"
        "from absl import flags\n"
        "from tff_programs.programs.cli import PROGRAMS\n"
        "modules = [importlib.import_module('tff_programs.programs.' + n) for n in PROGRAMS]\n"
        "from tff_programs.programs.flags.program_flags import ProgramFlags\n"
        "train, demo = (ProgramFlags(modules[n].define_flags) for n in (1, 0))\n"
        "print([m for m in flags.FLAGS.flags_by_module_dict() if 'tff_' in m])\n"
        "print(train['epochs'].default)\n"
        "print(demo['epochs'].default)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:3] == ["[]", "1", "3"]
