"""Flags for the calibration of subnets."""

from fedsup_tf.logistic_regression import CHOSEN
from tff_programs.programs.flags.flag_uses import FlagUse, check_flag_uses
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags


def define_calibration_flags(define: FlagDefiner) -> None:
    """Defines the flags for the calibration of subnets."""
    define_images_per_client(define)
    define.bool(
        "classifier",
        True,
        "Refit each subnet's classifier to the images of all clients.",
    )
    define.float(
        "classifier_penalty",
        None,
        "Penalty on the squares of its kernel. By default, the one that is best on the clients' "
        "held-out images.",
        above=0,
    )


def classifier_penalty(options: ProgramFlags) -> float | str | None:
    """Returns the penalty of the refitted classifiers; None to keep the trained ones."""
    use = FlagUse(("classifier_penalty",), "--classifier", lambda options: options.classifier)
    check_flag_uses(options, [use])
    if not options.classifier:
        return None
    return CHOSEN if options.classifier_penalty is None else options.classifier_penalty


def define_images_per_client(define: FlagDefiner) -> None:
    """Defines the flag for the number of images that a calibration uses."""
    define.integer(
        "images_per_client",
        None,
        "Maximum number of images that each client calibrates on. By default 40,000 divided by the "
        "number of clients, from 100 to 400.",
        lower_bound=1,
    )
