"""Checks of single values that a user gives, with one form of error message for all of them."""

import math
from collections.abc import Collection
from typing import Any, TypeVar

import numpy as np

from fedsup_tf.files.json_schema import quoted

Choice = TypeVar("Choice")


def check_whole_number(
    value: Any, name: str, least: int, most: int | None = None, *, what: str = "", advice: str = ""
) -> int:
    """Checks that a value is a whole number within bounds, and returns it as an int.

    Args:
      value: An int or a NumPy integer; True and False are refused.
      name: Name of the argument.
      least: Least value allowed.
      most: Greatest value allowed; None for no limit.
      what: Subject of the error message, such as the class of the argument.
      advice: End of the error message: a sentence that says what to do.

    Raises:
      ValueError: If it is not such a number.
    """
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        bounds = f"from {least:,}" + ("" if most is None else f" to {most:,}")
        raise _error(what, name, f"a whole number {bounds}", value, advice)
    return int(value)


def check_number(
    value: Any,
    name: str,
    *,
    least: float | None = None,
    above: float | None = None,
    what: str = "",
    advice: str = "",
) -> float:
    """Checks that a value is a finite number that is large enough, and returns it.

    Args:
      value: An int, a float or a NumPy number; True and False are refused.
      name: Name of the argument.
      least: Least value allowed, if any.
      above: Value that the number must exceed, if any.
      what: Subject of the error message, such as the class of the argument.
      advice: End of the error message: a sentence that says what to do.

    Raises:
      ValueError: If it is not such a number.
    """
    is_number = isinstance(value, int | float | np.integer | np.floating)
    is_valid = is_number and not isinstance(value, bool) and math.isfinite(value)
    expected = "a finite number"
    if least is not None:
        expected += f" of at least {least:g}"
        is_valid = is_valid and value >= least
    if above is not None:
        expected += f" above {above:g}"
        is_valid = is_valid and value > above
    if not is_valid:
        raise _error(what, name, expected, value, advice)
    return value


def check_choice(
    value: Choice, name: str, choices: Collection[Choice], *, what: str = ""
) -> Choice:
    """Checks that a value is one of `choices`, and returns it.

    Args:
      value: The value.
      name: Name of the argument.
      choices: The values allowed.
      what: Subject of the error message, such as the class of the argument.

    Raises:
      ValueError: If it is none of them.
    """
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise _error(what, name, f"one of {', '.join(map(str, choices))}", value, "")
    return value


def _error(what: str, name: str, expected: str, received: Any, advice: str) -> ValueError:
    begin = f"{what}: expected" if what else "Expected"
    end = f" {advice}" if advice else ""
    return ValueError(f"{begin} {name} to be {expected}, received {quoted(received)}.{end}")
