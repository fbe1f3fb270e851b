"""Flags of a single program: defined, parsed and listed separately from all other flags."""

import functools
import os
from collections.abc import Callable, Collection, Sequence

from absl import flags

from fedsup_tf.files.reading import read_text
from tff_programs.programs.flags import path_flags
from tff_programs.programs.flags.number_flags import define_float, define_integer


class FlagDefiner:
    """Defines flags in one `FlagValues`, with the arguments of `absl.flags.DEFINE_*`.

    `path`, `paths`, `output_file` and `output_folder` define flags whose values are paths, and
    `dataset` one whose value may be a path.

    The attributes are partial functions, because absl lists a flag under the module that calls it.
    """

    def __init__(self, options: flags.FlagValues):
        """Creates a definer of flags in `options`."""
        # NaN, infinity and numbers that no tensor can hold are refused unless a flag allows them.
        self.float = functools.partial(define_float, flag_values=options)
        self.integer = functools.partial(define_integer, flag_values=options)
        for kind in ("bool", "enum", "list", "string"):
            define = getattr(flags, f"DEFINE_{kind}")
            setattr(self, kind, functools.partial(define, flag_values=options))
        for kind, (parser, serializer) in path_flags.KINDS.items():
            define = functools.partial(flags.DEFINE, parser, serializer=serializer)
            setattr(self, kind, functools.partial(define, flag_values=options))
        self.validator = functools.partial(flags.register_validator, flag_values=options)
        # Replaces the default of a flag that is already defined.
        self.default = options.set_default


class ProgramFlags(flags.FlagValues):
    """Values of a program's flags, which also records the flags on the command line itself.

    A flag file is written for several commands, so flags in it that have no effect are ignored. On
    the command line, such flags are errors.
    """

    def __init__(self, define_flags: Callable[[FlagDefiner], None]):
        """Defines the flags; `parse` reads them."""
        super().__init__()
        # `FlagValues` treats attributes as flags.
        self.__dict__["_define_flags"] = define_flags
        self.__dict__["_on_command_line"] = frozenset()
        define_flags(FlagDefiner(self))

    def parse(self, argv: Sequence[str]) -> list[str]:
        """Parses flags; the last value of a flag counts, with flag files expanded in place.

        Args:
          argv: The program's name, flags and arguments.

        Returns:
          The program's name and the arguments that are not flags.

        Raises:
          absl.flags.Error: If a flag is unknown or its value is invalid.
        """
        rest = self(argv)
        typed = _FlagsOutsideFiles()
        self.__dict__["_define_flags"](FlagDefiner(typed))
        flags.DEFINE_multi_string("flagfile", [], "", flag_values=typed)
        typed(argv)
        self.__dict__["_on_command_line"] = frozenset(name for name in typed if typed[name].present)
        return rest

    def _get_flag_file_lines(self, filename, parsed_file_stack=None):
        """Reads a flag file as absl does, but with the encoding of its byte-order mark.

        Raises:
          InvalidFileError: If the file does not exist, or is not text.
          ValueError: If flag files include each other, or set a flag that the program lacks.
        """
        if not filename:
            return []
        stack = [*(parsed_file_stack or []), filename]
        if filename in stack[:-1]:
            raise ValueError(
                f"{filename!r}: expected a flag file that does not name itself, received one that "
                f"does, by {', '.join(stack[1:-1]) or 'itself'}. Take the --flagfile out."
            )
        lines = []
        for line in read_text(filename, "a flag file").splitlines():
            if not line.strip() or line.startswith(("#", "//")):
                continue
            if self._is_flag_file_directive(line):
                lines += self._get_flag_file_lines(self._extract_filename(line), stack)
            else:
                self._check_known(line.strip(), filename)
                lines.append(line.strip())
        return lines

    def _check_known(self, line: str, filename: str) -> None:
        """Refuses a line of a flag file that sets a flag that the program does not have."""
        name = line.lstrip("-").partition("=")[0]
        if line.startswith("-") and name.partition(" ")[0] in self and " " in name:
            flag, _, value = name.partition(" ")
            raise ValueError(
                f"{filename!r}: expected a flag and its value with = between them, received "
                f"{line!r}. Write --{flag}={value.strip()}."
            )
        if line.startswith("-") and name not in (*self, "undefok") and name[2:] not in self:
            raise ValueError(
                f"{filename!r}: expected flags of this program, received --{name}. Take the line "
                "out, or give the file to the program that it is for."
            )

    def is_on_command_line(self, name: str) -> bool:
        """Returns whether the flag is on the command line itself, not only in a flag file."""
        return name in self.__dict__["_on_command_line"]

    def let_override(self, name: str, others: Collection[str]) -> None:
        """Resets flags from a flag file that a flag on the command line overrides.

        Args:
          name: Name of the overriding flag; nothing is reset unless it is on the command line.
          others: Names of the flags to reset, unless they are on the command line as well.
        """
        if self.is_on_command_line(name):
            for other in others:
                if not self.is_on_command_line(other):
                    self[other].unparse()


class _FlagsOutsideFiles(flags.FlagValues):
    """Parses a command line without reading the flag files that it names."""

    def read_flags_from_files(self, argv, force_gnu=True):
        """Leaves `--flagfile` in place, like any other flag."""
        del force_gnu
        return list(argv)


def parse_flags(
    define_flags: Callable[[FlagDefiner], None], argv: Sequence[str]
) -> tuple[ProgramFlags, list[str]]:
    """Parses a program's command line.

    Args:
      define_flags: Function that defines the program's flags.
      argv: The program's name, flags and arguments.

    Returns:
      The flags, and the arguments that are not flags (without the program's name), as paths with
      the home folder in place of `~`.

    Raises:
      absl.flags.Error: If a flag is unknown or its value is invalid.
    """
    options = ProgramFlags(define_flags)
    return options, [os.path.expanduser(argument) for argument in options.parse(argv)[1:]]


def parse_flags_only(
    define_flags: Callable[[FlagDefiner], None], argv: Sequence[str]
) -> ProgramFlags:
    """Parses the command line of a program that only takes flags, see `parse_flags`.

    Raises:
      ValueError: If there are other arguments.
    """
    options, arguments = parse_flags(define_flags, argv)
    if arguments:
        raise ValueError(f"Expected flags alone, received {arguments}.")
    return options


def parse_with_path(
    define_flags: Callable[[FlagDefiner], None], argv: Sequence[str], what: str
) -> tuple[ProgramFlags, str]:
    """Parses the command line of a program that takes flags and the path of `what`.

    Raises:
      ValueError: If there is not exactly one argument.
    """
    options, arguments = parse_flags(define_flags, argv)
    if len(arguments) != 1:
        raise ValueError(f"Expected one argument, {what}; received {arguments}.")
    return options, arguments[0]
