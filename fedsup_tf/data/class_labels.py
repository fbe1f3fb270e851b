"""Maps labels, which may be names or numbers, to whole numbers from 0: indices of class names.

The class names define the mapping. They are stored in checkpoints and exported models, so that
other data of the same task, on a phone or in a test, gets the same numbers.
"""

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from fedsup_tf.files.json_schema import quoted
from fedsup_tf.files.validation import are_texts

_MAX_LISTED = 5
# Several times the maximum length of a folder's name.
_MAX_CHARACTERS = 1000
# Unicode categories of control characters, and of surrogates, which UTF-8 cannot encode.
_NO_TEXT = ("Cc", "Cs")


def compose(name: str) -> str:
    """Composes each accented letter of a name into one character, since systems differ in this."""
    return unicodedata.normalize("NFC", name)


def check_names(names: Iterable[str], what: str) -> list[str]:
    """Composes names with `compose`, and checks that they can be printed and stored.

    Args:
      names: The names.
      what: Beginning of the error message: what is named, such as `"digits, class names"`.

    Raises:
      ValueError: If a name is too long, or has control characters.
    """
    names = [compose(name) for name in names]
    for name in names:
        if len(name) > _MAX_CHARACTERS or _printable(name) != name:
            raise ValueError(
                f"{what}: expected at most {_MAX_CHARACTERS:,} characters and no line breaks or "
                f"other control characters, received {quoted(name)}. Rename it."
            )
    return names


def _printable(name: str) -> str:
    return "".join(
        repr(letter)[1:-1] if unicodedata.category(letter) in _NO_TEXT else letter
        for letter in name
    )


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sorts distinct names: by value if all of them are whole numbers, otherwise as text."""
    names = set(names)
    if all(name.removeprefix("-").isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def list_names(names: Sequence[str]) -> str:
    """Lists names for a message; a long list is cut after the first few."""
    more = len(names) - _MAX_LISTED
    text = ", ".join(map(_printable, names[:_MAX_LISTED]))
    return f"{text} and {more:,} more" if more > 0 else text


def alike_names(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the first group of names that differ only in case and spaces; empty if none do."""
    groups = {}
    for name in names:
        groups.setdefault("".join(name.casefold().split()), []).append(name)
    return next((tuple(group) for group in groups.values() if len(group) > 1), ())


def number_labels(
    labels: Sequence[str] | np.ndarray, class_names: Sequence[str] | None, source: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers labels from 0.

    Args:
      labels: `(examples,)`, text or whole numbers.
      class_names: Names of the allowed classes. Labels must all be class names (`/` may be written
        as `_`, as in folder names), or all be class numbers from 0. None makes each distinct label
        a class, in the order of `sort_names`.
      source: Beginning of error messages: where the labels are from.

    Returns:
      Class numbers from 0, `(examples,)`, int32, and the class names.

    Raises:
      ValueError: If a label is not one of the classes, or class names are invalid or repeated.
    """
    values, places = np.unique(np.asarray(labels), return_inverse=True)
    texts = [compose(str(value)) for value in values]
    if class_names is None:
        texts = check_names(texts, f"{source}, labels")
        class_names = sort_names(texts)
        numbers = {name: number for number, name in enumerate(class_names)}
    else:
        is_ordered = isinstance(class_names, list | tuple | np.ndarray)
        given = np.asarray(class_names).tolist() if is_ordered else class_names
        if not given or not are_texts(given) or len(set(given)) < len(given):
            raise ValueError(
                f"{source}: expected class_names as a list of different names, received "
                f"{quoted(given)}. Give one name for each class."
            )
        class_names = tuple(given)
        composed = [compose(name) for name in class_names]
        numbers = {name.replace("/", "_"): number for number, name in enumerate(composed)}
        numbers |= {name: number for number, name in enumerate(composed)}
        if not numbers.keys() >= set(texts):
            by_number = {str(number): number for number in range(len(class_names))}
            unknown = [text for text in texts if text not in numbers]
            if not by_number.keys() >= set(texts):
                raise ValueError(
                    f"{source}: expected labels of the {len(class_names)} classes "
                    f"{list_names(class_names)}, or their numbers from 0, received "
                    f"{list_names(unknown)}. Name them like the classes, or take their examples "
                    "out."
                )
            numbers = by_number
    table = np.array([numbers[text] for text in texts], np.int32)
    return table[places].reshape(-1), class_names
