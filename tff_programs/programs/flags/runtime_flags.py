"""Flag that selects the runtime for `.tflite` files."""

from tff_programs.programs.flags.program_flags import FlagDefiner


def define_runtime_flag(define: FlagDefiner) -> None:
    """Defines the flag for `tflite.device.runtime.choose_runtime`."""
    define.string(
        "runtime",
        None,
        "Package of the runtime: tflite_runtime, ai_edge_litert or tensorflow. By default that of "
        "the environment variable FEDSUP_RUNTIME, otherwise the first one that is installed.",
    )
