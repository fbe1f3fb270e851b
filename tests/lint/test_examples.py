"""Tests that examples in docstrings run, and that the most used names have one."""

import doctest
import importlib
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "tests" / "data" / "first_release"

# Names whose docstring must have an example, by module.
REQUIRED = {
    "fedsup_tf.architecture": {"Architecture"},
    "fedsup_tf.data.datasets": {"load_dataset"},
    "fedsup_tf.data.partition": {"partition"},
    "fedsup_tf.data.preprocessing": {"Preprocessing"},
    "fedsup_tf.search.budget": {"Budget", "CostModel"},
    "fedsup_tf.search.evolution": {"search_architectures"},
    "fedsup_tf.slicing": {"take", "scatter"},
    "fedsup_tf.space": {"SearchSpace"},
    "fedsup_tf.supernet": {"Supernet"},
    "tflite.device.trainer": {"DeviceTrainer"},
}


def modules_with_examples():
    """Returns the names of our modules with an example in their source."""
    paths = [path for package in ("fedsup_tf", "tflite") for path in (ROOT / package).rglob("*.py")]
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in paths
        if ">>> " in path.read_text(encoding="utf-8")
    )


def test_the_most_used_names_are_in_modules_with_examples():
    assert set(modules_with_examples()) >= REQUIRED.keys()


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_of_a_module_run(name, tmp_path, monkeypatch):
    shutil.copy(EXAMPLES / "smallest.tflite", tmp_path)
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(verbose=False)
    tests = [
        test
        for test in doctest.DocTestFinder().find(importlib.import_module(name))
        if test.examples
    ]
    shown = {test.name.removeprefix(f"{name}.") for test in tests}
    assert shown >= REQUIRED.get(name, set())
    for test in tests:
        # Examples must import what they use, as readers have to.
        test.globs = {}
        report = []
        runner.run(test, out=report.append)
        assert not report, "".join(report)
