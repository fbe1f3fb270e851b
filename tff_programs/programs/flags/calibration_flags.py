"""Flags of the calibration of subnets."""

from fedsup_tf.logistic_regression import PENALTY
from tff_programs.programs.calibration_files import IMAGES_PER_CLIENT
from tff_programs.programs.flags.flag_uses import FlagUse, check_flag_uses
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags


def define_calibration_flags(define: FlagDefiner) -> None:
    """Defines how subnets are calibrated."""
    define_images_per_client(define)
    define.bool(
        "classifier",
        True,
        "Fit each subnet's classifier anew, to the images of all clients.",
    )
    define.float(
        "classifier_penalty",
        PENALTY,
        "Penalty of its kernel's squares. A tenth of the default makes nets that only infer more "
        "accurate; a phone that trains them forgets the classes that it does not hold sooner.",
        above=0,
    )


def classifier_penalty(options: ProgramFlags) -> float | None:
    """Returns the penalty of the classifiers to fit; None to keep those that were trained."""
    use = FlagUse(("classifier_penalty",), "--classifier", lambda options: options.classifier)
    check_flag_uses(options, [use])
    return options.classifier_penalty if options.classifier else None


def define_images_per_client(define: FlagDefiner) -> None:
    """Defines how many images a calibration takes."""
    define.integer(
        "images_per_client",
        IMAGES_PER_CLIENT,
        "Images that a client calibrates on.",
        lower_bound=1,
    )
