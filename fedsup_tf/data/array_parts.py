"""Accepted names of a file's arrays, and the division of arrays into splits."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from fedsup_tf.data.archives import DatasetError
from fedsup_tf.data.class_labels import list_names
from fedsup_tf.data.split_words import TEST_WORDS, TRAIN_WORDS, choose_test_word, split_word

PARTS = ("images", "labels", "clients")
NAMES = (*PARTS, *(f"test_{part}" for part in PARTS))
# Array with the split of each example, used if there are no separate test arrays.
SPLIT = "split"
# Common names of arrays, without the word of a split that may precede or follow them.
_KINDS = {part: part for part in PARTS} | {"x": "images", "y": "labels"}


def names_of_parts(path: str, held: Sequence[str]) -> dict[str, str]:
    """Maps `NAMES` to the names of the arrays in a file, such as `x_train` or `val_y`.

    Args:
      path: The file.
      held: Names of the arrays in the file.

    Raises:
      DatasetError: If two of them stand for the same array.
    """
    by_word: dict[str, dict[str, str]] = {}
    for name in held:
        words = name.lower().split("_")
        place = next((place for place in (0, -1) if split_word(words[place])), None)
        word = None if place is None else split_word(words.pop(place))
        kind = _KINDS.get("_".join(words))
        if kind is None:
            continue
        names = by_word.setdefault("" if word in TRAIN_WORDS else word or "", {})
        if kind in names:
            raise DatasetError(
                f"{path!r}: expected one of {name} and {names[kind]}, received both. Leave one of "
                "them out."
            )
        names[kind] = name
    tests = [by_word[word] for word in TEST_WORDS if word in by_word]
    # Ignores validation images without labels; `join_arrays` reports test images without labels.
    test = next((names for names in tests if {"images", "labels"} <= names.keys()), None)
    test = by_word.get(TEST_WORDS[0], {}) if test is None else test
    return by_word.get("", {}) | {f"test_{kind}": name for kind, name in test.items()}


def divide_arrays(
    source: str, arrays: Mapping[str, np.ndarray], split: np.ndarray
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Divides arrays into a training and a test split.

    Args:
      source: Beginning of error messages, such as the file.
      arrays: Arrays by their name in `PARTS`, each `(examples, ...)`.
      split: `(examples,)`, word of each example's split.

    Returns:
      The arrays of both splits by name, and notes about examples that are not used.

    Raises:
      DatasetError: If a word is not that of a split, or there are no training examples.
    """
    count, given = len(split), split.astype(str)
    words = np.array([split_word(text) or "" for text in given.tolist()])
    if "" in words:
        raise DatasetError(
            f"{source}: expected {SPLIT} as train or test, received "
            f"{given[words == ''][0]!r}. Write one of them."
        )
    try:
        test = choose_test_word(words.tolist(), "examples", f"leave the array {SPLIT} out")
    except ValueError as error:
        raise DatasetError(f"{source}: {error}") from error
    is_trained, is_test = np.isin(words, TRAIN_WORDS), words == (test or "")
    divided = {}
    for part, values in arrays.items():
        if len(np.atleast_1d(values)) != count:
            # The caller reports the different lengths, as it does for arrays that are not divided.
            return dict(arrays), ()
        divided[part] = values[is_trained]
        if test:
            divided[f"test_{part}"] = values[is_test]
    unused = count - int(is_trained.sum() + is_test.sum())
    verb = "is" if unused == 1 else "are"
    note = f"{unused:,} of {count:,} examples {verb} of a part that is not used."
    return divided, (note,) if unused else ()


def unused_notes(held: Sequence[str], found: Collection[str]) -> tuple[str, ...]:
    """Returns a note if a file holds arrays that are not among those found."""
    unused = [name for name in held if name not in found]
    if not unused:
        return ()
    noun = "The array" if len(unused) == 1 else "The arrays"
    verb = "is" if len(unused) == 1 else "are"
    return (
        f"{noun} {list_names(unused)} {verb} not used: those that are used are called "
        f"{', '.join(NAMES)}.",
    )
