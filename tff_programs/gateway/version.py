"""The versions of the protocol and of this program."""

import importlib.metadata

PROTOCOL = 1


def version() -> str:
    """Returns the version of the installed program."""
    return importlib.metadata.version("fedsup-tf")
