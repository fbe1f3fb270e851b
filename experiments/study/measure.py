"""Measures a trained run and prints one line of JSON.

    python measure.py RUN_FOLDER

The JSON object has these fields:

* `tiers`: for each tier by name:
    * `accuracy`: accuracy on the test set in batches of 50, not calibrated;
    * `deployed`: calibrated accuracy, in which images of a batch do not affect each other, with the
      refitted classifier, and `penalty`, the penalty of that classifier;
    * `kept`: the same with the classifier as it was trained;
    * `worst_client`: the lowest accuracy of a client of the tier on its own test images, in batches
      of 50.
* `nets`: the architecture of each tier.
* `random`: the accuracies of 40 random subnets, on at most 2,000 test images, calibrated with few
  images and a classifier of a large penalty, which is faster and a little less accurate.
* `random_in_batches`: the same in batches of 50, not calibrated.
* `rounds`: for each evaluation, its round, the mean accuracy of the tiers whose nets are trained,
  in batches and not calibrated, and the bytes of all clients and the simulated seconds so far.
"""

import csv
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from fedsup_tf.accuracy import build_accuracy, count_correct, random_subnet_accuracies
from fedsup_tf.architecture import Architecture
from fedsup_tf.calibration import split_calibration
from fedsup_tf.logistic_regression import PENALTIES
from tff_programs.programs.calibration_files import calibrate_tiers
from tff_programs.programs.checkpoint import TrainedSupernet, load_trained
from tff_programs.programs.subnet_evaluation import calibrated_accuracy
from tff_programs.programs.training_information import trained_tiers
from tff_programs.reports.report import accuracies_of
from tff_programs.simulation.in_memory import client_accuracies
from tff_programs.simulation.round_plan import Assignment
from tff_programs.simulation.tiers import Tier, parse_tiers

_BATCH, _RANDOM = 50, 40
# Number of images that a client calibrates random subnets on.
_IMAGES = 30


def main(folder: Path) -> None:
    """Measures the run in a folder and prints the results."""
    trained = load_trained(folder / "supernet.safetensors")
    space, settings = trained.supernet.space, trained.information["settings"]
    tiers = trained_tiers(trained.information)
    is_supernet = settings["algorithm"] in ("e_fedsup", "fedsup")
    nets = [tier.architecture for tier in tiers]
    if not is_supernet:
        nets = [parse_tiers(space, [settings["architecture"]], 0)[0].architecture] * len(tiers)
    members = Assignment(
        space, tiers, len(trained.data), settings["clients_per_round"], settings["seed"]
    ).tier_of_clients()
    of_trained_nets = [
        tier.name for tier, net in zip(tiers, nets, strict=True) if tier.architecture == net
    ]
    of_net = {net: measure_net(trained, net) for net in dict.fromkeys(nets)}
    measured = {}
    for number, (tier, net) in enumerate(zip(tiers, nets, strict=True)):
        own = np.take(of_net[net]["clients"], np.flatnonzero(members == number))
        measured[tier.name] = {
            "accuracy": of_net[net]["accuracy"],
            "deployed": of_net[net]["deployed"],
            "penalty": of_net[net]["penalty"],
            "kept": of_net[net]["kept"],
            "worst_client": float(own.min()),
        }
    test = (
        trained.data.dataset.test_images,
        trained.data.dataset.test_labels,
    )
    drawn, in_batches = [], []
    if is_supernet:
        accuracy = build_accuracy(trained.supernet, trained.preprocessing)
        ways = (
            calibrated_accuracy(trained, _IMAGES, PENALTIES[0]),
            lambda *arguments: accuracy(*arguments, _BATCH),
        )
        drawn, in_batches = (
            random_subnet_accuracies(way, space, trained.weights, *test, subnets=_RANDOM)
            for way in ways
        )
    print(
        json.dumps(
            {
                "tiers": measured,
                "nets": {tier.name: tier.architecture.to_json() for tier in tiers},
                "random": [share for _, share in drawn],
                "random_in_batches": [share for _, share in in_batches],
                "rounds": evaluations(folder / "metrics.csv", of_trained_nets),
            }
        )
    )


def measure_net(trained: TrainedSupernet, net: Architecture) -> dict:
    """Measures a subnet on the test set, with and without calibration, and on each client."""
    accuracy = build_accuracy(trained.supernet, trained.preprocessing)
    dataset = trained.data.dataset
    (calibration,) = calibrate_tiers(trained, [Tier("net", net)])
    parts = split_calibration(calibration)
    subnet = trained.supernet.extract(net)

    @tf.function(autograph=False, reduce_retracing=True)
    def count(weights, images, labels):
        return count_correct(subnet, weights, images, labels, 256, trained.preprocessing)

    test = (dataset.test_images, dataset.test_labels)
    right = [
        int(count({**subnet.values_by_name(), **parts.mean_squares, **classifier}, *test))
        for classifier in (parts.classifier, {})
    ]
    nets = [net] * len(trained.data)
    return {
        "accuracy": accuracy(trained.weights, net, *test, _BATCH),
        "deployed": right[0] / len(dataset.test_labels),
        "penalty": parts.penalty,
        "kept": right[1] / len(dataset.test_labels),
        "clients": client_accuracies(accuracy, trained.weights, trained.data, nets, _BATCH),
    }


def evaluations(path: Path, tiers: list[str]) -> list[dict]:
    """Reads the mean accuracy of `tiers`, traffic and simulated time of each evaluation."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    spent, found = 0.0, []
    for row in rows:
        per_client = float(row["bytes_down_per_client"]) + float(row["bytes_up_per_client"])
        spent += per_client * float(row["answered"])
        accuracies = accuracies_of(row)
        if accuracies:
            found.append(
                {
                    "round": int(float(row["round"])),
                    "accuracy": float(np.mean([accuracies[tier] for tier in tiers])),
                    "bytes": spent,
                    "seconds": float(row["simulated_seconds"]),
                }
            )
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
