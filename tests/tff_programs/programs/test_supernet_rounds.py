"""Tests of a gateway's server side: its optimizer continues, its noise is drawn once."""

import dataclasses
import functools
import json
import math
import pathlib
import shutil
import types

import numpy as np
import pytest
from spaces import SPACE

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators.privacy import PrivacyAccount
from tff_programs.programs import supernet_rounds
from tff_programs.programs.round_privacy import RoundPrivacy
from tff_programs.programs.stored_optimizer import StoredOptimizer
from tff_programs.programs.supernet_rounds import SupernetRounds, WorkSettings
from tff_programs.simulation.tiers import default_tiers
from tflite.format.update_file import DeviceUpdate, write_update
from tflite.merge.cohort import CohortLimits
from tflite.merge.merge import merge_updates
from tflite.merge.received_updates import subnet_shapes

NETS = [SPACE.smallest(), SPACE.largest(), SPACE.smallest()]
MERGING = {"aggregation": "coverage", "weighting": "uniform"}
TRAINING_PRIVACY = {"epsilon": 3.5, "delta": 0.001}
NESTEROV = {"server_optimizer": "nesterov", "server_learning_rate": 0.5, "server_momentum": 0.9}


@functools.cache
def trained():
    supernet = Supernet(SPACE)
    return types.SimpleNamespace(
        supernet=supernet,
        weights=supernet.values_by_name(),
        information={"round": 3, "class_names": ["0", "1", "2"], "privacy": TRAINING_PRIVACY},
        preprocessing=Preprocessing((128.0,), (64.0,)),
        data=types.SimpleNamespace(dataset=None),
        _replace=lambda **changes: None,
    )


@pytest.fixture
def work(tmp_path):
    """Returns a function that makes the work of a new process."""
    tiers, made = default_tiers(SPACE, 0), []

    def make(merging=MERGING, **settings):
        settings = WorkSettings(tiers, LocalTraining(), merging, **settings)
        made.append(SupernetRounds(trained(), str(tmp_path), settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def private(**changes):
    account = PrivacyAccount(2.0, 1e-5, 3, 1000, sampled=False)
    return RoundPrivacy(**{"account": account, "clip_norm": 0.5, "secret": b"s" * 32, **changes})


def updates(folder, base, size=0.01):
    paths = []
    for number, architecture in enumerate(NETS):
        rng = np.random.default_rng([base.number, number])
        delta = {
            name: size * rng.normal(size=shape).astype(np.float32)
            for name, shape in subnet_shapes(trained().supernet, architecture).items()
        }
        path = str(folder / f"{base.number}-{number}.safetensors")
        write_update(path, DeviceUpdate(delta, architecture, base.hash, base.number, 5, 1.0, 0.5))
        paths.append(path)
    return paths


def load(folder, base):
    return Supernet.load_checkpoint(folder / base.folder / "supernet.safetensors", SPACE)[0]


def merge(made, base, paths, round_id):
    return made.merge(base, paths, {}, (), round_id).base


@pytest.mark.slow
def test_the_servers_optimizer_goes_on_in_whichever_process(tmp_path, work):
    base = work(optimizer=NESTEROV).begin()
    optimizer, weights = StoredOptimizer(NESTEROV, trained().supernet), trained().weights
    for round_id in (1, 2, 3):
        paths = updates(tmp_path, base)
        # A new process merges each round, and the second round again after a kill.
        for _ in range(round_id):
            following = merge(work(optimizer=NESTEROV), base, paths, round_id)
        expected = Supernet(SPACE)
        expected.assign_weights(weights)
        merge_updates(expected, base.hash, paths, **MERGING)
        weights = optimizer.step(weights, expected.values_by_name(), NETS)
        assert following.hash == fingerprint(weights), round_id
        base = following
    assert base.number == 6


@pytest.mark.slow
def test_a_private_round_clips_and_draws_its_noise_once(tmp_path, work):
    first = work(privacy=private())
    base = first.begin()
    paths = updates(tmp_path, base, size=10.0)
    made = merge(first, base, paths, 7)
    assert merge(work(privacy=private()), base, paths, 7).hash == made.hash
    assert merge(first, base, paths, 8).hash != made.hash
    assert merge(work(privacy=private(secret=b"t" * 32)), base, paths, 7) != made
    clipped = Supernet(SPACE)
    clipped.assign_weights(trained().weights)
    merge_updates(clipped, base.hash, paths, clip_norm=0.5, limits=None, **MERGING)
    after, mean = load(tmp_path, made).values_by_name(), clipped.values_by_name()
    smallest = trained().supernet.slices(SPACE.smallest())
    noise = []
    for name, value in after.items():
        counts = np.ones(value.shape)
        part = smallest[name]
        counts[part.indices()] += 2
        noise.append(((value - mean[name]) * counts).ravel())
    noise = np.concatenate(noise)
    # Noise multiplier 2 times norm 0.5, within five standard errors.
    assert noise.std() == pytest.approx(1.0, rel=5 / math.sqrt(2 * noise.size))
    report = json.loads((tmp_path / made.folder / "merge.json").read_text())
    assert report["epsilon"] == pytest.approx(private().account.epsilon_after(7))
    assert report["training_privacy"] == TRAINING_PRIVACY
    assert report["limits"] is None


def test_a_budget_that_is_spent_lets_the_rounds_rest_and_loses_nothing(tmp_path, work):
    account = private().account
    budget = private(max_epsilon=account.epsilon_after(2))
    made = work(privacy=budget)
    base = made.begin()
    paths = updates(tmp_path, base)
    assert made.budget_exceeded_reason(2) is None
    assert "The budget is spent; what was sent waits" in made.budget_exceeded_reason(3)
    assert merge(made, base, paths, 2).number == base.number + 1
    with pytest.raises(ValueError, match="The budget is spent; what was sent waits"):
        merge(made, base, paths, 3)
    assert merge(work(privacy=private()), base, paths, 3).number == base.number + 1


def test_too_few_valid_updates_wait_and_the_report_tells_the_limits(tmp_path, work):
    made = work({**MERGING, "poisoned": 0.3})
    base = made.begin()
    paths = updates(tmp_path, base)
    whole = pathlib.Path(paths[1]).read_bytes()
    pathlib.Path(paths[1]).write_bytes(b"damaged")
    merged = made.merge(base, paths, {}, (), 1)
    assert (merged.base, merged.waits_for_more) == (base, True)
    assert merged.outcomes.keys() == {paths[1]}
    pathlib.Path(paths[1]).write_bytes(whole)
    merged = made.merge(base, paths, {}, (), 1)
    assert not merged.waits_for_more
    report = json.loads((tmp_path / merged.base.folder / "merge.json").read_text())
    assert report["limits"] == dataclasses.asdict(CohortLimits())


@pytest.mark.slow
def test_of_subnets_that_were_drawn_the_newest_are_kept(tmp_path, work, monkeypatch):
    monkeypatch.setattr(supernet_rounds, "_MAX_TEMPLATES", 3)
    monkeypatch.setattr(supernet_rounds, "_MAX_CALIBRATED", 5)
    monkeypatch.setattr(
        supernet_rounds, "calibrate_tiers", lambda made, due, *_, **__: [{}] * len(due)
    )
    exported = []

    def export(path, subnet, *_):
        exported.append(subnet.space.largest())
        pathlib.Path(path).write_bytes(f"model {len(exported)}".encode())

    monkeypatch.setattr(supernet_rounds, "export_tflite", export)
    monkeypatch.setattr(
        supernet_rounds, "refresh_tflite", lambda new, old, *_: shutil.copy(old, new)
    )
    made = work(test_batch_size=0)
    base = made.begin()
    for number in range(8):
        prepared = made.prepare(base._replace(number=number), print)
        assert all((tmp_path / model.path).exists() for model in prepared.models)
    assert len(set(exported)) > 5
    assert len(list(pathlib.Path(made._scratch.name).glob("*.tflite"))) <= 3 + 1
    assert len(made._calibrated) <= 5


def test_noise_goes_with_nothing_that_compares_updates(tmp_path, work):
    base = work().begin()
    paths = updates(tmp_path, base)
    good = {"clip_norm": 0.5, "limits": None, "noise": lambda overlap: overlap, **MERGING}
    for change in (
        {"clip_norm": None},
        {"weighting": "examples"},
        {"poisoned": 0.3},
        {"older": {"0" * 64: 0.5}},
    ):
        supernet = Supernet(SPACE)
        before = supernet.values_by_name()
        with pytest.raises(ValueError, match="show in more than its clipped sum"):
            merge_updates(supernet, base.hash, paths, **{**good, **change})
        assert all((supernet.values_by_name()[n] == value).all() for n, value in before.items())
