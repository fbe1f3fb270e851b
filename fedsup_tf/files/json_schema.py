"""Reads and checks JSON that a person may have written; error messages name the faulty field."""

import json
import operator
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fedsup_tf.files.reading import read_text, reading

Value = TypeVar("Value")

# Maximum length of a value that is quoted in an error message.
_MAX_QUOTED = 80
_HASH = re.compile("[0-9a-f]{64}")


def is_hash(value: Any) -> bool:
    """Returns whether a value is a SHA-256 in lower-case hexadecimal digits."""
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def read_json(path: str | os.PathLike, what: str, parse: Callable[[str], Value]) -> Value:
    """Reads a JSON file.

    Args:
      path: The file.
      what: Expected content, such as `"a search space"`.
      parse: Function that converts the text to a value, such as a class's `from_json`; raises a
        ValueError that says what is wrong.

    Returns:
      The parsed value.

    Raises:
      InvalidFileError: If the file does not exist or has other content; the message names the file.
    """
    text = read_text(path, f"a JSON file of {what}")
    with reading(path, f"a JSON file of {what}"):
        return parse(text)


def parse_json(text: Any, what: str) -> dict[str, Any]:
    """Parses a text that is a JSON object.

    Args:
      text: The text; values of other types are rejected.
      what: Beginning of the error message: what the text is.

    Raises:
      ValueError: If `text` is not a JSON object, or one of its objects repeats a field.
    """
    if not isinstance(text, str):
        raise ValueError(f"{what}: expected JSON as text, received {quoted(text)}.")
    try:
        fields = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{what}: expected JSON, received text with an error: {error}. Correct it there."
        ) from error
    if not isinstance(fields, dict):
        raise ValueError(f"{what}: expected a JSON object, received {type(fields).__name__}.")
    return fields


def as_json(value: Any, what: str) -> Any:
    """Converts a value to its JSON form: tuples to lists, NumPy values to Python values.

    Args:
      value: The value.
      what: Beginning of the error message: what the value is.

    Raises:
      ValueError: If the value, or a part of it, has no JSON form.
    """
    try:
        return json.loads(json.dumps(value, default=_plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{what}: expected values that JSON can represent, received others ({error}). Make "
            "them texts, numbers, lists or objects by name."
        ) from error


def _plain(value: Any) -> Any:
    # NumPy scalars and arrays, recognized without importing NumPy.
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the fields of a JSON object; raises a ValueError if a name is repeated."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {quoted(repeated)} twice in one object")
    return fields


def quoted(value: Any) -> str:
    """Returns the `repr` of a value, truncated if it is long."""
    # `repr` fails for deeply nested values.
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= _MAX_QUOTED else f"{text[: _MAX_QUOTED - 3]}..."


def expect_keys(fields: Any, known: set[str], required: set[str], what: str) -> None:
    """Raises a ValueError unless `fields` has all `required` names and only `known` ones."""
    if not isinstance(fields, Mapping):
        raise ValueError(
            f"{what}: expected an object with the fields {sorted(required)}, received "
            f"{quoted(fields)}; missing are all."
        )
    keys = set(fields)
    if not required <= keys <= known:
        raise ValueError(
            f"{what}: expected the fields {sorted(known)}, missing are {sorted(required - keys)}, "
            f"unknown are {quoted(sorted(keys - known))}. Add what is missing, and take out "
            "what is unknown."
        )


def whole_numbers(values: Any, what: str) -> tuple[int, ...]:
    """Returns a non-empty list of whole numbers as ints; raises a ValueError for anything else."""
    is_list = isinstance(values, list | tuple) and bool(values)
    # Integers of NumPy have an index too.
    if not is_list or any(
        isinstance(value, bool) or not hasattr(value, "__index__") for value in values
    ):
        raise ValueError(f"{what}: expected a list of whole numbers, received {quoted(values)}.")
    return tuple(operator.index(value) for value in values)
