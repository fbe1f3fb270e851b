"""Lazy exports of a package (PEP 562), so that importing it loads nothing before it is used."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_exports(
    package: str, exports: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Makes the functions and the list that let a package export names of its modules lazily.

    A package's `__init__.py` assigns the result:

        __getattr__, __dir__, __all__ = lazy_exports(__name__, {"package.module": ["name"]})

    Args:
      package: The package's `__name__`.
      exports: Names to export, by the full name of the module that defines them. A module is
        imported when one of its names is asked for, and the name is kept in the package then.

    Returns:
      `__getattr__`, `__dir__` and `__all__` of the package; the latter two list the exported names
      alone, in alphabetical order.

    Raises:
      ValueError: If a name is exported by two modules.
    """
    names = sorted(name for exported in exports.values() for name in exported)
    module_of = {name: module for module, exported in exports.items() for name in exported}
    if len(module_of) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"Package {package!r}: expected each name once, received {twice} twice.")

    def get_attribute(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module_of[name]), name)
        # Python asks __getattr__ only for what a module does not have, so that the next use is
        # an ordinary attribute.
        setattr(importlib.import_module(package), name, value)
        return value

    return get_attribute, lambda: list(names), names
