"""Flags of the calibration of subnets."""

from tff_programs.programs.calibration_files import IMAGES_PER_CLIENT
from tff_programs.programs.flags.program_flags import FlagDefiner


def define_calibration_flags(define: FlagDefiner) -> None:
    """Defines how subnets are calibrated."""
    define_images_per_client(define)
    define.bool(
        "classifier",
        True,
        "Fit each subnet's classifier anew, to the images of all clients.",
    )


def define_images_per_client(define: FlagDefiner) -> None:
    """Defines how many images a calibration takes."""
    define.integer(
        "images_per_client",
        IMAGES_PER_CLIENT,
        "Images that a client calibrates on.",
        lower_bound=1,
    )
