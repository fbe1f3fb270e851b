"""Chooses an installed runtime for `.tflite` files.

A runtime is named after the package that it is imported from:

* `tflite_runtime`: the standalone TensorFlow Lite interpreter, whose last release is 2.14.
* `ai_edge_litert`: LiteRT, its successor, with the same interface.
* `tensorflow`: the interpreter inside TensorFlow.

The first installed one is used, unless an argument or the environment variable `FEDSUP_RUNTIME`
names another.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

ENVIRONMENT = "FEDSUP_RUNTIME"
_INSTALL = "Install one, for example with pip install ai-edge-litert."


def _tflite_runtime() -> Any:
    from tflite_runtime import interpreter

    return interpreter.Interpreter


def _litert() -> Any:
    from ai_edge_litert import interpreter

    return interpreter.Interpreter


def _tensorflow() -> Any:
    # No import statement: devices have no TensorFlow, and no other on-device code may need it.
    return importlib.import_module("tensorflow").lite.Interpreter


_CLASSES: Mapping[str, Callable[[], Any]] = {
    "tflite_runtime": _tflite_runtime,
    "ai_edge_litert": _litert,
    "tensorflow": _tensorflow,
}


def installed_runtimes() -> tuple[str, ...]:
    """Returns the names of the installed runtimes in order of preference, without importing any."""
    return tuple(name for name in _CLASSES if importlib.util.find_spec(name) is not None)


def choose_runtime(name: str | None = None) -> str:
    """Returns the name of the runtime to use.

    Args:
      name: Name of the requested runtime; by default the value of `FEDSUP_RUNTIME`, otherwise the
        first installed runtime.

    Raises:
      ValueError: If the requested runtime is unknown or not installed, or none is installed.
    """
    name, asked = (name, "runtime") if name else (os.environ.get(ENVIRONMENT), ENVIRONMENT)
    installed = installed_runtimes()
    if not installed:
        raise ValueError(
            f"Running a .tflite file: expected one of the packages {', '.join(_CLASSES)}, found "
            f"none of them. {_INSTALL}"
        )
    if not name:
        return installed[0]
    if name not in installed:
        raise ValueError(
            f"{asked}: expected one of the runtimes that are installed, {', '.join(installed)}; "
            f"received {name!r}. Name one of these, or install one of {', '.join(_CLASSES)}."
        )
    return name


def interpreter_class(name: str | None = None) -> Any:
    """Imports a runtime and returns its `Interpreter` class; see `choose_runtime`."""
    return _CLASSES[choose_runtime(name)]()


def runtime_version(name: str) -> str:
    """Imports a runtime and returns its version, such as `2.14.0`."""
    return importlib.import_module(name).__version__
