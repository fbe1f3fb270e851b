"""Flags of `fedsup train`, and what they mean: hyper-parameters, tiers, the server's optimizer."""

import numpy as np
import tensorflow_federated as tff

from fedsup_tf.architecture import Architecture
from fedsup_tf.local_training import MOST_SANDWICH, TEACHERS, LocalTraining
from fedsup_tf.mean_choices import SERVER_OPTIMIZERS
from fedsup_tf.space import NORMALIZATIONS, SearchSpace
from tff_programs.learning import schedule
from tff_programs.learning.server_optimizer import build_server_optimizer
from tff_programs.programs.flags.flag_uses import FlagUse
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags
from tff_programs.simulation.cohorts import COHORTS
from tff_programs.simulation.tiers import parse_tiers

_DEFAULTS = LocalTraining()
_NET_ALGORITHMS = ("fedavg", "exclusive")
# Share of the classes up to which a client has few of them.
_FEW_CLASSES = 0.3


def define_train_flags(define: FlagDefiner) -> None:
    """Defines the flags of a training that say what clients and the server do."""
    define.output_folder("out", None, "Folder of the run; a run that is there is continued.")
    define.path("space", "digits_small", "Search space: a preset's name or a JSON file.")
    define.enum(
        "normalization",
        None,
        NORMALIZATIONS,
        "The nets' normalization: of a preset parametric by default; that of a space's file cannot "
        "be changed.",
    )
    define.enum(
        "algorithm",
        "e_fedsup",
        ["e_fedsup", "fedsup", "fedavg", "exclusive"],
        "e_fedsup: each client gets a subnet that its tier carries. fedsup: all get the supernet. "
        "fedavg: all train --architecture. exclusive: those whose tier carries it train "
        "--architecture, the others nothing.",
    )
    define.path(
        "architecture", "largest", "Net of fedavg and exclusive: smallest, largest or a JSON file."
    )
    define.path(
        "initial",
        None,
        "Supernet of the same search space, with which the first round begins: all weights that "
        "fit by name and slice. Where the classes are others, the classifier begins at random.",
    )
    define.list(
        "frozen",
        None,
        "Parts of the nets that clients do not train nor send back: stem, head, names of stages.",
    )
    define.integer("rounds", 60, "Rounds of the whole run.", lower_bound=1)
    define.integer(
        "clients_per_round",
        10,
        "Clients asked in a round. By default 10, or all where there are fewer.",
        lower_bound=1,
    )
    define.integer("epochs", _DEFAULTS.epochs, "Local epochs.", lower_bound=1)
    define.integer("batch_size", _DEFAULTS.batch_size, "Local batch size.", lower_bound=1)
    define.float("learning_rate", 0.1, "Clients' learning rate in the first round.", above=0)
    define.enum("schedule", "constant", schedule.SCHEDULES, "Learning rate over the rounds.")
    define.float("momentum", _DEFAULTS.momentum, "Clients' momentum.", lower_bound=0, upper_bound=1)
    define.float("weight_decay", _DEFAULTS.weight_decay, "Clients' weight decay.", lower_bound=0)
    define.float(
        "clip_norm",
        3.0,
        "Largest l2 norm of a step's gradient, of all weights together; inf for none.",
        above=0,
        allow_infinity=True,
    )
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
        "sandwich",
        None,
        "Nets trained in each step: the received one, the smallest and random ones between. By "
        "default 3; 1 for fedavg and exclusive.",
        lower_bound=1,
        upper_bound=MOST_SANDWICH,
    )
    define.float("temperature", _DEFAULTS.temperature, "Temperature of the distillation.", above=0)
    define.float(
        "label_share",
        0.5,
        "Share of the labels in the loss of a sandwich's nets that have a teacher; the rest is "
        "distillation.",
        lower_bound=0,
        upper_bound=1,
    )
    define.float(
        "received_weight",
        2.0,
        "Weight of the received net's loss in a sandwich, beside 1 for each other net.",
        above=0,
    )
    define.float(
        "absent_class_weight",
        _DEFAULTS.absent_class_weight,
        "Weight in a client's softmax of the classes that it has no example of; 1: plain softmax.",
        above=0,
        upper_bound=1,
    )
    define.enum(
        "teacher",
        "ensemble",
        TEACHERS,
        "Teacher in a sandwich: the mean prediction of all its nets for all of them, or the "
        "received net for the smaller ones.",
    )
    define.enum(
        "server_optimizer", "nesterov", SERVER_OPTIMIZERS, "Optimizer of the mean update (FedOpt)."
    )
    define.float(
        "server_learning_rate",
        None,
        "Learning rate of the server optimizer. By default 0.8 for nesterov, else 1.",
        above=0,
    )
    define.float("server_momentum", 0.9, "Momentum of nesterov and sgdm.", lower_bound=0, below=1)
    define.float(
        "averaging",
        0.9,
        "Share that the average of the rounds' weights keeps; 0: none.",
        lower_bound=0,
        below=1,
    )
    define.paths(
        "tiers",
        [],
        "Device tiers: smallest, largest, an architecture's JSON file, or bounds of parameters "
        "such as 500000-900000 or macs:1000000-5000000, each with @SHARE if wanted. By default "
        "four from smallest to largest.",
    )
    define.bool(
        "redraw", True, "Draw a client's subnet anew in each round, from all that its tier carries."
    )
    define.float(
        "tier_net_share",
        0.3,
        "With redraw, the chance to draw the tier's own subnet.",
        lower_bound=0,
        upper_bound=1,
    )
    define.enum(
        "cohorts",
        None,
        COHORTS,
        "passes: all clients are asked once before any is asked again. random: independent draws. "
        "By default passes; random with privacy, which needs it.",
    )
    define.bool("cohort_sandwich", False, "Each round trains a smallest and a largest subnet.")
    define.float(
        "availability", 1.0, "Chance that a client that was asked answers.", above=0, upper_bound=1
    )
    define.integer("evaluate_every", 10, "Rounds from one evaluation to the next.", lower_bound=1)
    define.integer(
        "random_subnets", 20, "Random subnets of an evaluation, beside the tiers'.", lower_bound=0
    )
    define.integer("test_batch_size", 50, "Images normalized together in a test.", lower_bound=1)


def local_training_from_flags(options: ProgramFlags) -> LocalTraining:
    """Reads the clients' hyper-parameters."""
    sandwich = options.sandwich
    if sandwich is None:
        sandwich = 3 if options.algorithm in ("e_fedsup", "fedsup") else 1
    return LocalTraining(
        epochs=options.epochs,
        batch_size=options.batch_size,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        clip_norm=options.clip_norm,
        clip_value=options.clip_value,
        label_smoothing=options.label_smoothing,
        sandwich=sandwich,
        temperature=options.temperature,
        teacher=options.teacher,
        label_share=options.label_share,
        received_weight=options.received_weight,
        absent_class_weight=options.absent_class_weight,
        frozen=tuple(options.frozen or ()),
    )


def note_on_few_classes(options: ProgramFlags, label_counts: np.ndarray) -> str | None:
    """Advises `--absent_class_weight` where clients hold few classes and it was not given.

    Args:
      options: The flags.
      label_counts: Each client's training examples of each class, `(clients, classes)`.

    Returns:
      A sentence for the user; None where there is nothing to advise.
    """
    classes = label_counts.shape[1]
    held = np.count_nonzero(label_counts, axis=1)
    mean = held[held > 0].mean() if held.any() else classes
    if mean > _FEW_CLASSES * classes or options["absent_class_weight"].present:
        return None
    return (
        f"note: A client holds {mean:.1f} of {classes} classes in the mean. Where clients held 2 "
        "of 10, nets became more accurate with --absent_class_weight=0.03; 1 is the plain softmax, "
        "which is used now."
    )


def clients_per_round_from_flags(options: ProgramFlags, clients: int) -> int:
    """Returns how many of the clients are asked in a round."""
    asked = options.clients_per_round
    return asked if options["clients_per_round"].present else min(asked, clients)


def fixed_architecture_from_flags(options: ProgramFlags, space: SearchSpace) -> Architecture | None:
    """The one net that all clients receive; None where each gets its tier's."""
    if options.algorithm == "e_fedsup":
        return None
    if options.algorithm == "fedsup":
        return space.largest()
    return parse_tiers(space, [options.architecture], options.seed)[0].architecture


def server_rate_from_flags(options: ProgramFlags) -> float | None:
    """Returns the server's learning rate; None where its optimizer's own default holds."""
    if options.server_learning_rate is None and options.server_optimizer == "nesterov":
        return 0.8
    return options.server_learning_rate


def server_optimizer_from_flags(options: ProgramFlags) -> tff.learning.optimizers.Optimizer | None:
    """Makes the server's optimizer; None where the mean update is added."""
    return build_server_optimizer(
        options.server_optimizer, server_rate_from_flags(options), options.server_momentum
    )


# Flags of a training that have an effect beside others alone.
TRAIN_FLAG_USES = (
    FlagUse(
        ("architecture",),
        f"--algorithm={' or '.join(_NET_ALGORITHMS)}",
        lambda options: options.algorithm in _NET_ALGORITHMS,
    ),
    FlagUse(
        ("teacher", "label_share", "received_weight", "temperature"),
        "--sandwich of 2 nets or more",
        lambda options: local_training_from_flags(options).sandwich > 1,
    ),
    FlagUse(
        ("server_learning_rate",),
        "--server_optimizer=nesterov, sgdm or adam",
        lambda options: options.server_optimizer != "none",
    ),
    FlagUse(
        ("server_momentum",),
        "--server_optimizer=nesterov or sgdm",
        lambda options: options.server_optimizer in ("nesterov", "sgdm"),
    ),
    FlagUse(("tier_net_share",), "--redraw", lambda options: options.redraw),
    FlagUse(
        ("delta", "noise_seed"),
        "--noise_multiplier above 0",
        lambda options: options.noise_multiplier > 0,
    ),
    FlagUse(
        ("utc_offsets",),
        "--availability_trace=diurnal",
        lambda options: options.availability_trace == "diurnal",
    ),
)
