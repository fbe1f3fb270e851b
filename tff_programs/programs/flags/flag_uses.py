"""Flags without effect given the others: refused on the command line, ignored in flag files."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tff_programs.programs.flags.program_flags import ProgramFlags


class FlagUse(NamedTuple):
    """Condition under which flags have an effect.

    Attributes:
      names: Names of the flags.
      requirement: Description of the condition, such as `"--algorithm=fedavg or exclusive"`.
      is_met: Function that returns whether a program's flags meet the condition.
    """

    names: tuple[str, ...]
    requirement: str
    is_met: Callable[[ProgramFlags], bool]


def check_flag_uses(options: ProgramFlags, uses: Sequence[FlagUse]) -> None:
    """Refuses flags on the command line that have no effect given the others.

    Such flags are allowed in a flag file, which may have been written for other choices.

    Args:
      options: The program's flags.
      uses: Conditions under which flags have an effect.

    Raises:
      ValueError: If a flag on the command line has no effect.
    """
    for names, requirement, is_met in uses:
        typed = [name for name in names if options.is_on_command_line(name)]
        if typed and not is_met(options):
            raise ValueError(
                f"--{typed[0]} goes with {requirement}, received it without. Leave it out, or "
                "choose both."
            )
