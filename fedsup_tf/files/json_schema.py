"""Fields out of JSON that a person may have written, with errors that name what is wrong."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fedsup_tf.files.reading import read_text, reading

Value = TypeVar("Value")

# What a message quotes of a value that is not what it should be.
_MOST_QUOTED = 80


def read_json(path: str | os.PathLike, what: str, parse: Callable[[str], Value]) -> Value:
    """Reads a JSON file.

    Args:
      path: The file.
      what: What it holds, such as `"a search space"`.
      parse: Makes a value of the text, such as a class's `from_json`; raises a ValueError that
        says what is wrong.

    Returns:
      The value.

    Raises:
      InvalidFileError: If there is no such file, or it holds something else; it names the file.
    """
    text = read_text(path, f"a JSON file of {what}")
    with reading(path, f"a JSON file of {what}"):
        return parse(text)


def parse_json(text: Any, what: str) -> dict[str, Any]:
    """Returns the JSON object in a text.

    Args:
      text: The text; anything else is refused.
      what: What the text is, which begins the error's message.

    Raises:
      ValueError: If it is not a JSON object.
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
    """Returns a value as `json.loads` would read it: tuples as lists, NumPy's values as Python's.

    Args:
      value: The value.
      what: What it is, which begins the error's message.

    Raises:
      ValueError: If a part of it is no JSON value.
    """
    try:
        return json.loads(json.dumps(value, default=_plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{what}: expected values that JSON has, received others ({error}). Make them texts, "
            "numbers, lists or objects by name."
        ) from error


def _plain(value: Any) -> Any:
    # A value or an array of NumPy, which is not imported for this.
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object's fields, none of which may be overridden by a later one."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {quoted(repeated)} twice in one object")
    return fields


def quoted(value: Any) -> str:
    """Returns a value as Python writes it, cut if it is long."""
    # Values that are nested deeply have no text.
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= _MOST_QUOTED else f"{text[: _MOST_QUOTED - 3]}..."


def expect_keys(fields: Any, known: set[str], required: set[str], what: str) -> None:
    """Raises a ValueError unless `fields` has all `required` names and none but the `known`."""
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
    """Returns a list of whole numbers, not empty, as a tuple."""
    if (
        not isinstance(values, list | tuple)
        or not values
        or not all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    ):
        raise ValueError(f"{what}: expected a list of whole numbers, received {quoted(values)}.")
    return tuple(values)
