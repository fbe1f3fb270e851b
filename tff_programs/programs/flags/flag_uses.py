"""Flags without effect given the others: refused on the command line, ignored in flag files."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tff_programs.programs.flags.program_flags import ProgramFlags


class FlagUse(NamedTuple):
    """Condition under which flags have an effect.

    Attributes:
      names: Names of the flags.
      beside: Description of the condition, such as `"--algorithm=fedavg or exclusive"`.
      holds: Function that returns whether the condition holds for a program's flags.
    """

    names: tuple[str, ...]
    beside: str
    holds: Callable[[ProgramFlags], bool]


def check_flag_uses(options: ProgramFlags, uses: Sequence[FlagUse]) -> None:
    """Refuses flags on the command line that have no effect given the others.

    Such flags are allowed in a flag file, which may have been written for other choices.

    Args:
      options: The program's flags.
      uses: Conditions under which flags have an effect.

    Raises:
      ValueError: If a flag on the command line has no effect.
    """
    for names, beside, holds in uses:
        typed = [name for name in names if options.is_typed(name)]
        if typed and not holds(options):
            raise ValueError(
                f"--{typed[0]} goes with {beside}, received it without. Leave it out, or choose "
                "both."
            )
