"""Checks of single values given by a user, with uniform error messages."""

import math
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from fedsup_tf.files.json_schema import quoted

Choice = TypeVar("Choice")
# Leaves room for endings in the 255 bytes that file systems allow.
_MAX_FILE_NAME = 200


def check_whole_number(
    value: Any,
    name: str,
    minimum: int,
    maximum: int | None = None,
    *,
    what: str = "",
    advice: str = "",
) -> int:
    """Checks that a value is a whole number within bounds, and returns it as an int.

    Args:
      value: An int or a NumPy integer; True and False are rejected.
      name: Name of the argument.
      minimum: Minimum value allowed.
      maximum: Maximum value allowed; None for no limit.
      what: Subject of the error message, such as the class of the argument.
      advice: End of the error message: a sentence that says what to do.

    Raises:
      ValueError: If the value is not such a number.
    """
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < minimum or (maximum is not None and value > maximum):
        bounds = f"from {minimum:,}" + ("" if maximum is None else f" to {maximum:,}")
        raise _error(what, name, f"a whole number {bounds}", value, advice)
    return int(value)


def check_number(
    value: Any,
    name: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    allow_infinity: bool = False,
    what: str = "",
    advice: str = "",
) -> float:
    """Checks that a value is a number within bounds, and returns it.

    Args:
      value: An int, a float or a NumPy number; True, False and NaN are rejected.
      name: Name of the argument.
      minimum: Minimum value allowed, if any.
      above: Exclusive lower bound, if any.
      maximum: Maximum value allowed, if any.
      below: Exclusive upper bound, if any.
      allow_infinity: Whether the number may be infinite.
      what: Subject of the error message, such as the class of the argument.
      advice: End of the error message: a sentence that says what to do.

    Raises:
      ValueError: If the value is not such a number.
    """
    is_valid = is_number(value) and (allow_infinity or math.isfinite(value))
    bounds = (
        ("of at least", minimum, operator.ge),
        ("above", above, operator.gt),
        ("of at most", maximum, operator.le),
        ("below", below, operator.lt),
    )
    given = [(words, bound, holds) for words, bound, holds in bounds if bound is not None]
    texts = [f"{words} {bound:g}" for words, bound, _ in given]
    if not is_valid or not all(holds(value, bound) for _, bound, holds in given):
        kind = "a number or infinity" if allow_infinity else "a finite number"
        raise _error(what, name, f"{kind} {' and '.join(texts)}".strip(), value, advice)
    return value


def is_number(value: Any) -> bool:
    """Returns whether a value is an int, a float or a NumPy number, neither NaN nor a bool.

    Ints that exceed the range of floats are rejected, since JSON numbers may have thousands of
    digits.
    """
    if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
        return False
    try:
        return not math.isnan(value)
    except OverflowError:
        return False


def is_text(value: Any) -> bool:
    """Returns whether a value is a string."""
    return isinstance(value, str)


def is_file_name(value: Any) -> bool:
    """Returns whether a value is text that can name a file in any folder, with an ending."""
    return (
        isinstance(value, str)
        and 0 < len(value.encode("utf-8", "replace")) <= _MAX_FILE_NAME
        and "/" not in value
        and value.isprintable()
        and value not in (".", "..")
    )


def check_file_name(value: Any, name: str) -> None:
    """Raises a ValueError unless a value can name a file, see `is_file_name`."""
    if not is_file_name(value):
        raise ValueError(
            f"Expected {name} as printable text of at most {_MAX_FILE_NAME} bytes without /, since "
            f"files are named after it, received {quoted(value)}. Choose another name."
        )


def are_texts(value: Any) -> bool:
    """Returns whether a value is a list of strings, as parsed from JSON."""
    return isinstance(value, list) and all(map(is_text, value))


def check_different(class_names: Collection[str], what: str) -> None:
    """Raises a ValueError if two classes have the same name, which would make labels ambiguous.

    Args:
      class_names: Name of each class.
      what: Beginning of the error message: what has the classes.
    """
    if len(set(class_names)) < len(class_names):
        raise ValueError(
            f"{what}: expected a different name for each class, received {quoted(class_names)}. "
            "Rename those that are alike."
        )


def check_choice(
    value: Choice, name: str, choices: Collection[Choice], *, what: str = ""
) -> Choice:
    """Checks that a value is one of `choices`, and returns it.

    Args:
      value: The value.
      name: Name of the argument.
      choices: The values allowed; one must equal `value` in value and type.
      what: Subject of the error message, such as the class of the argument.

    Raises:
      ValueError: If the value is not one of `choices`.
    """
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise _error(what, name, f"one of {', '.join(map(str, choices))}", value, "")
    return value


def check_tensors(
    received: Mapping[str, Sequence[int]],
    expected: Mapping[str, Sequence[int]],
    what: str,
    advice: str,
) -> None:
    """Raises a ValueError unless tensors have the expected names and shapes.

    Args:
      received: Shapes of the tensors by name.
      expected: Expected shapes by name.
      what: Subject of the error message, such as `"An update"`.
      advice: End of the error message: a sentence that says what to do.
    """
    missing = sorted(expected.keys() - received.keys())[:5]
    unknown = sorted(received.keys() - expected.keys())[:5]
    if missing or unknown:
        raise ValueError(
            f"{what}: expected {len(expected)} tensors, missing are {missing}, unknown are "
            f"{quoted(unknown)}. {advice}"
        )
    for name, shape in expected.items():
        if tuple(received[name]) != tuple(shape):
            raise ValueError(
                f"{what}: expected tensor {name!r} of shape {tuple(shape)}, received "
                f"{tuple(received[name])}. {advice}"
            )


def _error(what: str, name: str, expected: str, received: Any, advice: str) -> ValueError:
    begin = f"{what}: expected" if what else "Expected"
    end = f" {advice}" if advice else ""
    return ValueError(f"{begin} {name} to be {expected}, received {quoted(received)}.{end}")
