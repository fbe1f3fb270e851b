"""Parsers for path flags: they expand `~` and check that output paths can be written."""

import os
from collections.abc import Callable, Sequence

from absl import flags

from fedsup_tf.data.datasets import DATASETS
from fedsup_tf.files.atomic_write import check_output_file, check_output_folder


class PathParser(flags.ArgumentParser):
    """Parses a path, or a keyword that may replace it."""

    def __init__(self, check: Callable[[str], object] | None = None):
        """Creates the parser.

        Args:
          check: Function that raises a ValueError if a path cannot be used.
        """
        self._check = check

    def parse(self, argument: str) -> str:
        """Returns the path with the home folder in place of `~`."""
        path = os.path.expanduser(argument)
        # An empty value is not a path; the program reports what it needs.
        if path and self._check is not None:
            self._check(path)
        return path


class PathListParser(flags.ListParser):
    """Parses a list of paths, or keywords that may replace them."""

    def parse(self, argument: str | Sequence[str]) -> list[str]:
        """Returns the paths with the home folder in place of `~`."""
        return [os.path.expanduser(path) for path in super().parse(argument)]


class DatasetParser(flags.ArgumentParser):
    """Parses the name of a data set, or the path of own data."""

    syntactic_help = f"one of {', '.join(DATASETS)}, or a path of own data"

    def parse(self, argument: str) -> str:
        """Returns the name, or the path with the home folder in place of `~`.

        Raises:
          ValueError: If the argument is not a known name, and nothing exists at the path.
        """
        path = os.path.expanduser(argument)
        if argument not in DATASETS and not os.path.exists(path):
            raise ValueError(f"expected {self.syntactic_help}, found nothing at {path!r}")
        return path


# Parsers and serializers by kind of path flag.
KINDS = {
    "dataset": (DatasetParser(), None),
    "path": (PathParser(), None),
    "paths": (PathListParser(), flags.CsvListSerializer(",")),
    "output_file": (PathParser(check_output_file), None),
    "output_folder": (PathParser(check_output_folder), None),
}
