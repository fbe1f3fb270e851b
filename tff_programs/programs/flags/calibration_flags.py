"""Flags of the calibration of subnets."""

from fedsup_tf.inference_classifier import CHOSEN
from fedsup_tf.logistic_regression import PENALTY
from tff_programs.programs.flags.flag_uses import FlagUse, check_flag_uses
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags


def define_calibration_flags(define: FlagDefiner) -> None:
    """Defines how subnets are calibrated."""
    define_images_per_client(define)
    define.bool(
        "classifier",
        True,
        "Fit each subnet's classifiers anew, to the images of all clients.",
    )
    define.float(
        "classifier_penalty",
        None,
        f"Penalty of their kernels' squares. By default {PENALTY:g} in files that train, since "
        "with less a phone that trains forgets the classes that it does not hold sooner, and in "
        "files that only infer the one that is best on images that clients hold out.",
        above=0,
    )


def classifier_penalty(options: ProgramFlags) -> float | str | None:
    """Returns the penalty of the classifiers to fit; None to keep those that were trained."""
    use = FlagUse(("classifier_penalty",), "--classifier", lambda options: options.classifier)
    check_flag_uses(options, [use])
    if not options.classifier:
        return None
    return CHOSEN if options.classifier_penalty is None else options.classifier_penalty


def define_images_per_client(define: FlagDefiner) -> None:
    """Defines how many images a calibration takes."""
    define.integer(
        "images_per_client",
        None,
        "Most images that a client calibrates on. By default as many as make 40,000 of all "
        "clients, from 100 to 400; 10,000 where no file that only infers is written.",
        lower_bound=1,
    )
