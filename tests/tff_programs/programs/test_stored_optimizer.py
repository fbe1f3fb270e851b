"""Tests of the server's optimizer with stored state: its steps, and its state between calls."""

import numpy as np
import pytest
from spaces import SPACE

from fedsup_tf.files.reading import InvalidFileError
from fedsup_tf.supernet import Supernet
from tff_programs.programs.stored_optimizer import StoredOptimizer

SUPERNET = Supernet(SPACE)
WEIGHTS = SUPERNET.values_by_name()
NETS = [SPACE.smallest(), SPACE.smallest()]
RNG = np.random.default_rng(0)
DELTAS = [
    {name: RNG.normal(size=value.shape).astype(np.float32) for name, value in WEIGHTS.items()}
    for _ in range(3)
]


def steps(optimizer, weights, deltas):
    for delta in deltas:
        merged = {name: value + delta[name] for name, value in weights.items()}
        weights = optimizer.step(weights, merged, NETS)
    return weights


def trained_entries():
    covered = {name: np.zeros(value.shape, bool) for name, value in WEIGHTS.items()}
    for name, part in SUPERNET.slices(SPACE.smallest()).items():
        covered[name][part.indices()] = True
    return covered


def test_nesterov_moves_the_entries_that_were_trained():
    optimizer = StoredOptimizer({"server_optimizer": "nesterov"}, SUPERNET)
    found = steps(optimizer, WEIGHTS, DELTAS)
    for name, covered in trained_entries().items():
        weights, momentum = WEIGHTS[name].astype(np.float64), 0.0
        for delta in DELTAS:
            momentum = 0.9 * momentum - delta[name]
            weights = weights - 0.3 * (-delta[name] + 0.9 * momentum)
        np.testing.assert_allclose(found[name][covered], weights[covered], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found[name][~covered], WEIGHTS[name][~covered])


def test_without_an_optimizer_the_mean_update_is_added(tmp_path):
    optimizer = StoredOptimizer({}, SUPERNET)
    merged = {name: value + DELTAS[0][name] for name, value in WEIGHTS.items()}
    assert optimizer.step(WEIGHTS, merged, NETS) == merged
    optimizer.write(tmp_path / "state")
    optimizer.read(tmp_path / "state")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["nesterov", "sgdm", "adam"])
def test_the_state_goes_on_where_it_was_saved(tmp_path, name):
    settings = {"server_optimizer": name, "server_learning_rate": None, "server_momentum": 0.5}
    whole = steps(StoredOptimizer(settings, SUPERNET), WEIGHTS, DELTAS)
    first = StoredOptimizer(settings, SUPERNET)
    half = steps(first, WEIGHTS, DELTAS[:2])
    first.write(tmp_path / "state")
    second = StoredOptimizer(settings, SUPERNET)
    second.read(tmp_path / "state")
    found = steps(second, half, DELTAS[2:])
    for tensor, value in whole.items():
        assert value.tobytes() == found[tensor].tobytes(), tensor


def test_a_state_that_is_lost_or_of_another_optimizer_is_refused(tmp_path):
    StoredOptimizer({"server_optimizer": "adam"}, SUPERNET).write(tmp_path / "state")
    other = StoredOptimizer({"server_optimizer": "sgdm"}, SUPERNET)
    for name, told in (("state", "A server's optimizer: expected"), ("lost", "found none")):
        with pytest.raises(InvalidFileError, match=f"{name}.*{told}"):
            other.read(tmp_path / name)
