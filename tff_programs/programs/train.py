"""fedsup train: trains a supernet by federated learning and keeps all it needs to go on.

The same command after a kill continues with the round that was cut off, and ends with the weights
of a run that was never cut off.
"""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from fedsup_tf.accuracy import build_accuracy, random_subnet_accuracies
from fedsup_tf.space import load_space
from fedsup_tf.supernet import Supernet
from tff_programs.learning import schedule, training_process
from tff_programs.learning.message_size import traffic_counter
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.aggregation_flags import (
    aggregator_from_flags,
    define_aggregation_flags,
    privacy_from_flags,
    upload_from_flags,
)
from tff_programs.programs.flags.data_flags import data_settings_from_flags, define_data_flags
from tff_programs.programs.flags.execution_flags import define_execution_flags, execution_from_flags
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags, parse_flags
from tff_programs.programs.flags.time_flags import (
    define_time_flags,
    simulated_time_from_flags,
    time_settings,
)
from tff_programs.programs.flags.train_flags import (
    define_train_flags,
    local_training_from_flags,
    only_architecture_from_flags,
    server_optimizer_from_flags,
)
from tff_programs.reports import report
from tff_programs.simulation import run_metrics
from tff_programs.simulation.clients import ClientData
from tff_programs.simulation.round_plan import RANDOM_STREAMS, Assignment
from tff_programs.simulation.run_folder import hold_run, keep_settings
from tff_programs.simulation.run_state import RunStateManager
from tff_programs.simulation.tiers import default_tiers, parse_tiers
from tff_programs.simulation.training_loop import train

# Flags that are the run's settings, and those of them that may differ when it is continued.
_SETTINGS = (define_data_flags, define_train_flags, define_aggregation_flags, define_time_flags)
_FREE_TO_CHANGE = ("out", "data_dir", "evaluate_every", "random_subnets", "clients_at_once")


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    for define_settings in _SETTINGS:
        define_settings(define)
    define_execution_flags(define)


def main(argv: Sequence[str]) -> None:
    """Builds what the flags say and trains it."""
    run(*parse_flags(define_flags, argv))


def run(options: ProgramFlags, arguments: Sequence[str]) -> None:
    """Trains what the flags say, and prints and keeps how it goes."""
    if arguments:
        raise ValueError(f"Expected flags alone, received {arguments}.")
    if not options.out:
        raise ValueError("Expected --out=FOLDER, where the run is kept.")
    with hold_run(options.out):
        _train(options)


def _train(options: ProgramFlags) -> None:
    """Trains what the flags say, and prints and keeps how it goes."""
    start = time.monotonic()
    # Saving the state is part of every round, nothing to tell.
    tf.get_logger().setLevel("ERROR")
    dataset, partition = data_settings_from_flags(options).load()
    space = load_space(
        options.space,
        classes=len(dataset.class_names),
        image_shape=dataset.train_images.shape[1:],
        normalization=options.normalization,
    )
    tiers = parse_tiers(space, options.tiers, options.seed) or default_tiers(space, options.seed)
    only = only_architecture_from_flags(options, space)
    supernet = Supernet(space)
    local_training = local_training_from_flags(options)
    nested = local_training.sandwich > 1
    count_bytes = _count_what_travels(
        traffic_counter(supernet, nested, upload_from_flags(options)), only
    )
    simulated_time = simulated_time_from_flags(
        options, space, tiers, partition, local_training, count_bytes, only, options.seed
    )
    assignment = Assignment(
        space=space,
        tiers=tiers,
        clients=len(partition),
        clients_per_round=options.clients_per_round,
        seed=options.seed,
        redraw=options.redraw,
        tier_net_share=options.tier_net_share,
        cohorts=options.cohorts or ("random" if options.noise_multiplier else "passes"),
        sandwich=options.cohort_sandwich,
        availability=options.availability,
        architecture=only if options.algorithm == "exclusive" else None,
        time=simulated_time,
        cohort_seed=options.cohort_seed,
    )
    privacy = privacy_from_flags(options, assignment)
    learning = training_process.build_fedsup_process(
        space,
        local_training,
        dataset.preprocessing,
        schedule.build_schedule(options.schedule, options.learning_rate, options.rounds),
        architecture=only,
        aggregation=aggregator_from_flags(options, supernet, nested),
        weighting=options.weighting,
        server_optimizer=server_optimizer_from_flags(options),
        averaging=options.averaging,
        seed=options.seed,
    )
    accuracy = build_accuracy(supernet, dataset.preprocessing)

    def evaluate(weights):
        named = supernet.named(weights)
        test = (dataset.test_images, dataset.test_labels, options.test_batch_size)
        accuracies = {tier.name: accuracy(named, tier.architecture, *test) for tier in tiers}
        if options.random_subnets:
            drawn = random_subnet_accuracies(
                accuracy, space, named, *test, subnets=options.random_subnets
            )
            accuracies["random p10"] = float(np.percentile([share for _, share in drawn], 10))
        return accuracies

    paths = report.run_paths(options.out)
    settings = _settings(options, space, time_settings(simulated_time, tiers))
    state_manager = RunStateManager(paths["state"], print_line)
    is_begun = asyncio.run(state_manager.get_versions()) or os.path.lexists(paths["supernet"])
    keep_settings(paths["settings"], settings, bool(is_begun))
    print(
        f"{options.algorithm} of {space.name} ({space.size:,} subnets) on {dataset.name}: "
        f"{len(partition)} clients, {options.clients_per_round} a round, {options.rounds} rounds. "
        f"Run folder: {options.out}",
        flush=True,
    )

    if privacy is not None:
        print(privacy, flush=True)

    def on_start(done):
        missing = run_metrics.missing_rounds(paths["metrics"], done)
        if missing is not None:
            print_line(missing)
        if done >= options.rounds:
            print(f"All {done} rounds were done before.", flush=True)
        elif done:
            print(f"Continuing after round {done}.", flush=True)

    def on_round(round_report):
        print_line(report.progress_line(round_report, options.rounds, local_training.epochs))

    def save(number, weights):
        supernet.assign_weights(supernet.named(weights))
        information = {
            "round": number,
            "settings": settings,
            "preprocessing": dataset.preprocessing.to_json(),
            "class_names": list(dataset.class_names),
            "tiers": [[tier.name, tier.architecture.to_json()] for tier in tiers],
            "tier_shares": [tier.share for tier in tiers],
        }
        supernet.save_checkpoint(paths["supernet"], information)

    mended = run_metrics.mend_table(paths["metrics"])
    if mended is not None:
        print_line(mended)
    metrics_manager = run_metrics.RunMetricsManager(paths["metrics"], paths["tensorboard"])
    with execution_from_flags(options, options.clients_at_once or None):
        accuracies = asyncio.run(
            train(
                learning,
                ClientData(dataset, partition, assignment, only),
                options.rounds,
                state_manager=state_manager,
                metrics_manager=metrics_manager,
                count_bytes=count_bytes,
                evaluate=evaluate,
                evaluate_every=options.evaluate_every,
                epsilon_after=None if privacy is None else privacy.epsilon_after,
                on_start=on_start,
                on_round=on_round,
                on_evaluated=save,
            )
        )
    title = f"{options.algorithm}, {space.name}, {dataset.name}"
    report.draw_curves(paths["metrics"], paths["curves"], title, tiers)
    print()
    print(report.final_table(space, tiers, accuracies, count_bytes))
    print(f"\n{time.monotonic() - start:.0f} s. In {options.out}:")
    for key in ("supernet", "metrics", "curves", "tensorboard"):
        print(f"  {os.path.basename(paths[key])}")


def _count_what_travels(count_bytes, only):
    """Counts the bytes of the one net that all clients get, or of each client's own."""
    return count_bytes if only is None else lambda architecture: count_bytes(only)


def _settings(options: ProgramFlags, space, of_files: dict) -> dict:
    """Returns the run's settings, with which it must be continued."""
    names = [name for define in _SETTINGS for name in ProgramFlags(define)]
    settings = {name: options[name].value for name in names if name not in _FREE_TO_CHANGE}
    if options.schedule == "constant":
        del settings["rounds"]
    settings["space"] = space.to_json()
    settings["random_streams"] = RANDOM_STREAMS
    if options.cohort_seed is not None:
        # The settings travel with the supernet, and whoever knows the seed knows who took part.
        settings["cohort_seed"] = hashlib.sha256(str(options.cohort_seed).encode()).hexdigest()
    settings.update(of_files)
    return json.loads(json.dumps(settings))
