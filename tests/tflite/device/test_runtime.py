"""Tests of the choice of a runtime, and that training is the same in all of them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tflite.device import runtime
from tflite.device.runtime import (
    ENVIRONMENT,
    choose_runtime,
    installed_runtimes,
    interpreter_class,
    runtime_version,
)
from tflite.device.trainer import DeviceTrainer

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "tests" / "data" / "first_release"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
ALL = ("tflite_runtime", "ai_edge_litert", "tensorflow")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)


def pretend(monkeypatch, *installed):
    """Makes only the given runtimes appear installed."""
    monkeypatch.setattr(
        runtime.importlib.util, "find_spec", lambda name: object() if name in installed else None
    )


def test_the_first_that_is_installed_is_taken(monkeypatch):
    for start in range(3):
        pretend(monkeypatch, *ALL[start:])
        assert installed_runtimes() == ALL[start:]
        assert choose_runtime() == ALL[start]


def test_another_one_can_be_asked_for(monkeypatch):
    pretend(monkeypatch, *ALL)
    assert choose_runtime("tensorflow") == "tensorflow"
    monkeypatch.setenv(ENVIRONMENT, "ai_edge_litert")
    assert choose_runtime() == "ai_edge_litert"
    assert choose_runtime("tensorflow") == "tensorflow"
    monkeypatch.setenv(ENVIRONMENT, "")
    assert choose_runtime() == "tflite_runtime"


def test_a_runtime_that_is_not_there_is_refused_in_words(monkeypatch):
    pretend(monkeypatch, "ai_edge_litert")
    for name in ("tensorflow", "onnxruntime"):
        told = rf"^runtime: expected .* that are installed, ai_edge_litert; received '{name}'\. "
        with pytest.raises(ValueError, match=told):
            choose_runtime(name)
    monkeypatch.setenv(ENVIRONMENT, "tflite_runtime")
    with pytest.raises(ValueError, match=r"^FEDSUP_RUNTIME: expected .*received 'tflite_runtime'"):
        DeviceTrainer(FOLDER / "smallest.tflite")
    pretend(monkeypatch)
    with pytest.raises(ValueError, match=r"found none of them\. Install one, for"):
        choose_runtime()


@pytest.mark.slow
def test_every_installed_runtime_trains_to_the_same_losses():
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 17, (6, 8, 8, 1)).astype(np.uint8), np.arange(6)
    assert installed_runtimes()
    for name in installed_runtimes():
        assert runtime_version(name)[0].isdigit()
        assert interpreter_class(name).__module__.startswith(name.partition("_")[0])
        trainer = DeviceTrainer(FOLDER / "smallest.tflite", runtime=name)
        np.testing.assert_allclose(trainer.infer(images[:2]), EXPECTED["logits"], atol=1e-6)
        reports = trainer.fit(images, labels, epochs=2, learning_rate=0.05, seed=1)
        losses = [report.loss for report in reports]
        assert losses == pytest.approx(EXPECTED["losses"], abs=1e-6), name


def test_choosing_loads_no_runtime():
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from tflite.device.interpreter import open_interpreter\n"
            "from tflite.device.runtime import choose_runtime\n"
            "choose_runtime()\n"
            f"print({set(ALL)!r} & sys.modules.keys())",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert told.stdout.strip() == "set()"
