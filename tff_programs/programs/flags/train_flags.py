"""Flags of `fedsup train` and their meaning: hyper-parameters, tiers and the server optimizer."""

import numpy as np
import tensorflow_federated as tff

from fedsup_tf.architecture import Architecture
from fedsup_tf.local_training import MAX_SANDWICH, TEACHERS, LocalTraining
from fedsup_tf.mean_choices import DEFAULT_SERVER_RATES, SERVER_OPTIMIZERS
from fedsup_tf.space import NORMALIZATIONS, SearchSpace
from tff_programs.learning import schedule
from tff_programs.learning.server_optimizer import build_server_optimizer
from tff_programs.programs.flags.flag_uses import FlagUse
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags
from tff_programs.simulation.cohorts import COHORTS
from tff_programs.simulation.tiers import parse_tiers

_DEFAULTS = LocalTraining()
_NET_ALGORITHMS = ("fedavg", "exclusive")
# Clients that hold at most this share of the classes hold few of them.
_FEW_CLASSES = 0.3


def define_train_flags(define: FlagDefiner) -> None:
    """Defines the flags of a training for the clients and the server."""
    define.output_folder("out", None, "Folder of the run; an existing run is continued.")
    define.path("space", "digits_small", "Search space: a preset's name or a JSON file.")
    define.enum(
        "normalization",
        None,
        NORMALIZATIONS,
        "Normalization of the nets; by default parametric for a preset. That of a space from a "
        "file cannot be changed.",
    )
    define.enum(
        "algorithm",
        "e_fedsup",
        ["e_fedsup", "fedsup", "fedavg", "exclusive"],
        "e_fedsup: each client receives a subnet that its tier can train. fedsup: all receive the "
        "supernet. fedavg: all train --architecture. exclusive: clients whose tier can train "
        "--architecture do, the others train nothing.",
    )
    define.path(
        "architecture", "largest", "Net of fedavg and exclusive: smallest, largest or a JSON file."
    )
    define.path(
        "initial",
        None,
        "Supernet from which the first round takes all weights that fit by name and slice. If its "
        "classes differ, the classifier is initialized at random.",
    )
    define.list(
        "frozen",
        None,
        "Parts of the nets that clients neither train nor send back: stem, head, names of stages.",
    )
    define.integer("rounds", 60, "Total number of rounds.", lower_bound=1)
    define.integer(
        "clients_per_round",
        10,
        "Number of clients asked in a round. By default 10, or all if there are fewer.",
        lower_bound=1,
    )
    define.integer("epochs", _DEFAULTS.epochs, "Number of local epochs.", lower_bound=1)
    define.integer("batch_size", _DEFAULTS.batch_size, "Local batch size.", lower_bound=1)
    define.float("learning_rate", 0.1, "Clients' learning rate in the first round.", above=0)
    define.enum("schedule", "constant", schedule.SCHEDULES, "Learning-rate schedule.")
    define.float("momentum", _DEFAULTS.momentum, "Clients' momentum.", lower_bound=0, upper_bound=1)
    define.float("weight_decay", _DEFAULTS.weight_decay, "Clients' weight decay.", lower_bound=0)
    define.float(
        "clip_norm",
        3.0,
        "Maximum L2 norm of a step's gradient over all weights; inf for no clipping.",
        above=0,
        allow_infinity=True,
    )
    define.float(
        "clip_value",
        _DEFAULTS.clip_value,
        "Maximum absolute value of a gradient's entries; inf for no clipping.",
        above=0,
        allow_infinity=True,
    )
    define.float(
        "label_smoothing",
        0.1,
        "Share of the target spread over the classes, as --absent_class_weight weights them.",
        lower_bound=0,
        upper_bound=1,
    )
    define.integer(
        "sandwich",
        None,
        "Number of nets trained in each step: the received one, the smallest and random ones in "
        "between. By default 3; 1 for fedavg and exclusive.",
        lower_bound=1,
        upper_bound=MAX_SANDWICH,
    )
    define.float("temperature", _DEFAULTS.temperature, "Temperature of the distillation.", above=0)
    define.float(
        "label_share",
        0.5,
        "Share of the labels in the loss of a sandwich's nets that have a teacher; the remainder "
        "is distillation.",
        lower_bound=0,
        upper_bound=1,
    )
    define.float(
        "received_weight",
        2.0,
        "Weight of the received net's loss in a sandwich; every other net has weight 1.",
        above=0,
    )
    define.float(
        "absent_class_weight",
        _DEFAULTS.absent_class_weight,
        "Weight of classes without examples in a client's softmax; 1 for the plain softmax.",
        above=0,
        upper_bound=1,
    )
    define.enum(
        "teacher",
        "ensemble",
        TEACHERS,
        "Teacher in a sandwich: the mean prediction of all its nets, for all of them (ensemble), "
        "or the received net, for the smaller ones (received).",
    )
    define.enum(
        "server_optimizer",
        "nesterov",
        SERVER_OPTIMIZERS,
        "Optimizer that applies the mean update (FedOpt).",
    )
    define.float(
        "server_learning_rate",
        None,
        "Learning rate of the server optimizer. By default 0.8 for nesterov, otherwise 1.",
        above=0,
    )
    define.float("server_momentum", 0.9, "Momentum of nesterov and sgdm.", lower_bound=0, below=1)
    define.float(
        "averaging",
        0.9,
        "Decay of the moving average of the weights over the rounds; 0 for no average.",
        lower_bound=0,
        below=1,
    )
    define.paths(
        "tiers",
        [],
        "Device tiers: smallest, largest, an architecture's JSON file, or bounds such as "
        "500000-900000 (parameters) or macs:1000000-5000000, each optionally with @SHARE. By "
        "default four from smallest to largest.",
    )
    define.bool(
        "redraw", True, "Draw a client's subnet in each round, from all that its tier can train."
    )
    define.float(
        "tier_net_share",
        0.3,
        "With --redraw, probability of drawing the tier's own subnet.",
        lower_bound=0,
        upper_bound=1,
    )
    define.enum(
        "cohorts",
        None,
        COHORTS,
        "passes: all clients are asked once before any is asked again. random: independent draws. "
        "By default passes, or random with differential privacy, which needs it.",
    )
    define.bool("cohort_sandwich", False, "Train a smallest and a largest subnet in each round.")
    define.float(
        "availability", 1.0, "Probability that an asked client responds.", above=0, upper_bound=1
    )
    define.integer("evaluate_every", 10, "Rounds from one evaluation to the next.", lower_bound=1)
    define.integer(
        "random_subnets", 20, "Random subnets to evaluate besides the tiers'.", lower_bound=0
    )
    define.integer(
        "test_batch_size", 50, "Images normalized together in evaluation.", lower_bound=1
    )
    define.bool(
        "calibrated_accuracy",
        True,
        "After the last round, also compute the accuracy of the tiers' nets as phones get them, "
        "calibrated on clients' images.",
    )


def local_training_from_flags(options: ProgramFlags) -> LocalTraining:
    """Returns the clients' hyper-parameters."""
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
    """Recommends `--absent_class_weight` if clients hold few classes and it was not given.

    Args:
      options: The program's flags.
      label_counts: Number of training examples of each client and class, `(clients, classes)`.

    Returns:
      A note for the user; None if there is nothing to recommend.
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
    """Returns the number of clients asked in a round."""
    asked = options.clients_per_round
    return asked if options["clients_per_round"].present else min(asked, clients)


def fixed_architecture_from_flags(options: ProgramFlags, space: SearchSpace) -> Architecture | None:
    """Returns the one net that all clients receive; None if each receives its tier's."""
    if options.algorithm == "e_fedsup":
        return None
    if options.algorithm == "fedsup":
        return space.largest()
    return parse_tiers(space, [options.architecture], options.seed)[0].architecture


def server_rate_from_flags(options: ProgramFlags) -> float | None:
    """Returns the server's learning rate; None for the optimizer's own default."""
    if options.server_learning_rate is None:
        return DEFAULT_SERVER_RATES.get(options.server_optimizer)
    return options.server_learning_rate


def server_optimizer_from_flags(options: ProgramFlags) -> tff.learning.optimizers.Optimizer | None:
    """Builds the server optimizer; returns None if the mean update is added unchanged."""
    return build_server_optimizer(
        options.server_optimizer, server_rate_from_flags(options), options.server_momentum
    )


# Flags of a training that only have an effect with others.
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
