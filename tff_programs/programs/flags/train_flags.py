"""Flags of `fedsup train`, and what they mean: hyper-parameters, tiers, the server's optimizer."""

import tensorflow_federated as tff

from fedsup_tf.architecture import Architecture
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.space import SearchSpace
from tff_programs.learning import schedule
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags
from tff_programs.simulation.tiers import parse_tiers

_DEFAULTS = LocalTraining()


def define_train_flags(define: FlagDefiner) -> None:
    """Defines the flags of a training that say what clients and the server do."""
    define.output_folder("out", None, "Folder of the run; a run that is there is continued.")
    define.path("space", "digits_small", "Search space: a preset's name or a JSON file.")
    define.enum("normalization", "parametric", ["parametric", "group"], "The nets' normalization.")
    define.enum(
        "algorithm",
        "e_fedsup",
        ["e_fedsup", "fedsup", "fedavg"],
        "e_fedsup: each client gets its tier's subnet. fedsup: all get the supernet and train a "
        "sandwich of nets. fedavg: all train --architecture.",
    )
    define.path("architecture", "largest", "Of fedavg: smallest, largest or a JSON file.")
    define.integer("rounds", 60, "Rounds of the whole run.", lower_bound=1)
    define.integer("clients_per_round", 10, "Clients asked in a round.", lower_bound=1)
    define.integer("epochs", _DEFAULTS.epochs, "Local epochs.", lower_bound=1)
    define.integer("batch_size", _DEFAULTS.batch_size, "Local batch size.", lower_bound=1)
    define.float("learning_rate", 0.1, "Clients' learning rate in the first round.", above=0)
    define.enum("schedule", "constant", schedule.SCHEDULES, "Learning rate over the rounds.")
    define.float("momentum", _DEFAULTS.momentum, "Clients' momentum.", lower_bound=0, upper_bound=1)
    define.float("weight_decay", _DEFAULTS.weight_decay, "Clients' weight decay.", lower_bound=0)
    define.float(
        "clip_value",
        _DEFAULTS.clip_value,
        "Largest entry of a gradient; inf for none.",
        above=0,
        allow_infinity=True,
    )
    define.float(
        "label_smoothing",
        _DEFAULTS.label_smoothing,
        "Share spread over the classes.",
        lower_bound=0,
        upper_bound=1,
    )
    define.integer(
        "sandwich", None, "Nets trained in each step; 1, or 3 for fedsup.", lower_bound=1
    )
    define.float("temperature", _DEFAULTS.temperature, "Of the sandwich's distillation.", above=0)
    define.enum("server_optimizer", "none", ["none", "sgdm", "adam"], "FedOpt on the mean update.")
    define.float("server_learning_rate", 1.0, "Of the server optimizer.", above=0)
    define.float(
        "averaging",
        0.0,
        "Share that the average of the rounds' weights keeps; 0: none.",
        lower_bound=0,
        below=1,
    )
    define.paths(
        "tiers",
        [],
        "Device tiers: smallest, largest, an architecture's JSON file or bounds of parameters such "
        "as 500000-900000, each with @SHARE if wanted. By default four from smallest to largest.",
    )
    define.bool("redraw", False, "Draw another subnet within a tier's bounds each round.")
    define.bool("cohort_sandwich", False, "Each round trains a smallest and a largest subnet.")
    define.float(
        "availability", 1.0, "Chance that a client that was asked answers.", above=0, upper_bound=1
    )
    define.integer("evaluate_every", 10, "Rounds from one evaluation to the next.", lower_bound=1)
    define.integer("test_batch_size", 50, "Images normalized together in a test.", lower_bound=1)
    define.integer(
        "clients_at_once",
        0,
        "Clients computed side by side, a process each; 0 for one a core.",
        lower_bound=0,
        upper_bound=1024,
    )


def local_training_from_flags(options: ProgramFlags) -> LocalTraining:
    """The clients' hyper-parameters."""
    sandwich = options.sandwich
    if sandwich is None:
        sandwich = 3 if options.algorithm == "fedsup" else 1
    return LocalTraining(
        epochs=options.epochs,
        batch_size=options.batch_size,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        clip_value=options.clip_value,
        label_smoothing=options.label_smoothing,
        sandwich=sandwich,
        temperature=options.temperature,
    )


def only_architecture_from_flags(options: ProgramFlags, space: SearchSpace) -> Architecture | None:
    """The one net that all clients receive; None where each gets its tier's."""
    if options.algorithm == "e_fedsup":
        return None
    if options.algorithm == "fedsup":
        return space.largest()
    return parse_tiers(space, [options.architecture], options.seed)[0].architecture


def server_optimizer_from_flags(options: ProgramFlags) -> tff.learning.optimizers.Optimizer | None:
    """FedOpt's optimizer on the server; None where the mean update is added."""
    if options.server_optimizer == "none":
        return None
    if options.server_optimizer == "sgdm":
        return tff.learning.optimizers.build_sgdm(options.server_learning_rate, momentum=0.9)
    return tff.learning.optimizers.build_adam(options.server_learning_rate, epsilon=1e-3)
