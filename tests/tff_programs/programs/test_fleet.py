"""Tests of a fleet of processes: it learns, resumes after a kill, and keeps runs apart."""

import dataclasses
import re
import shutil
import signal

import numpy as np
import pytest
from programs import Program
from sqlalchemy import func, select

from fedsup_tf.files.checkpoint import fingerprint, read_tensors
from fedsup_tf.supernet import Supernet
from tff_programs.gateway.database import Database, sqlite_url
from tff_programs.gateway.tables import updates
from tff_programs.programs.checkpoint import load_trained
from tff_programs.programs.fleet import run_in_tff
from tff_programs.programs.fleet_server import Fleet, FleetSettings
from tff_programs.programs.stored_optimizer import StoredOptimizer
from tff_programs.programs.training_information import trained_tiers
from tff_programs.simulation.round_plan import Assignment
from tff_programs.simulation.tiers import Tier, parse_tiers
from tflite.device.trainer import DeviceTrainer
from tflite.format.metadata import read_metadata
from tflite.merge.merge import merge_updates

CLIENTS = 3
ROUNDS = 3


def command(supernet, folder, rounds, *more):
    return [
        "fleet",
        str(supernet),
        f"--out={folder}",
        f"--rounds={rounds}",
        f"--clients_per_round={CLIENTS}",
        "--test_batch_size=100",
        *more,
    ]


@pytest.fixture(scope="module")
def fleets(tmp_path_factory, trained_path, run_programs):
    """Returns a fleet that was killed in its second round and resumed, and the programs' output."""
    folder = tmp_path_factory.mktemp("fleets")
    fleet, foreign = (folder / name for name in ("fleet", "foreign.safetensors"))
    supernet, information = Supernet.load_checkpoint(trained_path)
    weights = supernet.values_by_name()
    supernet.assign_weights({**weights, "head/bias": weights["head/bias"] + 1})
    supernet.save_checkpoint(foreign, information)
    printed = ""
    with Program(*command(trained_path, fleet, 2)) as process:
        for line in process.stdout:
            printed += line
            if re.match(r"  phone \d+ \| round 2,", line):
                process.kill()
    assert process.returncode == -signal.SIGKILL, printed
    others = [
        command(trained_path, fleet, 2),
        command(foreign, fleet, 3),
        command(trained_path, fleet, 2),
        command(trained_path, fleet, ROUNDS),
    ]
    return fleet, [[printed, ""], *run_programs(others)]


def test_a_fleets_supernet_is_that_of_files_that_somebody_carries(fleets, trained_path):
    folder, _ = fleets
    supernet, information = Supernet.load_checkpoint(trained_path)
    settings, data = information["settings"], load_trained(trained_path).data
    share = settings["tier_net_share"]
    tiers = trained_tiers(information)
    assignment = Assignment(supernet.space, tiers, 6, CLIENTS, tier_net_share=share)
    optimizer = StoredOptimizer(settings, supernet)
    assert optimizer.optimizer is not None
    models = {}
    for path in (folder / "models").glob("*.tflite"):
        metadata = read_metadata(path)
        models[metadata.supernet_hash, metadata.round, metadata.architecture] = path
    for number in range(information["round"], information["round"] + ROUNDS):
        before, base = supernet.values_by_name(), fingerprint(supernet.weights_by_name())
        plan = assignment.plan(number + 1)
        sent = []
        for client, architecture, seed in zip(
            plan.clients, plan.architectures, plan.seeds, strict=True
        ):
            trainer = DeviceTrainer(models[base, number, architecture], trusted=True)
            first, second = map(int, seed.view(np.uint32))
            images, labels = data.train_examples(client)
            trainer.fit(
                images,
                labels,
                epochs=settings["epochs"],
                learning_rate=settings["learning_rate"],
                seed=(first << 32) | second,
            )
            scores = {"examples": len(labels), "loss_before": 1.0, "loss_after": 1.0}
            sent.append(trainer.update(**scores))
        # Sums of three depend on their order; use that of the plan.
        merge_updates(supernet, base, sent, limits=None)
        merged = supernet.values_by_name()
        supernet.assign_weights(optimizer.step(before, merged, plan.architectures))
    found, of_fleet = read_tensors(folder / "supernet.safetensors", "supernet")
    assert of_fleet["information"]["round"] == information["round"] + ROUNDS
    for name, value in supernet.values_by_name().items():
        assert value.tobytes() == found[name].tobytes(), name


@pytest.mark.slow
def test_a_fleet_makes_the_rounds_of_tff_but_for_the_order_of_examples(trained_path, tmp_path):
    trained = load_trained(trained_path)
    settings = trained.information["settings"]
    # If a batch has all examples, their order affects only the last bits.
    changes = {"batch_size": int(max(trained.data.train_sizes)), "redraw": False}
    information = {**trained.information, "settings": {**settings, **changes}}
    trained = trained._replace(information=information)
    fleet = Fleet(trained, tmp_path, FleetSettings(2, CLIENTS, None, 0, 100))
    fleet.run()
    weights = [fleet.supernet.values_by_name(), run_in_tff(fleet, 2).values_by_name()]
    found, expected = (
        np.concatenate([np.ravel(value - trained.weights[name]) for name, value in one.items()])
        for one in weights
    )
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


def test_a_fleet_that_is_killed_counts_each_update_once(fleets):
    folder, told = fleets
    printed, error = told[1]
    assert not error
    assert "Continuing after round 1." in printed
    assert "round 1 closed" not in printed
    database = Database(sqlite_url(folder))
    with database.read() as connection:
        per_round = select(func.count()).select_from(updates).group_by(updates.c.merged_in)
        used = connection.execute(per_round.where(updates.c.state == "used")).scalars().all()
        assert used == [CLIENTS] * ROUNDS
        assert connection.scalar(select(func.count()).select_from(updates)) == sum(used)
    database.close()


def test_a_fleet_tells_what_it_did(fleets):
    _, told = fleets
    printed = told[0][0]
    assert "fleet of 6 clients, 3 a round, from round 1 of" in printed
    assert "round 1 closed: 3 updates used, 0 left out" in printed
    assert len(re.findall(r"  phone \d+ \| round 1, .* \| loss .* \| sent", printed)) == CLIENTS
    # A finished fleet that is called again does nothing.
    printed, error = told[3]
    assert not error
    assert "Continuing after round 2." in printed
    assert "phone" not in printed
    # With more rounds, it continues.
    printed, error = told[4]
    assert not error
    assert "round 3 closed: 3 updates used, 0 left out" in printed


def test_a_fleet_is_not_continued_with_another_supernet(fleets):
    _, told = fleets
    assert "began with another supernet. Give that one to continue it" in told[2][1]
    assert "phone" not in told[2][0]


def test_a_fleet_has_the_tiers_and_the_aggregation_of_the_training(trained_path, tmp_path):
    trained = load_trained(trained_path)
    space = trained.supernet.space
    between = next(a for a in map(space.at, range(space.size)) if a != space.smallest())
    information = {
        **trained.information,
        "tiers": [["net", between.to_json()], ["20000-40000", space.smallest().to_json()]],
        # Missing files, and bounds from which another seed would draw differently.
        "settings": {
            **trained.information["settings"],
            "tiers": ["/gone/net.json@3", "20000-40000"],
            "aggregation": "diluted",
            "weighting": "uniform",
            "server_optimizer": "sgdm",
            "clipping": "adaptive",
            "redraw": False,
            "tier_net_share": 0.25,
            "cohorts": "random",
            "cohort_sandwich": True,
        },
    }
    # Like a supernet of an earlier version.
    del information["tier_shares"], information["tier_limits"]
    told = []
    settings = FleetSettings(0, 2, None, 1, 50, seed=9)
    fleet = Fleet(trained._replace(information=information), tmp_path, settings, told.append)
    assert fleet.assignment.tiers == (
        Tier("net", between, 3.0),
        Tier("20000-40000", space.smallest()),
    )
    assert (fleet.aggregation, fleet.weighting) == ("diluted", "uniform")
    assert fleet.optimizer.optimizer is not None
    assert (fleet.assignment.redraw, fleet.assignment.sandwich) == (False, True)
    assert (fleet.assignment.cohorts, fleet.assignment.tier_net_share) == ("random", 0.25)
    fleet.run()
    assert "does without --averaging=0.9, --clipping=adaptive: it takes the mean" in told[0]


def test_a_fleets_tiers_carry_what_they_carried_in_the_training(trained_path, tmp_path):
    trained = load_trained(trained_path)
    space = trained.supernet.space
    tiers = Fleet(trained, tmp_path, FleetSettings(0, 2, None, 1, 50)).assignment.tiers
    assert tiers == parse_tiers(space, ["smallest", "largest"], 0)
    assert all(tier.limit is not None for tier in tiers)


def test_clients_without_training_examples_are_no_part_of_a_fleet(trained_path, tmp_path):
    trained, lines = load_trained(trained_path), []
    first, *others = trained.data.clients
    clients = (first._replace(train=first.train[:0]), *others)
    trained = trained._replace(data=dataclasses.replace(trained.data, clients=clients))
    fleet = Fleet(trained, tmp_path, FleetSettings(1, 2, None, 1, 50), lines.append)
    assert fleet.assignment.clients == len(others)
    assert fleet.trained.data.clients == tuple(others)
    assert lines == [
        f"note: 1 of {len(clients)} clients is left out, without training examples: 0."
    ]


def test_a_fleet_of_an_earlier_version_is_not_continued(trained_path, tmp_path):
    shutil.copy(trained_path, tmp_path / "supernet.safetensors")
    fleet = Fleet(load_trained(trained_path), tmp_path, FleetSettings(1, 2, None, 1, 50))
    with pytest.raises(
        ValueError, match=r"by another version of this program. Give another --out\.$"
    ):
        fleet.run()
