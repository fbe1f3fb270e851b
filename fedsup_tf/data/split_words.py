"""Words that divide examples into training and test: of folders, tables and names of arrays."""

from collections.abc import Iterable

from fedsup_tf.data.class_labels import list_names

TRAIN_WORDS = ("train", "training")
# The first of these that data has is its test part, and the others are not used.
TEST_WORDS = ("test", "testing", "val", "valid", "validation", "dev", "eval")


def split_word(name: str) -> str | None:
    """Returns a name as the word of a part, in small letters; None if it is none."""
    word = name.strip().lower()
    return word if word in (*TRAIN_WORDS, *TEST_WORDS) else None


def choose_test_word(words: Iterable[str], what: str, remedy: str) -> str | None:
    """Chooses the test part of data that is divided into parts.

    Args:
      words: The parts' words, as `split_word` returns them.
      what: What a part is, for an error, such as `"a folder"`.
      remedy: What else to do, where there is no training part.

    Returns:
      The word of the test part; None if there is only a training part.

    Raises:
      ValueError: If there is no training part.
    """
    words = set(words)
    if not words & set(TRAIN_WORDS):
        raise ValueError(
            f"expected {what} of the training part, train, received only "
            f"{list_names(sorted(words))}. Add the training part, or {remedy}."
        )
    return next((word for word in TEST_WORDS if word in words), None)
