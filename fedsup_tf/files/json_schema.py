"""Fields out of JSON that a person may have written, with errors that name what is wrong."""

import json
import os
from collections.abc import Mapping
from typing import Any


def read_json_text(path: str | os.PathLike, what: str) -> str:
    """Text of a file that should hold `what`; that there is none is a ValueError."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(
            f"{path}: expected a JSON file of {what}, received none that can be read: {reason}."
        ) from error


def parse_json(text: str, what: str) -> Mapping[str, Any]:
    """Returns the JSON object in `text`; `what` begins the error's message."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what}: expected JSON, received text with an error: {error}.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{what}: expected a JSON object, received {type(fields).__name__}.")
    return fields


def expect_keys(fields: Any, known: set[str], required: set[str], what: str) -> None:
    """Raises a ValueError unless `fields` has all `required` names and none but the `known`."""
    keys = set(fields) if isinstance(fields, dict) else set()
    if not required <= keys <= known:
        raise ValueError(
            f"{what}: expected the fields {sorted(known)}, missing are {sorted(required - keys)}, "
            f"unknown are {sorted(keys - known)}."
        )


def whole_numbers(values: Any, what: str) -> tuple[int, ...]:
    """Returns a list of whole numbers, not empty, as a tuple."""
    if (
        not isinstance(values, list | tuple)
        or not values
        or not all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    ):
        raise ValueError(f"{what}: expected a list of whole numbers, received {values!r}.")
    return tuple(values)
