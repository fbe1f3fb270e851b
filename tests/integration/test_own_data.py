"""Runs the commands of docs/own_data.md, from a folder of pictures to a merged supernet."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors

from tflite.format.metadata import read_metadata

PAGE = Path(__file__).parents[2] / "docs" / "own_data.md"
PROGRAMS = ["data", "train", "search", "export", "device", "merge", "evaluate"]


def first_block(language):
    return re.search(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S).group(1)


@pytest.mark.slow
def test_pictures_of_two_people_go_the_whole_way(tmp_path, run_programs):
    subprocess.run([sys.executable, "-c", first_block("python")], cwd=tmp_path, check=True)
    assert len([path for path in (tmp_path / "shapes").rglob("*") if path.is_file()]) == 181
    # Two rounds instead of 20, and two nets per step instead of three, run the same code.
    commands, count = re.subn(r"--rounds=\d+", "--rounds=2 --sandwich=2", first_block("bash"))
    assert count == 1
    calls = [line.split()[3:] for line in commands.splitlines()]
    assert [call[0] for call in calls] == PROGRAMS
    results = run_programs(calls, tmp_path)
    told = {}
    for name, (printed, error) in zip(PROGRAMS, results, strict=True):
        assert not error, f"{name}: {error}"
        told[name] = printed
    assert "clients             2" in told["data"]
    assert "natural partition" in told["data"]
    metadata = read_metadata(tmp_path / "runs/shapes.tflite")
    assert metadata.class_names == ("circle", "square", "triangle")
    read = ("greatest_pixel", "resize", "background")
    assert [metadata.preprocessing[name] for name in read] == [255, "crop", "white"]
    assert "client bob of shapes" in told["device"]
    with safetensors.safe_open(tmp_path / "runs/shapes_merged.safetensors", "numpy") as file:
        merged = file.metadata()["fedsup-tf"]
    assert all(name in merged for name in metadata.class_names)
    assert "shapes: 36 test images, 2 clients" in told["evaluate"]
