"""Builds the work of the gateway's rounds from flags: the supernet, its tiers, how it merges."""

import dataclasses

from sqlalchemy import select

from fedsup_tf.files.checkpoint import fingerprint
from tff_programs.gateway.database import Database
from tff_programs.gateway.tables import rounds
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.checkpoint_flags import load_trained_from_flags
from tff_programs.programs.flags.program_flags import ProgramFlags
from tff_programs.programs.fleet_server import left_out_flags
from tff_programs.programs.supernet_rounds import SupernetRounds, WorkSettings
from tff_programs.programs.training_information import device_training, trained_tiers
from tff_programs.simulation.tiers import default_tiers, parse_tiers


def round_work_from_flags(options: ProgramFlags, path: str, database: Database) -> SupernetRounds:
    """Loads the supernet, and returns the work of its rounds.

    Args:
      options: The program's flags.
      path: The supernet's file.
      database: The gateway's.

    Raises:
      ValueError: If the gateway began with another supernet, or the file is none.
    """
    trained = load_trained_from_flags(options, path)
    with database.read() as connection:
        first = connection.scalar(select(rounds.c.base_hash).order_by(rounds.c.id))
    if first is not None and first != fingerprint(trained.weights):
        raise ValueError(
            f"The gateway in {options.out!r} began with another supernet than {path!r}. Give that "
            "one to continue it, or another --out and --database."
        )
    of_training = trained.information["settings"]
    space, seed = trained.supernet.space, trained.data_settings.seed
    left_out = [
        flag
        for flag in left_out_flags(of_training)
        if not (flag.startswith("--poisoned=") and options.poisoned)
    ]
    if left_out:
        print_line(f"Of the training, the gateway's server does without {', '.join(left_out)}.")
    if options.tiers:
        tiers = parse_tiers(space, options.tiers, seed)
    else:
        tiers = trained_tiers(trained.information) or default_tiers(space, seed)
    training = device_training(trained.information)
    if options.epochs:
        training = dataclasses.replace(training, epochs=options.epochs)
    merging = {
        "aggregation": options.aggregation or of_training.get("aggregation") or "coverage",
        "weighting": options.weighting or of_training.get("weighting") or "examples",
        "clip_norm": options.clip_norm,
        "max_examples": options.max_examples,
        "poisoned": options.poisoned,
    }
    settings = WorkSettings(
        tiers=tiers,
        training=training,
        merging=merging,
        redraw=options.redraw,
        seed=seed,
        calibrate_every=options.calibrate_every,
        test_batch_size=options.test_batch_size,
    )
    return SupernetRounds(trained, options.out, settings)
