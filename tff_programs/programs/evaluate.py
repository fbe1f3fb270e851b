"""fedsup evaluate CHECKPOINT: accuracy of subnets on the test set and on clients' own test data.

The data set and its partition are those that the supernet was trained with; `--data_dir` gives the
location of the archive if the loader does not find it by itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedsup_tf.accuracy import build_accuracy, random_subnet_accuracies
from fedsup_tf.search.costs import architecture_cost
from tff_programs.programs.checkpoint import TrainedSupernet, name_architectures
from tff_programs.programs.flags.calibration_flags import (
    classifier_penalty,
    define_calibration_flags,
)
from tff_programs.programs.flags.checkpoint_flags import load_trained_from_flags
from tff_programs.programs.flags.data_flags import define_data_flags
from tff_programs.programs.flags.program_flags import FlagDefiner, parse_with_path
from tff_programs.programs.subnet_evaluation import calibrated_accuracy, evaluate_subnets
from tff_programs.reports import report

# Images per client for each random subnet, by default; more take longer and are a little better.
_IMAGES_OF_RANDOM = 100


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_data_flags(define)
    define.paths(
        "architectures",
        ["tiers"],
        "Subnets to evaluate: tiers (all tiers of the training), the name of a tier, smallest, "
        "largest, an architecture's JSON file, or bounds on the number of parameters.",
    )
    define.list("test_batch_sizes", ["1", "32", "256"], "Numbers of images normalized together.")
    define.integer(
        "random",
        0,
        "Number of random subnets whose accuracies are summarized by percentiles.",
        lower_bound=0,
    )
    define.integer(
        "client_batch_size",
        32,
        "Number of images normalized together on the clients.",
        lower_bound=1,
    )
    define_calibration_flags(define)


def main(argv: Sequence[str]) -> None:
    """Evaluates the checkpoint that the first argument names."""
    options, path = parse_with_path(define_flags, argv, "the supernet's file")
    batch_sizes = _whole_numbers(options.test_batch_sizes)
    trained = load_trained_from_flags(options, path)
    space, data = trained.supernet.space, trained.data
    tiers = name_architectures(
        options.architectures, space, trained.information, trained.data_settings.seed
    )
    print(
        f"{space.name} after round {trained.information['round']}, {data.name}: "
        f"{len(data.dataset.test_labels):,} test images, {len(data)} clients"
    )
    rows = [
        (
            "subnet",
            "architecture",
            "parameters",
            "MACs",
            *(f"test, batch {size}" for size in batch_sizes),
            "test, calibrated",
            f"clients, batch {options.client_batch_size}",
            "each client, calibrated",
        )
    ]
    calibration = dict(
        images_per_client=options.images_per_client, classifier_penalty=classifier_penalty(options)
    )
    for tier, central, *shares, by_client in evaluate_subnets(
        trained, tiers, batch_sizes, options.client_batch_size, **calibration
    ):
        cost = architecture_cost(space, tier.architecture)
        rows.append(
            (
                tier.name,
                str(tier.architecture),
                f"{cost.parameters:,}",
                f"{cost.macs:,}",
                *(f"{100 * share:.1f} %" for share in (*central.values(), *shares)),
                _mean_and_range(by_client),
            )
        )
    print(report.format_table(rows))
    if options.random:
        calibration["images_per_client"] = options.images_per_client or _IMAGES_OF_RANDOM
        _show_random_subnets(trained, options.random, max(batch_sizes), calibration)


def _mean_and_range(shares: Sequence[float]) -> str:
    if not shares:
        return "no test examples"
    mean, minimum, maximum = (100 * f(shares) for f in (np.mean, min, max))
    return f"{mean:.1f} % ({minimum:.1f} to {maximum:.1f})"


def _show_random_subnets(
    trained: TrainedSupernet, subnets: int, batch_size: int, calibration: Mapping[str, Any]
) -> None:
    space, dataset = trained.supernet.space, trained.data.dataset
    accuracy = build_accuracy(trained.supernet, trained.preprocessing)
    ways = {
        f"batch {batch_size}": lambda *arguments: accuracy(*arguments, batch_size),
        "calibrated": calibrated_accuracy(trained, **calibration),
    }
    print(f"\n{subnets} random subnets, at most 2,000 test images")
    for name, way in ways.items():
        test = (dataset.test_images, dataset.test_labels)
        drawn = random_subnet_accuracies(way, space, trained.weights, *test, subnets=subnets)
        print(f"{name}\n{report.random_subnets_table(space, drawn)}", flush=True)


def _whole_numbers(texts: list[str]) -> list[int]:
    if not all(text.isdigit() and int(text) > 0 for text in texts):
        raise ValueError(f"Expected --test_batch_sizes as whole numbers from 1, received {texts}.")
    return list(dict.fromkeys(map(int, texts)))
