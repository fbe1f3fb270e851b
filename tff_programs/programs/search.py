"""fedsup search CHECKPOINT: the most accurate subnet under a budget, by evolutionary search.

Candidates are scored in rounds, by clients on one half of their own held-out images: every client
evaluates every candidate, and the server learns sums. The other half, which the search never saw,
is for the report. Both searches begin with the subnets that were trained as they are. The data set,
its partition and the halves are those of the supernet's training; `--seed` decides the search.
"""

import os
import time
from collections.abc import Sequence

import numpy as np

from fedsup_tf.accuracy import build_accuracy
from fedsup_tf.search.budget import Budget, CostModel
from fedsup_tf.search.constraints import FeasibleSet
from fedsup_tf.search.evolution import random_search, search_architectures
from fedsup_tf.search.latency import LatencyTable
from tff_programs.execution.contexts import local_execution
from tff_programs.learning.evaluation import CandidateEvaluation, Examples, halve_held_out
from tff_programs.programs.checkpoint import trained_tiers
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.checkpoint_flags import load_trained_from_flags
from tff_programs.programs.flags.data_flags import define_data_flags
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags, parse_flags
from tff_programs.reports import search_report
from tff_programs.reports.search_report import Scored

# Streams of random numbers that do not depend on each other.
_EVOLUTION, _RANDOM, _CLIENTS = range(3)
_TRAIN_BATCH_SIZE = 16


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_data_flags(define)
    define.output_folder("out", None, "Folder of the results.")
    define.integer("max_parameters", None, "Most parameters.", lower_bound=1)
    define.integer("max_macs", None, "Most multiply-accumulates an image.", lower_bound=1)
    define.float(
        "max_file_kilobytes", None, "Largest .tflite file (estimated from above).", above=0
    )
    define.float(
        "max_train_megabytes", None, "Most memory of a training step (estimated).", above=0
    )
    define.float("max_infer_ms", None, "Longest inference; needs --latency_table.", above=0)
    define.float("max_train_ms", None, "Longest training step; needs --latency_table.", above=0)
    define.path("latency_table", None, "A device's latency table, a JSON file.")
    define.integer(
        "train_batch_size",
        None,
        "Images of the step that --max_train_megabytes is about; the table's or "
        f"{_TRAIN_BATCH_SIZE} by default.",
        lower_bound=1,
    )
    define.integer("generations", 10, "Generations of the evolution.", lower_bound=1)
    define.integer("population", 16, "Candidates scored in a generation.", lower_bound=1)
    define.integer("parents", 8, "How many of the best have children.", lower_bound=1)
    define.integer(
        "clients_per_round",
        0,
        "Clients that score; 0 for all. They are drawn once, so that all candidates are compared "
        "on the same images. The fewer, the more the search chooses what suits those.",
        lower_bound=0,
    )
    define.integer(
        "candidates_per_round", 8, "Subnets that a client receives in a round.", lower_bound=1
    )
    define.integer("client_batch_size", 50, "Images normalized together.", lower_bound=1)
    define.integer(
        "clients_at_once",
        0,
        "Clients computed side by side, a process each; 0 for one a core.",
        lower_bound=0,
        upper_bound=1024,
    )


def main(argv: Sequence[str]) -> None:
    """Searches the supernet that the first argument names."""
    options, arguments = parse_flags(define_flags, argv)
    if len(arguments) != 1:
        raise ValueError(f"Expected one argument, the supernet's file; received {arguments}.")
    if not options.out:
        raise ValueError("Expected --out=FOLDER, where the results are written.")
    start = time.monotonic()
    seed = options.seed
    budget = _budget(options)
    trained = load_trained_from_flags(options, arguments[0], of_training=("seed",))
    space, dataset = trained.supernet.space, trained.dataset
    costs = _cost_model(options, space)
    # Before any work: is there something to search?
    FeasibleSet(costs, budget)

    # The halves are those of the training's seed: whoever searches again sees the same images.
    is_for_search = halve_held_out(dataset.test_labels, trained.data_settings.seed)
    everyone = range(len(trained.partition))
    voters = _draw_clients(options, len(trained.partition))
    search_clients = _examples(trained, voters, is_for_search)
    report_clients = _examples(trained, everyone, ~is_for_search)
    evaluation = CandidateEvaluation(
        space,
        trained.preprocessing,
        trained.weights,
        options.client_batch_size,
        options.candidates_per_round,
    )
    images = sum(len(client.labels) for client in search_clients)
    limits = search_report.describe_limits(budget)
    print(
        f"{space.name} ({space.size:,} subnets) on {dataset.name}, {limits}: scored by "
        f"{len(voters)} clients on {images:,} held-out images",
        flush=True,
    )

    known = {}

    def fitness(architectures):
        # A subnet that two searches come upon is evaluated for both at once.
        new = [architecture for architecture in architectures if architecture not in known]
        known.update(zip(new, evaluation.accuracies(new, search_clients), strict=True))
        return [known[architecture] for architecture in architectures]

    arguments = (space, fitness, budget, costs)
    # The subnets that were trained as they are.
    initial = [tier.architecture for tier in trained_tiers(trained.information)]
    initial += [space.smallest(), space.largest()]
    with local_execution(options.clients_at_once or None):
        print("evolution", flush=True)
        evolution = search_architectures(
            *arguments,
            np.random.default_rng([seed, _EVOLUTION]),
            generations=options.generations,
            population=options.population,
            parents=options.parents,
            initial=initial,
            on_generation=_print_generations(),
        )
        print("random search of as many candidates", flush=True)
        drawn = random_search(
            *arguments,
            np.random.default_rng([seed, _RANDOM]),
            evaluations=len(evolution.candidates),
            population=options.population,
            initial=initial,
            on_generation=_print_generations(),
        )
        named = {
            "evolution": evolution.best.architecture,
            "random search": drawn.best.architecture,
            "smallest": space.smallest(),
            "largest": space.largest(),
        }
        architectures = list(named.values())
        searched = fitness(architectures)
        reported = evaluation.accuracies(architectures, report_clients)
    accuracy = build_accuracy(trained.supernet, trained.preprocessing)
    central = [
        accuracy(
            trained.weights,
            architecture,
            dataset.test_images[~is_for_search],
            dataset.test_labels[~is_for_search],
            options.client_batch_size,
        )
        for architecture in architectures
    ]
    rows = [
        Scored(name, architecture, costs.costs(architecture), *shares)
        for (name, architecture), *shares in zip(
            named.items(), searched, reported, central, strict=True
        )
    ]
    print(f"\n{search_report.results_table(rows, budget)}")

    title = f"{space.name}, {dataset.name}: {len(voters)} clients, {images:,} held-out images"
    paths = search_report.write_results(options.out, evolution, drawn, rows, budget, costs, title)
    print(f"\n{time.monotonic() - start:.0f} s. In {options.out}:")
    for path in paths:
        print(f"  {os.path.basename(path)}")


def _print_generations():
    line = search_report.progress_lines()
    return lambda generation: print_line(line(generation))


def _budget(options: ProgramFlags) -> Budget:
    def scaled(value, scale):
        return None if value is None else value * scale

    return Budget(
        parameters=options.max_parameters,
        macs=options.max_macs,
        file_bytes=scaled(options.max_file_kilobytes, 1e3),
        train_memory_bytes=scaled(options.max_train_megabytes, 1e6),
        infer_latency_ms=options.max_infer_ms,
        train_latency_ms=options.max_train_ms,
    )


def _cost_model(options: ProgramFlags, space) -> CostModel:
    batch_size = options.train_batch_size
    if options.latency_table is None:
        return CostModel(space, train_batch_size=batch_size or _TRAIN_BATCH_SIZE)
    table = LatencyTable.load(options.latency_table)
    return CostModel(space, table, batch_size or table.train.batch_size)


def _draw_clients(options: ProgramFlags, clients: int) -> list[int]:
    count = options.clients_per_round or clients
    if count > clients:
        raise ValueError(
            f"Expected --clients_per_round of at most {clients}, the number of clients, received "
            f"{count}."
        )
    rng = np.random.default_rng([options.seed, _CLIENTS])
    return sorted(int(client) for client in rng.choice(clients, count, replace=False))


def _examples(trained, clients, is_chosen: np.ndarray) -> list[Examples]:
    chosen = []
    for client in clients:
        indices = trained.partition[client].test
        indices = indices[is_chosen[indices]]
        chosen.append(
            Examples(trained.dataset.test_images[indices], trained.dataset.test_labels[indices])
        )
    return chosen
