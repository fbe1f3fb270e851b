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

from fedsup_tf import slicing
from fedsup_tf.accuracy import build_accuracy
from fedsup_tf.architecture import Architecture
from fedsup_tf.checkpoint import write_json
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.space import load_space
from fedsup_tf.supernet import Supernet
from tff_programs import aggregation, process, report, schedule
from tff_programs.assignment import Assignment, default_tiers, parse_tiers
from tff_programs.clients import ClientData
from tff_programs.flags import define_data_flags, load_federated_data_from_flags
from tff_programs.runtime import local_execution
from tff_programs.traffic import traffic_counter
from tff_programs.training import train

FLAGS = flags.FLAGS
_DEFAULTS = LocalTraining()
# Flags that may differ when a run is continued.
_FREE_TO_CHANGE = ("out", "data_dir", "evaluate_every", "clients_at_once")

define_data_flags()
flags.DEFINE_string("out", None, "Folder of the run; a run that is there is continued.")
flags.DEFINE_string("space", "digits_small", "Search space: a preset's name or a JSON file.")
flags.DEFINE_enum(
    "normalization", "parametric", ["parametric", "group"], "The nets' normalization."
)
flags.DEFINE_enum(
    "algorithm",
    "e_fedsup",
    ["e_fedsup", "fedsup", "fedavg"],
    "e_fedsup: each client gets its tier's subnet. fedsup: all get the supernet and train a "
    "sandwich of nets. fedavg: all train --architecture.",
)
flags.DEFINE_string("architecture", "largest", "Of fedavg: smallest, largest or a JSON file.")
flags.DEFINE_integer("rounds", 60, "Rounds of the whole run.", lower_bound=1)
flags.DEFINE_integer("clients_per_round", 10, "Clients asked in a round.", lower_bound=1)
flags.DEFINE_integer("epochs", _DEFAULTS.epochs, "Local epochs.", lower_bound=1)
flags.DEFINE_integer("batch_size", _DEFAULTS.batch_size, "Local batch size.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.1, "Clients' learning rate in the first round.")
flags.DEFINE_enum("schedule", "constant", schedule.SCHEDULES, "Learning rate over the rounds.")
flags.DEFINE_float("momentum", _DEFAULTS.momentum, "Clients' momentum.")
flags.DEFINE_float("weight_decay", _DEFAULTS.weight_decay, "Clients' weight decay.")
flags.DEFINE_float("clip_value", _DEFAULTS.clip_value, "Largest entry of a gradient; inf for none.")
flags.DEFINE_float("label_smoothing", _DEFAULTS.label_smoothing, "Share spread over the classes.")
flags.DEFINE_integer(
    "sandwich", None, "Nets trained in each step; 1, or 3 for fedsup.", lower_bound=1
)
flags.DEFINE_float("temperature", _DEFAULTS.temperature, "Of the sandwich's distillation.")
flags.DEFINE_enum(
    "aggregation", "coverage", aggregation.KINDS, "How overlapping slices are averaged."
)
flags.DEFINE_enum("weighting", "examples", slicing.WEIGHTINGS, "What a client counts by.")
flags.DEFINE_enum(
    "server_optimizer", "none", ["none", "sgdm", "adam"], "FedOpt on the mean update."
)
flags.DEFINE_float("server_learning_rate", 1.0, "Of the server optimizer.")
flags.DEFINE_float(
    "averaging", 0.0, "Share that the average of the rounds' weights keeps; 0: none."
)
flags.DEFINE_list(
    "tiers",
    [],
    "Device tiers: smallest, largest, an architecture's JSON file or bounds of parameters such as "
    "500000-900000, each with @SHARE if wanted. By default four from smallest to largest.",
)
flags.DEFINE_bool("redraw", False, "Draw another subnet within a tier's bounds each round.")
flags.DEFINE_bool("cohort_sandwich", False, "Each round trains a smallest and a largest subnet.")
flags.DEFINE_float("availability", 1.0, "Chance that a client that was asked answers.")
flags.DEFINE_integer("evaluate_every", 10, "Rounds from one evaluation to the next.", lower_bound=1)
flags.DEFINE_integer("test_batch_size", 50, "Images normalized together in a test.", lower_bound=1)
flags.DEFINE_integer("clients_at_once", 0, "Clients computed side by side; 0 for one a core.")


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
    assignment = Assignment(
        space=space,
        tiers=tiers,
        clients=len(partition),
        clients_per_round=FLAGS.clients_per_round,
        seed=FLAGS.seed,
        redraw=FLAGS.redraw,
        sandwich=FLAGS.cohort_sandwich,
        availability=FLAGS.availability,
    )
    only = _only_architecture(space)
    supernet = Supernet(space)
    local_training = _local_training()
    count_bytes = traffic_counter(supernet, with_subnets=local_training.sandwich > 1)
    learning = process.build_fedsup_process(
        space,
        local_training,
        dataset.preprocessing,
        schedule.build_schedule(FLAGS.schedule, FLAGS.learning_rate, FLAGS.rounds),
        architecture=only,
        aggregation=FLAGS.aggregation,
        weighting=FLAGS.weighting,
        server_optimizer=_server_optimizer(),
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
    settings = _keep_settings(paths["settings"], space)
    print(
        f"{FLAGS.algorithm} of {space.name} ({space.size:,} subnets) on {dataset.name}: "
        f"{len(partition)} clients, {FLAGS.clients_per_round} a round, {FLAGS.rounds} rounds. "
        f"Run folder: {FLAGS.out}",
        flush=True,
    )

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
        supernet.save(paths["supernet"], information)

    metrics_manager = tff.program.GroupingReleaseManager(
        [
            tff.program.CSVFileReleaseManager(paths["metrics"], key_fieldname="round"),
            tff.program.TensorBoardReleaseManager(paths["tensorboard"]),
        ]
    )
    state_manager = tff.program.FileProgramStateManager(
        paths["state"], keep_total=2, keep_first=False
    )
    with local_execution(FLAGS.clients_at_once or None):
        accuracies = asyncio.run(
            train(
                learning,
                ClientData(dataset, partition, assignment),
                FLAGS.rounds,
                state_manager=state_manager,
                metrics_manager=metrics_manager,
                count_bytes=count_bytes if only is None else lambda _: count_bytes(only),
                evaluate=evaluate,
                evaluate_every=FLAGS.evaluate_every,
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


def _local_training() -> LocalTraining:
    sandwich = FLAGS.sandwich
    if sandwich is None:
        sandwich = 3 if FLAGS.algorithm == "fedsup" else 1
    return LocalTraining(
        epochs=FLAGS.epochs,
        batch_size=FLAGS.batch_size,
        momentum=FLAGS.momentum,
        weight_decay=FLAGS.weight_decay,
        clip_value=FLAGS.clip_value,
        label_smoothing=FLAGS.label_smoothing,
        sandwich=sandwich,
        temperature=FLAGS.temperature,
    )


def _only_architecture(space) -> Architecture | None:
    if FLAGS.algorithm == "e_fedsup":
        return None
    if FLAGS.algorithm == "fedsup":
        return space.largest()
    return parse_tiers(space, [FLAGS.architecture], FLAGS.seed)[0].architecture


def _server_optimizer():
    if FLAGS.server_optimizer == "none":
        return None
    if FLAGS.server_optimizer == "sgdm":
        return tff.learning.optimizers.build_sgdm(FLAGS.server_learning_rate, momentum=0.9)
    return tff.learning.optimizers.build_adam(FLAGS.server_learning_rate, epsilon=1e-3)


def _keep_settings(path: str, space) -> dict:
    """Writes the run's settings, or checks that a run to be continued had the same."""
    settings = {
        name: flag.value
        for module in ("tff_programs.flags", "tff_programs.train")
        for name, flag in (
            (flag.name, flag) for flag in FLAGS.flags_by_module_dict().get(module, [])
        )
        if name not in _FREE_TO_CHANGE
    }
    if FLAGS.schedule == "constant":
        del settings["rounds"]
    settings["space"] = space.to_json()
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
