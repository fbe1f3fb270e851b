"""Flags of `fedsup serve`: folder and database, rounds, and limits of devices."""

import os
from typing import Any

from fedsup_tf.mean_choices import (
    DEFAULT_SERVER_RATES,
    DIVISORS,
    SERVER_OPTIMIZERS,
    WEIGHTINGS,
)
from tff_programs.gateway.check_in import MAX_EPOCHS, MAX_LEARNING_RATE, Training
from tff_programs.gateway.database import Database, sqlite_file, sqlite_url
from tff_programs.gateway.pace import MAX_SECONDS, Pace
from tff_programs.gateway.rounds import RoundSettings
from tff_programs.gateway.secret_files import has_secret
from tff_programs.gateway.server import ServerSettings
from tff_programs.programs.flags.flag_uses import FlagUse, check_flag_uses
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags

_ROUNDS = RoundSettings(goal=10)
_PACE = Pace()
# With the maximum --over_asking, the number of asked devices still fits a 32-bit column.
_MAX_GOAL = 10_000_000
_MIN_PER_SECOND, _MAX_PER_SECOND = 0.001, 1e9
# Used if neither a flag nor the training sets one.
_LEARNING_RATE = 0.1
_SERVER = ServerSettings(Training(1, 0.1, 1.0))


def define_gateway_flags(define: FlagDefiner) -> None:
    """Defines the flags for `gateway_database`."""
    define.output_folder("out", None, "Folder of the gateway.")
    define.string(
        "database",
        None,
        "URL such as postgresql://user@host/name. Put the password in PGPASSWORD or ~/.pgpass, "
        "since every user of the machine can see the command line. By default SQLite in --out.",
    )


def gateway_database(options: ProgramFlags) -> Database:
    """Opens the database of an existing gateway.

    Raises:
      ValueError: If the folder holds no gateway, or its database is elsewhere.
    """
    if not options.out or not has_secret(options.out):
        raise ValueError(
            f"Expected --out=FOLDER of a gateway that `fedsup serve` made, received "
            f"{options.out!r}."
        )
    return _open(options, expects_one=True)


def open_database(options: ProgramFlags) -> Database:
    """Opens the database of a new or an existing gateway.

    Raises:
      ValueError: If the folder holds a gateway whose database is elsewhere. One that --database
        names may be new.
    """
    return _open(options, expects_one=not options.database and has_secret(options.out))


def _open(options: ProgramFlags, expects_one: bool) -> Database:
    url = options.database or sqlite_url(options.out)
    path = sqlite_file(url)
    is_there = path is None or (os.path.exists(path) and os.path.getsize(path))
    if expects_one and not is_there:
        raise ValueError(
            f"{path!r}: expected the database of the gateway in {options.out!r}, received nothing. "
            "Put it back, or give the --database that `fedsup serve` was given."
        )
    return Database(url)


def define_round_flags(define: FlagDefiner) -> None:
    """Defines the flags that decide what a round does."""
    define.integer(
        "goal",
        _ROUNDS.goal,
        "Number of updates at which a round is closed.",
        lower_bound=1,
        upper_bound=_MAX_GOAL,
    )
    define.float(
        "round_deadline",
        _ROUNDS.deadline_seconds,
        "Seconds after which a round is closed with the updates received so far.",
        lower_bound=1,
        upper_bound=MAX_SECONDS,
    )
    define.float(
        "over_asking",
        _ROUNDS.over_asking,
        "Devices asked in addition to the goal, as a share of it, since some send nothing.",
        lower_bound=0,
        upper_bound=100,
    )
    define.float(
        "task_seconds",
        None,
        "Seconds after which another device is asked to replace one that sent nothing; by default "
        "half of --round_deadline.",
        above=0,
        upper_bound=MAX_SECONDS,
    )
    define.integer(
        "max_staleness",
        _ROUNDS.max_staleness,
        "Maximum number of rounds that may be closed while an update is on its way; a late update "
        "is scaled by 1/sqrt(1 + rounds).",
        lower_bound=0,
    )
    define.bool("keep_updates", _ROUNDS.keeps_updates, "Keep update files after their round.")
    define.integer(
        "keep_rounds",
        None,
        "Number of closed rounds whose supernets, reports and models are kept, at least "
        "--max_staleness; by default all.",
        lower_bound=0,
    )
    define.paths(
        "tiers",
        [],
        "Device tiers, as in `fedsup train`; by default those of the training.",
    )
    define.bool(
        "redraw",
        True,
        "Draw a new subnet for a tier in each round, from all that its devices can train; a new "
        "subnet is calibrated and converted, which takes seconds.",
    )
    define.integer(
        "epochs",
        None,
        "Number of local epochs; by default that of the training.",
        lower_bound=1,
        upper_bound=MAX_EPOCHS,
    )
    define.float(
        "learning_rate",
        None,
        "Devices' learning rate; by default that of the training.",
        above=0,
        upper_bound=MAX_LEARNING_RATE,
    )
    define.enum(
        "aggregation",
        None,
        DIVISORS,
        "Averaging of overlapping slices, as in `fedsup merge`; by default as in the training.",
    )
    define.enum(
        "weighting", None, WEIGHTINGS, "Weight of an update; by default as in the training."
    )
    define.float("clip_norm", None, "Maximum L2 norm of an update, as in `fedsup merge`.", above=0)
    define.integer(
        "max_examples",
        None,
        "Maximum number of examples that an update counts for, as in `fedsup merge`.",
        lower_bound=1,
    )
    define.float(
        "poisoned",
        0.0,
        "Share of the updates that may be poisoned, as in `fedsup merge`.",
        lower_bound=0,
        below=0.5,
    )
    define.enum(
        "server_optimizer",
        None,
        SERVER_OPTIMIZERS,
        "Optimizer that applies the mean update, as in `fedsup train`; by default that of the "
        "training.",
    )
    define.float(
        "server_learning_rate", None, "Its learning rate; by default as in the training.", above=0
    )
    define.float(
        "noise_multiplier",
        0.0,
        "Differential privacy: standard deviation of the noise on sums, relative to --clip_norm. "
        "Requires --max_staleness=0.",
        lower_bound=0,
        upper_bound=1e6,
    )
    define.float(
        "delta",
        None,
        "Delta of (epsilon, delta); by default 0.1 divided by --max_devices.",
        above=0,
        below=1,
    )
    define.float(
        "max_epsilon", None, "Privacy budget: a round that would exceed it is not started.", above=0
    )
    define.integer(
        "calibrate_every",
        1,
        "Rounds after which a subnet's normalizations are recalibrated on the server's data.",
        lower_bound=1,
    )
    define.integer(
        "test_batch_size",
        50,
        "Images normalized together in the evaluation between rounds; 0 for no evaluation.",
        lower_bound=0,
    )


def define_device_flags(define: FlagDefiner) -> None:
    """Defines the flags for the limits and settings of devices."""
    define.float(
        "check_in_seconds",
        _PACE.seconds,
        "Mean number of seconds between check-ins of a device.",
        above=0,
        upper_bound=MAX_SECONDS,
    )
    define.float(
        "check_ins_per_second",
        _PACE.max_per_second,
        "Maximum rate of check-ins; with more devices, each waits longer.",
        lower_bound=_MIN_PER_SECOND,
        upper_bound=_MAX_PER_SECOND,
    )
    define.float(
        "requests_per_hour",
        _SERVER.requests_per_hour,
        "Maximum number of requests per device and hour.",
        lower_bound=1,
        upper_bound=3600 * _MAX_PER_SECOND,
    )
    define.integer(
        "max_devices", _SERVER.max_devices, "Maximum number of enrolled devices.", lower_bound=1
    )


def server_optimizer(options: ProgramFlags, of_training: dict) -> str:
    """Returns the name of the server optimizer, from the flag or else from the training."""
    return options.server_optimizer or of_training.get("server_optimizer", "none")


def server_optimizer_settings(options: ProgramFlags, of_training: dict) -> dict[str, Any]:
    """Returns the settings of the server optimizer, from the flags or else from the training.

    The learning rate of the training applies only to the optimizer of the training.
    """
    name = server_optimizer(options, of_training)
    rate = options.server_learning_rate
    if rate is None:
        is_same = name == of_training.get("server_optimizer")
        rate = (
            of_training.get("server_learning_rate") if is_same else DEFAULT_SERVER_RATES.get(name)
        )
    return {
        "server_optimizer": name,
        "server_learning_rate": rate,
        "server_momentum": of_training.get("server_momentum", 0.9),
    }


def weighting(options: ProgramFlags, of_training: dict) -> str:
    """Returns the weighting of updates: uniform with noise, else of the flag or the training."""
    if options.noise_multiplier:
        return "uniform"
    return options.weighting or of_training.get("weighting") or "examples"


def check_uses(options: ProgramFlags, of_training: dict) -> None:
    """Refuses flags that have no effect given the others.

    Args:
      options: The program's flags.
      of_training: Settings of the training, used where a flag is not given.
    """
    optimizer = FlagUse(
        ("server_learning_rate",),
        "a --server_optimizer, by default that of the training",
        lambda _: server_optimizer(options, of_training) != "none",
    )
    examples = FlagUse(
        ("max_examples",),
        "--weighting=examples, by default the training's",
        lambda _: weighting(options, of_training) == "examples",
    )
    check_flag_uses(options, [optimizer, examples])


def round_settings_from_flags(options: ProgramFlags) -> RoundSettings:
    """Returns the settings that decide when rounds are closed.

    Raises:
      ValueError: If a round could never be closed at its goal, or privacy excludes a flag.
    """
    _check_private(options)
    # The robust mean needs three updates.
    minimum = 3 if options.poisoned else _ROUNDS.min_updates
    if options.goal < minimum:
        raise ValueError(
            f"--poisoned: expected --goal from {minimum} with it, received --goal={options.goal}. "
            "Of fewer updates nobody can tell which are poisoned."
        )
    return RoundSettings(
        goal=options.goal,
        min_updates=minimum,
        deadline_seconds=options.round_deadline,
        over_asking=options.over_asking,
        max_staleness=options.max_staleness,
        keeps_updates=options.keep_updates,
        kept_rounds=options.keep_rounds,
    )


def _check_private(options: ProgramFlags) -> None:
    """Refuses flags that privacy excludes, and flags of privacy without noise."""
    if not options.noise_multiplier:
        for name in ("delta", "max_epsilon"):
            if getattr(options, name) is not None:
                raise ValueError(
                    f"--{name}: expected --noise_multiplier with it, received no noise. Nothing is "
                    "private without."
                )
        return
    if options.clip_norm is None:
        raise ValueError(
            "--noise_multiplier: expected --clip_norm with it, received none. It bounds what one "
            "device changes."
        )
    excluded = {
        "--poisoned": (options.poisoned, "0"),
        "--weighting": (options.weighting not in (None, "uniform"), "uniform"),
        "--max_staleness": (options.max_staleness, "0"),
        "--max_examples": (options.max_examples is not None, "none"),
    }
    for name, (is_wrong, expected) in excluded.items():
        if is_wrong:
            raise ValueError(
                f"--noise_multiplier: expected {name}={expected} with it, received another one. A "
                "device's update would show in more than its clipped part of one round's sum."
            )


def server_settings_from_flags(options: ProgramFlags, of_training: dict) -> ServerSettings:
    """Returns the limits and settings of devices.

    Args:
      options: The program's flags.
      of_training: Settings of the training, used where a flag is not given.
    """
    check_uses(options, of_training)
    epochs = options.epochs or of_training.get("epochs") or 1
    rate = options.learning_rate or of_training.get("learning_rate") or _LEARNING_RATE
    return ServerSettings(
        training=Training(epochs, rate, options.task_seconds or options.round_deadline / 2),
        max_staleness=options.max_staleness,
        pace=Pace(options.check_in_seconds, options.check_ins_per_second),
        requests_per_hour=options.requests_per_hour,
        max_devices=options.max_devices,
    )
