"""Names of the training and test splits in folders, tables and names of arrays."""

from collections.abc import Iterable

from fedsup_tf.data.class_labels import list_names

TRAIN_WORDS = ("train", "training")
# The first of these that the data has is the test split; the others are not used.
TEST_WORDS = ("test", "testing", "val", "valid", "validation", "dev", "eval")


def split_word(name: str) -> str | None:
    """Returns a name in lower case if it is the word of a split, otherwise None."""
    word = name.strip().lower()
    return word if word in (*TRAIN_WORDS, *TEST_WORDS) else None


def choose_test_word(words: Iterable[str], what: str, remedy: str) -> str | None:
    """Chooses the test split of data that is divided into splits.

    Args:
      words: Words of the splits, as `split_word` returns them.
      what: Form of a split in the data, for the error message, such as `"a folder"`.
      remedy: Alternative advice for the error message if there is no training split.

    Returns:
      Word of the test split; None if there is only a training split.

    Raises:
      ValueError: If there is no training split.
    """
    words = set(words)
    if not words & set(TRAIN_WORDS):
        raise ValueError(
            f"expected {what} of the training part, train, received only "
            f"{list_names(sorted(words))}. Add the training part, or {remedy}."
        )
    return next((word for word in TEST_WORDS if word in words), None)
