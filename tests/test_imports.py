"""Imports run one way: fedsup_tf <- tflite <- tff_programs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
FORBIDDEN = {
    "fedsup_tf": {"tflite", "tff_programs", "tensorflow_federated"} | PICKLES,
    "tflite": {"tff_programs", "tensorflow_federated"} | PICKLES,
    "tff_programs": PICKLES,
    "tests": PICKLES,
}


def imported(source: str) -> set[str]:
    """Top-level names of the packages that the source imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_imported_finds_every_form_of_import():
    source = "import a.b as c, d\nfrom e.f import g\nfrom . import h\ndef i():\n    import j\n"
    assert imported(source) == {"a", "d", "e", "j"}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_import_runs_backwards(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name in imported(path.read_text(encoding="utf-8")) & FORBIDDEN[package]
    }
    assert not found


def test_the_supernet_loads_no_tensorflow_federated():
    program = "import sys, fedsup_tf.supernet; print('tensorflow_federated' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.strip() == "False", result.stderr
