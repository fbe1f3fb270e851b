"""fedsup evaluate CHECKPOINT: accuracy of subnets on the test set and on clients' own test data.

The data set and its partition are those that the supernet was trained with; `--data_dir` says where
the archive is, if it is not where the loader looks by itself.
"""

import asyncio
from collections.abc import Sequence

import numpy as np
import tensorflow_federated as tff

from fedsup_tf.accuracy import build_accuracy, random_subnet_accuracies
from fedsup_tf.search.costs import architecture_cost
from tff_programs.execution.contexts import local_execution
from tff_programs.learning.evaluation import build_federated_evaluation
from tff_programs.programs.checkpoint import name_architectures
from tff_programs.programs.flags.checkpoint_flags import load_trained_from_flags
from tff_programs.programs.flags.data_flags import define_data_flags
from tff_programs.programs.flags.program_flags import FlagDefiner, parse_flags
from tff_programs.reports import report
from tff_programs.simulation.clients import client_element


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_data_flags(define)
    define.paths(
        "architectures",
        ["tiers"],
        "Which subnets: tiers (those of the training), smallest, largest, an architecture's JSON "
        "file, or bounds of parameters.",
    )
    define.list("test_batch_sizes", ["1", "32", "256"], "Images normalized together.")
    define.integer(
        "random",
        0,
        "Number of random subnets of which the accuracies' percentiles are shown.",
        lower_bound=0,
    )
    define.integer("client_batch_size", 32, "The same, on the clients.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    """Evaluates the checkpoint that the first argument names."""
    options, arguments = parse_flags(define_flags, argv)
    if len(arguments) != 1:
        raise ValueError(f"Expected one argument, the supernet's file; received {arguments}.")
    batch_sizes = _whole_numbers(options.test_batch_sizes)
    trained = load_trained_from_flags(options, arguments[0])
    supernet, weights, information, dataset, partition, preprocessing, settings = trained
    space = supernet.space
    tiers = name_architectures(options.architectures, space, information, settings.seed)
    print(
        f"{space.name} after round {information['round']}, {dataset.name}: "
        f"{len(dataset.test_labels):,} test images, {len(partition)} clients"
    )

    accuracy = build_accuracy(supernet, preprocessing)
    federated = build_federated_evaluation(space, preprocessing, options.client_batch_size)
    rows = [
        (
            "subnet",
            "architecture",
            "parameters",
            "MACs",
            *(f"test, batch {size}" for size in batch_sizes),
            f"clients, batch {options.client_batch_size}",
        )
    ]
    with local_execution():
        for tier in tiers:
            cost = architecture_cost(space, tier.architecture)
            shares = [
                accuracy(weights, tier.architecture, dataset.test_images, dataset.test_labels, size)
                for size in batch_sizes
            ]
            client_data = [
                client_element(
                    space,
                    dataset.test_images[indices.test],
                    dataset.test_labels[indices.test],
                    tier.architecture,
                    client,
                    np.zeros(2),
                )
                for client, indices in enumerate(partition)
            ]
            counts = asyncio.run(_evaluate(federated, weights, client_data))
            shares.append(counts["correct"] / counts["examples"])
            rows.append(
                (
                    tier.name,
                    str(tier.architecture),
                    f"{cost.parameters:,}",
                    f"{cost.macs:,}",
                    *(f"{100 * share:.1f} %" for share in shares),
                )
            )
    print(report.format_table(rows))
    if options.random:
        test = (dataset.test_images, dataset.test_labels, max(batch_sizes))
        drawn = random_subnet_accuracies(accuracy, space, weights, *test, subnets=options.random)
        print(f"\n{options.random} random subnets, at most 2,000 test images, batch {test[2]}")
        print(report.random_subnets_table(space, drawn))


async def _evaluate(federated, weights, client_data):
    return await tff.program.materialize_value(federated(tuple(weights.values()), client_data))


def _whole_numbers(texts: list[str]) -> list[int]:
    if not all(text.isdigit() and int(text) > 0 for text in texts):
        raise ValueError(f"Expected --test_batch_sizes as whole numbers from 1, received {texts}.")
    return [int(text) for text in texts]
