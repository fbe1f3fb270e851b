"""Loads the trained supernet that a program's first argument names, with its data."""

from collections.abc import Collection

from tff_programs.programs.checkpoint import TrainedSupernet, load_trained
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.data_flags import (
    check_data_options,
    given_data_settings,
    print_notes,
)
from tff_programs.programs.flags.program_flags import ProgramFlags


def load_trained_from_flags(
    options: ProgramFlags, path: str, of_training: Collection[str] = ()
) -> TrainedSupernet:
    """Loads a checkpoint and its training's data, with the changes that data flags specify.

    Args:
      options: The program's flags.
      path: The supernet's file.
      of_training: Names of data settings that stay those of the training, because the flags with
        these names have another meaning in the program.

    Raises:
      ValueError: If the file is not the supernet of a training, its data cannot be loaded, or the
        command line sets a flag that the data or its partition does not use.
    """
    changes = given_data_settings(options, of_training)
    trained = load_trained(path, changes, print_line)
    check_data_options(options, trained.data_settings, trained.data.partition)
    print_notes(trained.data.notes)
    return trained
