"""Checks the information stored with a supernet's weights when its file is written or read."""

import math
from collections.abc import Mapping
from typing import Any

from fedsup_tf.architecture import Architecture
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.json_schema import quoted
from fedsup_tf.files.validation import (
    are_texts,
    check_different,
    is_file_name,
    is_number,
    is_text,
)
from fedsup_tf.space import SearchSpace


def _is_count(value) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_finite(value) -> bool:
    return is_number(value) and math.isfinite(value)


def _are_tiers(value) -> bool:
    return isinstance(value, list) and all(
        isinstance(tier, list) and len(tier) >= 2 and is_file_name(tier[0]) and is_text(tier[1])
        for tier in value
    )


def _are_numbers(value) -> bool:
    return isinstance(value, list) and all(map(_is_finite, value))


def _are_limits(value) -> bool:
    return isinstance(value, list) and all(
        limit is None
        or (
            isinstance(limit, dict)
            and limit.keys() == {"cost", "limit"}
            and limit["cost"] in _COSTS
            and _is_finite(limit["limit"])
        )
        for limit in value
    )


def _is_privacy(value) -> bool:
    return isinstance(value, dict) and _are_numbers([value.get("epsilon"), value.get("delta")])


# Fields of `search.costs.Cost`, which this module does not import.
_COSTS = ("parameters", "macs")
_OBJECT = ("an object", lambda value: isinstance(value, dict))
_TEXT = ("text", is_text)
_COUNT = ("a whole number from 0", _is_count)
_NUMBER = ("a finite number", _is_finite)
# Expected values of the fields that programs know. Files may have other fields, too.
_FIELDS = {
    "round": _COUNT,
    "settings": _OBJECT,
    "preprocessing": _TEXT,
    "class_names": ("a list of names", are_texts),
    "tiers": ("a list that begins each tier with its name and its architecture", _are_tiers),
    "tier_shares": ("a list of numbers", _are_numbers),
    "tier_limits": ("a list of objects of a cost and a limit", _are_limits),
    "merged": ("a list of identities", are_texts),
    "fleet": _OBJECT,
    "privacy": ("an object of the numbers epsilon and delta", _is_privacy),
}
# Training settings that other programs read.
_SETTINGS = {
    "dataset": _TEXT,
    "partition": _TEXT,
    "clients": _COUNT,
    "classes_per_client": _COUNT,
    "seed": _COUNT,
    "beta": _NUMBER,
    "quantity": _NUMBER,
    "incomplete_clients": _TEXT,
    "resize": _TEXT,
    "background": _TEXT,
    "test_share": _NUMBER,
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "learning_rate": _NUMBER,
    "momentum": _NUMBER,
    "weight_decay": _NUMBER,
    "clip_value": ("a number or infinity", is_number),
    "label_smoothing": _NUMBER,
}


def check_information(information: Any, space: SearchSpace) -> None:
    """Raises a ValueError if the information stored with a supernet is invalid.

    Args:
      information: Any JSON value; fields that no program knows are not checked.
      space: The supernet's search space.
    """
    if not isinstance(information, dict):
        raise ValueError(
            f"A supernet: expected its information as an object, received {quoted(information)}. "
            "Use a file that this version wrote."
        )
    _check_types(information, _FIELDS, "A supernet's information")
    _check_types(information.get("settings", {}), _SETTINGS, "A supernet's settings")
    names = information.get("class_names")
    if names is not None and len(names) != space.classes:
        raise ValueError(
            f"A supernet: expected a class name for each of its {space.classes} classes, received "
            f"{len(names)} names. Give the names of the data set that it was trained on."
        )
    check_different(names or (), "A supernet")
    if "preprocessing" in information:
        channels = len(Preprocessing.from_json(information["preprocessing"]).mean)
        if channels != space.image_shape[2]:
            raise ValueError(
                f"A supernet: expected preprocessing of its images' {space.image_shape[2]} "
                f"channels, received that of {channels}. Give that of the images it was trained on."
            )
    for _, text, *_ in information.get("tiers", []):
        space.check(Architecture.from_json(text))


def _check_types(fields: Mapping[str, Any], known: Mapping[str, tuple], what: str) -> None:
    for name, (expected, holds) in known.items():
        if name in fields and not holds(fields[name]):
            raise ValueError(
                f"{what}: expected {name} as {expected}, received {quoted(fields[name])}. Use a "
                "file that this version wrote."
            )
