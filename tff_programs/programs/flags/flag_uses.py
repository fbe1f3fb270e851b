"""Flags that other flags make meaningless: refused on the command line, ignored in a flag file."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tff_programs.programs.flags.program_flags import ProgramFlags


class FlagUse(NamedTuple):
    """Tells when flags have an effect.

    Attributes:
      names: The flags.
      beside: What they go with, in words, such as `"--algorithm=fedavg or exclusive"`.
      holds: Whether this is so.
    """

    names: tuple[str, ...]
    beside: str
    holds: Callable[[ProgramFlags], bool]


def check_flag_uses(options: ProgramFlags, uses: Sequence[FlagUse]) -> None:
    """Refuses flags on the command line that have no effect beside the others.

    In a flag file they may stand: the file was written for another choice.

    Args:
      options: The program's flags.
      uses: When flags have an effect.

    Raises:
      ValueError: If one has none.
    """
    for names, beside, holds in uses:
        typed = [name for name in names if options.is_typed(name)]
        if typed and not holds(options):
            raise ValueError(
                f"--{typed[0]} goes with {beside}, received it without. Leave it out, or choose "
                "both."
            )
