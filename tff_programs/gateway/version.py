"""The version of this program."""

import importlib.metadata


def version() -> str:
    """Returns the version of the installed program."""
    return importlib.metadata.version("fedsup-tf")
