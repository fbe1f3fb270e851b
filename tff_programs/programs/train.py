"""fedsup train: trains a supernet by federated learning and keeps all it needs to go on.

The same command after a kill continues with the round that was cut off, and ends with the weights
of a run that was never cut off.
"""

import asyncio
import json
import os
import time

import tensorflow as tf
import tensorflow_federated as tff
from absl import flags

from fedsup_tf.accuracy import build_accuracy
from fedsup_tf.files.checkpoint import write_json
from fedsup_tf.space import load_space
from fedsup_tf.supernet import Supernet
from tff_programs.learning import schedule, training_process
from tff_programs.learning.message_size import traffic_counter
from tff_programs.programs.flags.aggregation_flags import (
    aggregator_from_flags,
    privacy_from_flags,
    upload_from_flags,
)
from tff_programs.programs.flags.data_flags import define_data_flags, load_federated_data_from_flags
from tff_programs.programs.flags.execution_flags import execution_from_flags
from tff_programs.programs.flags.time_flags import simulated_time_from_flags, time_settings
from tff_programs.programs.flags.train_flags import (
    local_training_from_flags,
    only_architecture_from_flags,
    server_optimizer_from_flags,
)
from tff_programs.reports import report
from tff_programs.simulation.clients import ClientData
from tff_programs.simulation.round_plan import Assignment
from tff_programs.simulation.tiers import default_tiers, parse_tiers
from tff_programs.simulation.training_loop import train

FLAGS = flags.FLAGS
# Modules whose flags are the run's settings, and those flags that may differ when it is continued.
_SETTINGS_MODULES = tuple(
    f"tff_programs.programs.flags.{name}"
    for name in ("data_flags", "train_flags", "aggregation_flags", "time_flags")
)
_FREE_TO_CHANGE = ("out", "data_dir", "evaluate_every", "clients_at_once")

define_data_flags()


def main(argv) -> None:
    """Builds what the flags say and trains it."""
    if len(argv) > 1:
        raise ValueError(f"Expected flags alone, received {argv[1:]}.")
    if not FLAGS.out:
        raise ValueError("Expected --out=FOLDER, where the run is kept.")
    start = time.monotonic()
    # Saving the state is part of every round, nothing to tell.
    tf.get_logger().setLevel("ERROR")
    dataset, partition = load_federated_data_from_flags()
    space = load_space(
        FLAGS.space,
        classes=len(dataset.class_names),
        image_shape=dataset.train_images.shape[1:],
        normalization=FLAGS.normalization,
    )
    tiers = parse_tiers(space, FLAGS.tiers, FLAGS.seed) or default_tiers(space, FLAGS.seed)
    only = only_architecture_from_flags(space)
    supernet = Supernet(space)
    local_training = local_training_from_flags()
    nested = local_training.sandwich > 1
    count_bytes = traffic_counter(supernet, nested, upload_from_flags())
    simulated_time = simulated_time_from_flags(
        space, tiers, partition, local_training, count_bytes, only, FLAGS.seed
    )
    assignment = Assignment(
        space=space,
        tiers=tiers,
        clients=len(partition),
        clients_per_round=FLAGS.clients_per_round,
        seed=FLAGS.seed,
        redraw=FLAGS.redraw,
        sandwich=FLAGS.cohort_sandwich,
        availability=FLAGS.availability,
        time=simulated_time,
    )
    privacy = privacy_from_flags(assignment)
    learning = training_process.build_fedsup_process(
        space,
        local_training,
        dataset.preprocessing,
        schedule.build_schedule(FLAGS.schedule, FLAGS.learning_rate, FLAGS.rounds),
        architecture=only,
        aggregation=aggregator_from_flags(supernet, nested),
        weighting=FLAGS.weighting,
        server_optimizer=server_optimizer_from_flags(),
        averaging=FLAGS.averaging,
        seed=FLAGS.seed,
    )
    accuracy = build_accuracy(supernet, dataset.preprocessing)

    def evaluate(weights):
        named = dict(zip(supernet.weight_shapes, weights, strict=True))
        return {
            tier.name: accuracy(
                named,
                tier.architecture,
                dataset.test_images,
                dataset.test_labels,
                FLAGS.test_batch_size,
            )
            for tier in tiers
        }

    paths = report.run_paths(FLAGS.out)
    settings = _keep_settings(paths["settings"], space, time_settings(simulated_time, tiers))
    print(
        f"{FLAGS.algorithm} of {space.name} ({space.size:,} subnets) on {dataset.name}: "
        f"{len(partition)} clients, {FLAGS.clients_per_round} a round, {FLAGS.rounds} rounds. "
        f"Run folder: {FLAGS.out}",
        flush=True,
    )

    if privacy is not None:
        print(privacy, flush=True)

    def on_start(done):
        if done >= FLAGS.rounds:
            print(f"All {done} rounds were done before.", flush=True)
        elif done:
            print(f"Continuing after round {done}.", flush=True)

    def on_round(round_report):
        print(report.progress_line(round_report, FLAGS.rounds), flush=True)

    def save(number, weights):
        supernet.assign_weights(dict(zip(supernet.weight_shapes, weights, strict=True)))
        information = {
            "round": number,
            "settings": settings,
            "preprocessing": dataset.preprocessing.to_json(),
            "class_names": list(dataset.class_names),
            "tiers": [[tier.name, tier.architecture.to_json()] for tier in tiers],
        }
        supernet.save_checkpoint(paths["supernet"], information)

    metrics_manager = tff.program.GroupingReleaseManager(
        [
            tff.program.CSVFileReleaseManager(paths["metrics"], key_fieldname="round"),
            tff.program.TensorBoardReleaseManager(paths["tensorboard"]),
        ]
    )
    state_manager = tff.program.FileProgramStateManager(
        paths["state"], keep_total=2, keep_first=False
    )
    with execution_from_flags(FLAGS.clients_at_once or None):
        accuracies = asyncio.run(
            train(
                learning,
                ClientData(dataset, partition, assignment, only),
                FLAGS.rounds,
                state_manager=state_manager,
                metrics_manager=metrics_manager,
                count_bytes=count_bytes if only is None else lambda _: count_bytes(only),
                evaluate=evaluate,
                evaluate_every=FLAGS.evaluate_every,
                epsilon_after=None if privacy is None else privacy.epsilon_after,
                on_start=on_start,
                on_round=on_round,
                on_evaluated=save,
            )
        )
    title = f"{FLAGS.algorithm}, {space.name}, {dataset.name}"
    report.draw_curves(paths["metrics"], paths["curves"], title, tiers)
    print()
    print(report.final_table(space, tiers, accuracies, count_bytes))
    print(f"\n{time.monotonic() - start:.0f} s. In {FLAGS.out}:")
    for key in ("supernet", "metrics", "curves", "tensorboard"):
        print(f"  {os.path.basename(paths[key])}")


def _keep_settings(path: str, space, of_files: dict) -> dict:
    """Writes the run's settings, or checks that a run to be continued had the same."""
    settings = {
        name: flag.value
        for module in _SETTINGS_MODULES
        for name, flag in (
            (flag.name, flag) for flag in FLAGS.flags_by_module_dict().get(module, [])
        )
        if name not in _FREE_TO_CHANGE
    }
    if FLAGS.schedule == "constant":
        del settings["rounds"]
    settings["space"] = space.to_json()
    settings.update(of_files)
    settings = json.loads(json.dumps(settings))
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
        changed = sorted(
            name
            for name in before.keys() | settings.keys()
            if before.get(name) != settings.get(name)
        )
        if changed:
            told = "; ".join(f"--{n} was {before.get(n)}, is {settings.get(n)}" for n in changed)
            raise ValueError(
                f"The run in {FLAGS.out!r} was started with other settings: {told}. Repeat its "
                "flags to continue it, or give another --out."
            )
    else:
        write_json(path, dict(sorted(settings.items())))
    return settings
