"""Tests of trainings that start from another's weights and resume (docs/laws.md, law 6)."""

import json

import numpy as np
import pytest

from fedsup_tf.files.checkpoint import read_tensors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory, run_programs, trained_path):
    """Returns supernets by run, and the output and error of each call."""
    folder = tmp_path_factory.mktemp("runs")
    initial = f"--initial={trained_path}"

    def arguments(folder, rounds, *more):
        few = ["--clients=6", "--clients_per_round=2", "--tiers=smallest,largest"]
        few += ["--sandwich=1", "--nocalibrated_accuracy"]
        space = f"--space={trained_path.parents[1] / 'space.json'}"
        return ["train", f"--out={folder}", space, f"--rounds={rounds}", *few, *more]

    nothing = "--availability=1e-9"
    calls = {
        "begun": arguments(folder / "begun", 1, initial, nothing, "--averaging=0.9"),
        "whole": arguments(folder / "whole", 2, initial, "--seed=3"),
        "half": arguments(folder / "parted", 1, initial, "--seed=3"),
        "parted": arguments(folder / "parted", 2, initial, "--seed=3"),
        "other": arguments(folder / "parted", 3, "--seed=3"),
        "missing": arguments(folder / "missing", 1, f"--initial={folder / 'none'}"),
    }
    told = dict(zip(calls, run_programs(list(calls.values())), strict=True))
    weights = {
        name: read_tensors(folder / name / "supernet.safetensors", "supernet")
        for name in ("begun", "whole", "parted")
    }
    weights["first"] = read_tensors(trained_path, "supernet")
    return weights, told


def test_a_training_begins_with_the_other_ones_weights(runs):
    weights, told = runs
    printed, error = told["begun"]
    assert not error
    assert f"Initial weights: {len(weights['first'][0])} of" in printed
    for name, value in weights["first"][0].items():
        np.testing.assert_array_equal(weights["begun"][0][name], value)


def test_a_training_that_was_broken_off_ends_as_a_whole_one(runs):
    weights, told = runs
    assert "Initial weights" in told["half"][0]
    assert "Initial weights" not in told["parted"][0]
    for name, value in weights["whole"][0].items():
        assert value.tobytes() == weights["parted"][0][name].tobytes(), name
    begun, trained = weights["first"][0], weights["whole"][0]
    assert any((value != begun[name]).any() for name, value in trained.items())


def test_the_weights_are_a_setting_of_the_run(runs):
    weights, told = runs
    kept = weights["whole"][1]["information"]["settings"]
    assert len(kept["initial"]) == 64
    assert json.loads(kept["space"])["name"] == "tiny"
    assert "--initial was" in told["other"][1]


def test_a_file_that_is_not_there_is_named(runs):
    _, told = runs
    assert "none'" in told["missing"][1]
