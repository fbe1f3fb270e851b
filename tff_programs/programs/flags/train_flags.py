"""Flags of `fedsup train`, and what they mean: hyper-parameters, tiers, the server's optimizer."""

import tensorflow_federated as tff
from absl import flags

from fedsup_tf.architecture import Architecture
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.space import SearchSpace
from tff_programs.learning import schedule
from tff_programs.simulation.tiers import parse_tiers

FLAGS = flags.FLAGS
_DEFAULTS = LocalTraining()

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
flags.DEFINE_integer(
    "clients_at_once", 0, "Clients computed side by side, a process each; 0 for one a core."
)


def local_training_from_flags() -> LocalTraining:
    """The clients' hyper-parameters."""
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


def only_architecture_from_flags(space: SearchSpace) -> Architecture | None:
    """The one net that all clients receive; None where each gets its tier's."""
    if FLAGS.algorithm == "e_fedsup":
        return None
    if FLAGS.algorithm == "fedsup":
        return space.largest()
    return parse_tiers(space, [FLAGS.architecture], FLAGS.seed)[0].architecture


def server_optimizer_from_flags() -> tff.learning.optimizers.Optimizer | None:
    """FedOpt's optimizer on the server; None where the mean update is added."""
    if FLAGS.server_optimizer == "none":
        return None
    if FLAGS.server_optimizer == "sgdm":
        return tff.learning.optimizers.build_sgdm(FLAGS.server_learning_rate, momentum=0.9)
    return tff.learning.optimizers.build_adam(FLAGS.server_learning_rate, epsilon=1e-3)
