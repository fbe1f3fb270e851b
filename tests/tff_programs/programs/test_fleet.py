"""A fleet of processes: it learns, goes on where it was cut off, and is not mixed up."""

import functools
import shutil

import pytest
from programs import Program

from fedsup_tf.files.checkpoint import fingerprint, read_tensors
from fedsup_tf.supernet import Supernet
from tff_programs.programs.checkpoint import load_trained
from tff_programs.programs.fleet_optimizer import FleetOptimizer
from tff_programs.programs.fleet_server import Fleet, FleetSettings
from tff_programs.programs.training_information import trained_tiers
from tff_programs.simulation.round_plan import Assignment
from tff_programs.simulation.tiers import Tier, parse_tiers
from tflite.format.metadata import read_metadata
from tflite.format.update_file import read_update
from tflite.merge.merge import merge_updates
from tflite.merge.received import subnet_shapes

CLIENTS = 3


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
    """A fleet that ran through, one that was cut off, and what the programs printed and raised."""
    folder = tmp_path_factory.mktemp("fleets")
    whole, parts, foreign = (folder / name for name in ("whole", "parts", "foreign.safetensors"))
    supernet, information = Supernet.load_checkpoint(trained_path)
    weights = {name: value.numpy() for name, value in supernet.weights_by_name().items()}
    supernet.assign_weights({**weights, "head/bias": weights["head/bias"] + 1})
    supernet.save_checkpoint(foreign, information)
    with Program(*command(trained_path, whole, 2)) as process:
        printed = ""
        for line in process.stdout:
            printed += line
            if line.startswith("round 1/2"):
                # All that is left of a fleet that is killed now.
                parts.mkdir()
                for kept in ("supernet.safetensors", "optimizer_000001.safetensors"):
                    shutil.copy(whole / kept, parts)
    assert process.returncode == 0
    others = [
        command(trained_path, parts, 2),
        command(foreign, whole, 3),
        command(trained_path, whole, 2),
    ]
    return whole, parts, [[printed, ""], *run_programs(others)]


def tensors(folder):
    return read_tensors(folder / "supernet.safetensors", "supernet")


def test_a_fleet_cut_off_ends_as_one_that_ran_through(fleets):
    whole, parts, told = fleets
    assert not told[1][1]
    assert "Continuing" not in told[0][0]
    assert "Continuing after round 1." in told[1][0]
    assert "round 1/2" not in told[1][0]
    expected, information = tensors(whole)
    found, found_information = tensors(parts)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.tobytes() == found[name].tobytes(), name
    assert information == found_information


def test_a_fleets_supernet_is_the_merge_of_what_its_clients_sent(fleets, trained_path):
    whole, _, _ = fleets
    supernet, information = Supernet.load_checkpoint(trained_path)
    assignment = Assignment(supernet.space, trained_tiers(information), 6, CLIENTS)
    shapes_of = functools.partial(subnet_shapes, supernet)
    optimizer = FleetOptimizer(information["settings"], supernet, "nowhere")
    assert optimizer.optimizer is not None
    for number in (1, 2):
        before = supernet.values_by_name()
        base = fingerprint(supernet.weights_by_name())
        folder = whole / f"round_{number:03d}"
        updates = sorted(folder.glob("client_*/update.safetensors"))
        assert len(updates) == CLIENTS
        for update in [read_update(path, supernet.space, shapes_of) for path in updates]:
            assert (update.base_hash, update.base_round) == (
                base,
                information["round"] + number - 1,
            )
            assert any(value.any() for value in update.delta.values())
        for model in folder.glob("*.tflite"):
            assert read_metadata(model).supernet_hash == base
        # Sums of three depend on their order, which is that of the plan.
        plan = assignment.plan(information["round"] + number)
        merge_updates(
            supernet,
            base,
            [folder / f"client_{client:04d}" / "update.safetensors" for client in plan.clients],
        )
        merged = supernet.values_by_name()
        supernet.assign_weights(optimizer.step(before, merged, plan.architectures))
    found, _ = tensors(whole)
    for name, value in supernet.weights_by_name().items():
        assert value.numpy().tobytes() == found[name].tobytes(), name


def test_a_fleet_tells_what_it_did(fleets):
    _, _, told = fleets
    printed = told[0][0]
    assert "fleet of 6 clients, 3 a round, from round 1 of" in printed
    assert "round 2/2 | 3 clients | " in printed
    assert printed.count("personal accuracy") == 2 * CLIENTS
    assert "left out" not in printed
    # What a finished one is called for again, it does not do again.
    printed, error = told[3]
    assert not error
    assert "Continuing after round 2." in printed
    assert "personal accuracy" not in printed


def test_a_fleet_is_not_continued_with_another_supernet(fleets):
    whole, _, told = fleets
    assert "began with another supernet. Give that one to continue it" in told[2][1]
    assert not (whole / "round_003").exists()


def test_a_fleet_has_the_tiers_and_the_aggregation_of_the_training(trained_path, tmp_path):
    trained = load_trained(trained_path)
    space = trained.supernet.space
    between = next(a for a in map(space.at, range(space.size)) if a != space.smallest())
    information = {
        **trained.information,
        "tiers": [["net", between.to_json()], ["20000-40000", space.smallest().to_json()]],
        # Files that are gone, and bounds that another seed would draw otherwise from.
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
    # As a supernet of an earlier version.
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


def test_a_fleets_clients_shuffle_otherwise_in_every_round(fleets):
    whole, _, _ = fleets
    seeds = [
        read_tensors(path, "device checkpoint")[1]["notes"]["seed"]
        for path in whole.glob("round_*/client_*/checkpoint.safetensors")
    ]
    assert len(seeds) == len(set(seeds)) == 2 * CLIENTS
