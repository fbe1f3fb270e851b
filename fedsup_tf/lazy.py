"""Lazy exports of a package (PEP 562): a module is loaded when one of its names is first used."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_exports(
    package: str, exports: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Returns the `__getattr__`, `__dir__` and `__all__` of a package with lazy exports.

    Assign the result in the package's `__init__.py`:

        __getattr__, __dir__, __all__ = lazy_exports(__name__, {"package.module": ["name"]})

    Args:
      package: The package's `__name__`.
      exports: Names to export, by the full name of the module that defines them. A module is
        imported when one of its names is first accessed, and the package then caches the name.

    Returns:
      `__getattr__`, `__dir__` and `__all__` of the package. The latter two list only the exported
      names, in alphabetical order.

    Raises:
      ValueError: If a name is exported more than once.
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
        # Python calls `__getattr__` only for missing attributes; the next access is an ordinary
        # lookup.
        setattr(importlib.import_module(package), name, value)
        return value

    return get_attribute, lambda: list(names), names
