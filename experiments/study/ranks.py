"""Tests whether a supernet ranks its subnets as separate trainings of the subnets do.

    uv run python experiments/study/ranks.py

Trains the supernet of `settings/digits.flags`, and eight of its subnets separately with FedAvg and
the same rounds, clients and server. Prints the calibrated accuracy of each subnet from both
trainings and the rank correlation, and writes them to `results/ranks-SEED.json`. Interrupted
trainings are resumed.
"""

import json
import sys
from pathlib import Path

from absl import app, flags
from study import FOLDER, run

from fedsup_tf.files.atomic_write import write_json, write_text

_SEED = flags.DEFINE_integer("seed", 0, "Seed.", lower_bound=0)
_SUBNETS = flags.DEFINE_integer("subnets", 8, "Number of subnets.", lower_bound=3)
_PARTITION = flags.DEFINE_string("partition", "shard_5", "Partition: a name in partitions/.")
_OUT = flags.DEFINE_string("out", "runs/ranks", "Folder of the trainings.")


def main(argv):
    """Trains and measures all subnets, prints the results and writes them."""
    del argv
    from scipy.stats import spearmanr

    from fedsup_tf.search.costs import count_parameters
    from tff_programs.programs.checkpoint import load_trained

    folder = Path(_OUT.value) / f"{_PARTITION.value}-{_SEED.value}"
    command = [
        "train",
        f"--flagfile={FOLDER / 'settings' / 'digits.flags'}",
        f"--flagfile={FOLDER / 'partitions' / _PARTITION.value}.flags",
        f"--seed={_SEED.value}",
        "--random_subnets=0",
        "--nocalibrated_accuracy",
    ]
    run(folder / "supernet", command)
    trained = load_trained(folder / "supernet" / "supernet.safetensors")
    space = trained.supernet.space
    rows = []
    for number, architecture in enumerate(spread(space, _SUBNETS.value)):
        path = folder / f"{number}.json"
        write_text(path, architecture.to_json())
        run(folder / str(number), [*command, "--algorithm=fedavg", f"--architecture={path}"])
        alone = load_trained(folder / str(number) / "supernet.safetensors")
        row = {
            "architecture": str(architecture),
            "parameters": count_parameters(space, architecture),
            "shared": deployed_accuracy(trained, architecture),
            "alone": deployed_accuracy(alone, architecture),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    correlation = float(spearmanr(*zip(*((r["shared"], r["alone"]) for r in rows), strict=True))[0])
    print(f"rank correlation {correlation:.2f}")
    write_json(
        FOLDER / "results" / f"ranks-{_SEED.value}.json",
        {"partition": _PARTITION.value, "subnets": rows, "rank_correlation": correlation},
    )


def spread(space, count):
    """Draws random subnets and returns `count` of them, evenly spaced in the order of size."""
    import numpy as np

    from fedsup_tf.search.costs import count_parameters

    rng = np.random.default_rng(_SEED.value)
    drawn = {space.smallest(), space.largest(), *(space.sample(rng) for _ in range(200))}
    by_size = sorted(drawn, key=lambda one: (count_parameters(space, one), str(one)))
    return [by_size[round(place)] for place in np.linspace(0, len(by_size) - 1, count)]


def deployed_accuracy(trained, architecture) -> float:
    """Returns the calibrated test accuracy of a subnet."""
    from tff_programs.programs.subnet_evaluation import calibrated_accuracy

    dataset = trained.data.dataset
    accuracy = calibrated_accuracy(trained)
    return accuracy(trained.weights, architecture, dataset.test_images, dataset.test_labels)


if __name__ == "__main__":
    sys.exit(app.run(main))
