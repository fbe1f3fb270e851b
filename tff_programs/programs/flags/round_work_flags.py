"""Builds the work of a gateway's rounds from flags: the supernet, its tiers and the merging."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fedsup_tf.files.checkpoint import fingerprint
from tff_programs.aggregators.privacy import PrivacyAccount
from tff_programs.gateway.database import Database
from tff_programs.gateway.same_gateway import check_first_supernet
from tff_programs.gateway.secret_files import server_secret
from tff_programs.programs.console import print_line
from tff_programs.programs.flags import gateway_flags
from tff_programs.programs.flags.checkpoint_flags import load_trained_from_flags
from tff_programs.programs.flags.program_flags import ProgramFlags
from tff_programs.programs.round_privacy import RoundPrivacy
from tff_programs.programs.supernet_rounds import SupernetRounds, WorkSettings
from tff_programs.programs.training_information import (
    device_training,
    left_out_flags,
    trained_tiers,
)
from tff_programs.simulation.tiers import default_tiers, parse_tiers


def round_work_from_flags(options: ProgramFlags, path: str, database: Database) -> SupernetRounds:
    """Loads the supernet and returns the work of its rounds.

    Args:
      options: The program's flags.
      path: The supernet's file.
      database: The gateway's database.

    Raises:
      ValueError: If the gateway began with another supernet, or the file is not a supernet.
    """
    trained = load_trained_from_flags(options, path)
    check_first_supernet(database, fingerprint(trained.weights), path, options.out)
    of_training = trained.information["settings"]
    gateway_flags.check_uses(options, of_training)
    space, seed = trained.supernet.space, trained.data_settings.seed
    own = [name for name in ("poisoned", "noise_multiplier") if getattr(options, name)]
    left_out = left_out_flags(of_training, apart_from=("server_optimizer", *own))
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
        "weighting": gateway_flags.weighting(options, of_training),
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
        optimizer=gateway_flags.server_optimizer_settings(options, of_training),
        privacy=_privacy(options, trained.information),
    )
    return SupernetRounds(trained, options.out, settings)


def _privacy(options: ProgramFlags, information: Mapping[str, Any]) -> RoundPrivacy | None:
    """Returns the privacy of the rounds and prints its account; None without privacy.

    Args:
      options: The program's flags.
      information: Information saved with the first supernet.
    """
    if not options.noise_multiplier:
        return None
    account = PrivacyAccount(
        noise_multiplier=options.noise_multiplier,
        delta=0.1 / options.max_devices if options.delta is None else options.delta,
        clients_per_round=min(options.goal, options.max_devices),
        clients=options.max_devices,
        # The devices that take part are not drawn at random in secret.
        sampled=False,
    )
    print_line(str(account))
    before = information.get("privacy")
    if before is not None:
        print_line(
            f"The training before cost epsilon {before['epsilon']:.3g} at delta "
            f"{before['delta']:.1e}, which is not in this account: of a device that took part in "
            "both, add the two."
        )
    elif information["settings"].get("noise_multiplier"):
        print_line(
            "The training before was private, too. Its file does not tell what it cost, which is "
            "not in this account."
        )
    secret = server_secret(options.out)
    return RoundPrivacy(account, options.clip_norm, secret, options.max_epsilon)
