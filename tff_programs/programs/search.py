"""fedsup search CHECKPOINT: the most accurate subnet under a budget, by evolutionary search.

Clients score the candidates on one half of their own held-out images: every client evaluates every
candidate, and the server only learns sums. Each candidate is scored as it would be deployed:
calibrated, with its own classifier. The best are scored again, calibrated on more images, as in an
exported file. The other half, which the search never sees, is for the report. The evolution, and a
random search for comparison, start from the subnets of the training's tiers, the smallest and the
largest. The data set, its partition and the halves are those of the supernet's training; `--seed`
only decides the search.
"""

import dataclasses
import os
import time
from collections.abc import Sequence

from fedsup_tf.files.reading import reading
from fedsup_tf.search.budget import Budget, CostModel
from fedsup_tf.search.latency import LatencyTable
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.checkpoint_flags import load_trained_from_flags
from tff_programs.programs.flags.data_flags import define_data_flags
from tff_programs.programs.flags.execution_flags import define_clients_at_once
from tff_programs.programs.flags.number_flags import MAX_COUNT
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags, parse_with_path
from tff_programs.programs.subnet_search import SearchSettings, search_subnets
from tff_programs.reports import search_report

_DEFAULTS = SearchSettings()
_TRAIN_BATCH_SIZE = 16


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_data_flags(define)
    define.output_folder("out", None, "Folder of the results.")
    define.integer(
        "max_parameters",
        None,
        "Maximum number of parameters.",
        lower_bound=1,
        upper_bound=MAX_COUNT,
    )
    define.integer(
        "max_macs",
        None,
        "Maximum number of multiply-accumulates per image.",
        lower_bound=1,
        upper_bound=MAX_COUNT,
    )
    define.float(
        "max_file_kilobytes",
        None,
        "Maximum size of the .tflite file, estimated from above.",
        above=0,
    )
    define.float(
        "max_train_megabytes", None, "Maximum memory of a training step (estimated).", above=0
    )
    define.float(
        "max_infer_ms", None, "Maximum time of an inference; needs --latency_table.", above=0
    )
    define.float(
        "max_train_ms", None, "Maximum time of a training step; needs --latency_table.", above=0
    )
    define.path("latency_table", None, "A device's latency table, a JSON file.")
    define.integer(
        "train_batch_size",
        None,
        "Number of images in the training step that --max_train_megabytes limits; by default that "
        f"of the latency table, or {_TRAIN_BATCH_SIZE}.",
        lower_bound=1,
    )
    define.integer(
        "generations",
        _DEFAULTS.generations,
        "Number of generations of the evolution.",
        lower_bound=1,
    )
    define.integer(
        "population",
        _DEFAULTS.population,
        "Number of candidates scored per generation.",
        lower_bound=1,
    )
    define.integer(
        "parents",
        _DEFAULTS.parents,
        "Number of the best candidates that have children.",
        lower_bound=1,
    )
    define.integer(
        "clients_per_round",
        0,
        "Number of clients that score; 0 for all. They are drawn once, so that all candidates are "
        "compared on the same images. With few clients, the search overfits to them.",
        lower_bound=0,
    )
    define.bool(
        "calibrated",
        _DEFAULTS.calibrated,
        "Score candidates as they are deployed: calibrated, each with its own classifier. "
        "Otherwise, score them as clients receive them, in rounds.",
    )
    define.integer(
        "images_per_client",
        _DEFAULTS.images_per_client,
        "Maximum number of images that each client calibrates a candidate on.",
        lower_bound=1,
    )
    define.integer(
        "finalists",
        _DEFAULTS.finalists,
        "Number of the best candidates of each search that are scored again, together with the "
        "tiers' nets, calibrated as in an exported file; with --calibrated.",
        lower_bound=0,
    )
    define.integer(
        "candidates_per_round",
        _DEFAULTS.candidates_per_round,
        "Number of subnets that a client receives per round, without --calibrated.",
        lower_bound=1,
    )
    define.integer(
        "client_batch_size",
        _DEFAULTS.client_batch_size,
        "Number of images normalized together, without --calibrated.",
        lower_bound=1,
    )
    define_clients_at_once(define)


def main(argv: Sequence[str]) -> None:
    """Searches the supernet that the first argument names."""
    options, path = parse_with_path(define_flags, argv, "the supernet's file")
    if not options.out:
        raise ValueError("Expected --out=FOLDER, where the results are written.")
    start = time.monotonic()
    budget = _budget(options)
    trained = load_trained_from_flags(options, path, of_training=("seed",))
    costs = _cost_model(options, trained.supernet.space)
    names = [field.name for field in dataclasses.fields(SearchSettings)]
    settings = SearchSettings(**{name: options[name].value for name in names})
    found = search_subnets(trained, budget, costs, settings, print_line)
    print(f"\n{search_report.results_table(found.scored, budget)}")
    title = (
        f"{trained.supernet.space.name}, {trained.data.name}: {found.clients} clients, "
        f"{found.images:,} held-out images"
    )
    paths = search_report.write_results(
        options.out, found.evolution, found.random, found.scored, budget, costs, title
    )
    print(f"\n{time.monotonic() - start:.0f} s. In {options.out}:")
    for path in paths:
        print(f"  {os.path.basename(path)}")


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
    if not options.latency_table:
        return CostModel(space, train_batch_size=batch_size or _TRAIN_BATCH_SIZE)
    table = LatencyTable.load(options.latency_table)
    with reading(options.latency_table, "a latency table of the supernet's search space"):
        table.check_space(space)
    if batch_size and batch_size != table.train.batch_size:
        print_line(
            f"note: Memory is that of a step of {batch_size} images, milliseconds are those of "
            f"{table.train.batch_size}, as the latency table has them."
        )
    return CostModel(space, table, batch_size or table.train.batch_size)
