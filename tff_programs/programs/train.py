"""fedsup train: trains a supernet by federated learning and saves all that is needed to resume.

If the run is killed, the same command continues with the interrupted round, and ends with the same
weights as an uninterrupted run.
"""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fedsup_tf.architecture import Architecture
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.frozen import check_frozen, untrained_parts
from fedsup_tf.initial_weights import load_initial_weights
from fedsup_tf.local_training import NEUTRAL_VALUES
from fedsup_tf.presets import PRESETS, load_space
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet
from tff_programs.learning import schedule, training_process
from tff_programs.learning.message_size import traffic_counter
from tff_programs.programs.checkpoint import TrainedSupernet, load_trained
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.aggregation_flags import (
    aggregator_from_flags,
    define_aggregation_flags,
    privacy_from_flags,
    upload_from_flags,
)
from tff_programs.programs.flags.data_flags import (
    data_settings_from_flags,
    data_settings_of_run,
    define_data_flags,
    load_data,
)
from tff_programs.programs.flags.execution_flags import define_execution_flags, execution_from_flags
from tff_programs.programs.flags.flag_uses import check_flag_uses
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags, parse_flags_only
from tff_programs.programs.flags.time_flags import (
    define_time_flags,
    simulated_time_from_flags,
    time_settings,
)
from tff_programs.programs.flags.train_flags import (
    TRAIN_FLAG_USES,
    clients_per_round_from_flags,
    define_train_flags,
    fixed_architecture_from_flags,
    local_training_from_flags,
    note_on_few_classes,
    server_optimizer_from_flags,
    server_rate_from_flags,
)
from tff_programs.programs.subnet_evaluation import calibrated_accuracy
from tff_programs.programs.training_information import trained_tiers
from tff_programs.programs.training_run import TrainingRun, train_run
from tff_programs.reports import report
from tff_programs.simulation.cohorts import default_cohorts
from tff_programs.simulation.round_plan import Assignment
from tff_programs.simulation.tiers import default_tiers, parse_tiers

# Definitions of the flags that are settings of the run, in addition to those of its data, and the
# flags among them that may change when the run is continued.
_SETTINGS = (define_train_flags, define_aggregation_flags, define_time_flags)
_FREE_TO_CHANGE = (
    "out",
    "evaluate_every",
    "random_subnets",
    "calibrated_accuracy",
    # Its content is a setting of the run, see `run_settings`.
    "initial",
)


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    for define_settings in (define_data_flags, *_SETTINGS):
        define_settings(define)
    define_execution_flags(define)


def main(argv: Sequence[str]) -> None:
    """Trains the run that the flags describe."""
    run(parse_flags_only(define_flags, argv))


def run(options: ProgramFlags) -> None:
    """Trains the run that the flags describe; prints and saves its progress and results."""
    if not options.out:
        raise ValueError("Expected --out=FOLDER, where the run is kept.")
    start = time.monotonic()
    planned = run_from_flags(options)
    with execution_from_flags(options):
        accuracies = {"accuracy": train_run(planned, options.out, print_line)}
    paths = report.run_paths(options.out)
    if options.calibrated_accuracy:
        trained = load_trained(paths["supernet"], {"data_dir": options.data_dir}, data=planned.data)
        accuracies["calibrated"] = _calibrated_accuracies(trained, planned.architecture)
    assignment = planned.assignment
    print()
    print(report.final_table(assignment.space, assignment.tiers, accuracies, planned.count_bytes))
    print(f"\n{time.monotonic() - start:.0f} s. In {options.out}:")
    for key in ("supernet", "metrics", "curves", "tensorboard"):
        print(f"  {os.path.basename(paths[key])}")


def _calibrated_accuracies(
    trained: TrainedSupernet, architecture: Architecture | None
) -> dict[str, float]:
    """Computes the accuracies of the trained tiers' nets as phones get them, by tier name."""
    dataset = trained.data.dataset
    accuracy = calibrated_accuracy(trained)
    calibrated = {}
    for tier in trained_tiers(trained.information):
        if architecture in (None, tier.architecture):
            print_line(f"calibrating {tier.name}, as phones get it")
            calibrated[tier.name] = accuracy(
                trained.weights, tier.architecture, dataset.test_images, dataset.test_labels
            )
    return calibrated


def run_from_flags(options: ProgramFlags) -> TrainingRun:
    """Returns the run that the flags describe.

    Raises:
      ValueError: If flags, or files that they name, are inconsistent.
    """
    check_flag_uses(options, TRAIN_FLAG_USES)
    data, space = _data_and_space(options)
    tiers = parse_tiers(space, options.tiers, options.seed)
    tiers = tiers or default_tiers(space, options.seed, print_line)
    architecture = fixed_architecture_from_flags(options, space)
    initial = None
    if options.initial:
        initial = load_initial_weights(options.initial, space, data.class_names, options.seed)
    supernet = Supernet(space)
    local_training = local_training_from_flags(options)
    note = note_on_few_classes(options, data.label_counts())
    if note is not None:
        print_line(note)
    check_frozen(space, local_training.frozen)
    untrained = untrained_parts(local_training.frozen, None if initial is None else initial.new)
    if untrained:
        print_line(
            f"note: Frozen parts begin with random weights and keep them: {', '.join(untrained)}. "
            "Give initial weights that have them, or do not freeze them."
        )
    nested = local_training.sandwich > 1
    count_bytes = _count_what_travels(
        traffic_counter(supernet, nested, upload_from_flags(options), local_training.frozen),
        architecture,
    )
    simulated_time = simulated_time_from_flags(
        options,
        space,
        tiers,
        data.train_sizes,
        local_training,
        count_bytes,
        architecture,
        options.seed,
    )
    assignment = Assignment(
        space=space,
        tiers=tiers,
        clients=len(data),
        clients_per_round=clients_per_round_from_flags(options, len(data)),
        seed=options.seed,
        redraw=options.redraw,
        tier_net_share=options.tier_net_share,
        cohorts=options.cohorts or default_cohorts(options.noise_multiplier),
        sandwich=options.cohort_sandwich,
        availability=options.availability,
        architecture=architecture if options.algorithm == "exclusive" else None,
        time=simulated_time,
        cohort_seed=options.cohort_seed,
    )
    process = training_process.build_fedsup_process(
        space,
        local_training,
        data.preprocessing,
        schedule.build_schedule(options.schedule, options.learning_rate, options.rounds),
        architecture=architecture,
        aggregation=aggregator_from_flags(options, supernet, nested),
        weighting=options.weighting,
        server_optimizer=server_optimizer_from_flags(options),
        averaging=options.averaging,
        seed=options.seed,
    )
    return TrainingRun(
        name=options.algorithm,
        process=process,
        data=data,
        assignment=assignment,
        rounds=options.rounds,
        count_bytes=count_bytes,
        settings={
            **_settings(options, space, time_settings(simulated_time, tiers)),
            **data_settings_of_run(options, data),
        },
        architecture=architecture,
        privacy=privacy_from_flags(options, assignment),
        epochs=local_training.epochs,
        evaluate_every=options.evaluate_every,
        test_batch_size=options.test_batch_size,
        random_subnets=options.random_subnets,
        initial=initial,
    )


def _data_and_space(options: ProgramFlags) -> tuple[FederatedDataset, SearchSpace]:
    """Loads the data and the search space.

    A preset adopts the image shape of the data. A space from a file determines it instead, and so
    does a preset with several resolutions, the largest of which is the height of its images.

    Raises:
      ValueError: If the data and the space are inconsistent.
    """
    shape = None
    given = load_space(options.space)
    if options.space not in PRESETS:
        shape = given.image_shape
        options.let_override("space", others=("image_shape", "normalization"))
    elif given.resolutions:
        shape = given.image_shape
        options.let_override("space", others=("image_shape",))
        if options.image_shape and int(options.image_shape[0]) != shape[0]:
            raise ValueError(
                f"--space={options.space} takes pictures of {shape[0]} x {shape[1]} pixels, and "
                f"makes smaller ones of them itself, received --image_shape="
                f"{','.join(options.image_shape)}. Leave it out, or choose another space."
            )
    data = load_data(options, data_settings_from_flags(options, shape))
    space = load_space(
        options.space,
        classes=len(data.class_names),
        image_shape=data.image_shape,
        normalization=options.normalization,
    )
    return data, space


def _count_what_travels(count_bytes, architecture: Architecture | None):
    """Returns `count_bytes` for the one net that all clients receive, or for each client's own."""
    return count_bytes if architecture is None else lambda _: count_bytes(architecture)


def _settings(
    options: ProgramFlags, space: SearchSpace, of_files: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the flags that must not change when a run is continued, and their files' content."""
    names = [name for define in _SETTINGS for name in ProgramFlags(define)]
    settings = {name: options[name].value for name in names if name not in _FREE_TO_CHANGE}
    # The effective value, whatever determined it, as in runs of earlier versions.
    settings["normalization"] = space.normalization
    # Runs without this setting had another default, and cannot be continued with this one.
    settings["server_learning_rate"] = server_rate_from_flags(options)
    for name, value in NEUTRAL_VALUES.items():
        if settings[name] == value:
            # As in runs of earlier versions.
            settings[name] = None
    if options.schedule == "constant":
        del settings["rounds"]
    for secret in ("cohort_seed", "noise_seed"):
        # Only hashes are saved, since the settings travel with the supernet: one seed reveals which
        # clients took part, and the other allows the noise to be subtracted.
        if options[secret].value is not None:
            digest = hashlib.sha256(str(options[secret].value).encode())
            settings[secret] = digest.hexdigest()
    return {**settings, **of_files}
