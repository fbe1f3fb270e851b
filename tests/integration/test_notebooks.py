"""Tests that each notebook runs from top to bottom and is committed with its outputs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import programs
import pytest

# Numbers of repetitions in notebooks, and their replacements in the test.
FEWER = {
    r"\bROUNDS = \d+": "ROUNDS = 2",
    r"\bLocalTraining\(epochs=\d+": "LocalTraining(epochs=1",
    # The received net and the smallest one, but no random one.
    r"\bsandwich=3": "sandwich=2",
    r"\bplan_rounds\(1000": "plan_rounds(50",
    r"--rounds=\d+": "--rounds=2 --sandwich=2",
    r"--epochs=\d+": "--epochs=1",
    r"--generations=\d+": "--generations=2",
    r"--population=\d+": "--population=4",
    r"--parents=\d+": "--parents=2",
}
# A kernel waits until the fork server for all programs has imported its modules.
ARGUMENTS = ("--inplace", "--kernel_name=forked", "--startup_timeout=1000")
NOTEBOOKS = sorted((Path(__file__).parents[2] / "tff_programs" / "notebooks").glob("*.ipynb"))


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_with_its_outputs(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert all(output["output_type"] != "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)


def shortened(text):
    """Returns a notebook's text with fewer repetitions."""
    counts = []
    for pattern, replacement in FEWER.items():
        text, count = re.subn(pattern, replacement, text)
        counts.append(count)
    assert any(counts)
    return text


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, tmp_path):
    copy = tmp_path / path.name
    copy.write_text(shortened(path.read_text(encoding="utf-8")), encoding="utf-8")
    kernel = tmp_path / "kernels" / "forked"
    kernel.mkdir(parents=True)
    specification = {"argv": [str(tmp_path / "kernel"), "-f", "{connection_file}"]}
    specification |= {"display_name": "Python", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(specification))
    with programs.Commands(tmp_path):
        result = subprocess.run(
            [Path(sys.executable).with_name("jupyter-execute"), *ARGUMENTS, copy.name],
            cwd=tmp_path,
            env={**os.environ, "JUPYTER_PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=3000,
        )
    assert result.returncode == 0, result.stderr[-3000:]
    # A cell does not fail if one of its commands fails.
    text = copy.read_text(encoding="utf-8")
    assert "fedsup train: " not in text
    assert "Traceback" not in text
    assert "does not hold" not in text
