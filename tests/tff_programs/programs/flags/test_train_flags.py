"""Tests of the flags of `fedsup train` that configure clients and the server."""

import numpy as np
import pytest

from tff_programs.programs import train
from tff_programs.programs.flags.program_flags import parse_flags
from tff_programs.programs.flags.train_flags import note_on_few_classes


def counts(*held, classes=10):
    """Returns class counts of clients that hold five examples of each of their first classes."""
    return 5 * (np.arange(classes) < np.array(held)[:, np.newaxis])


@pytest.mark.parametrize(
    ("flags", "label_counts", "told"),
    [
        ([], counts(2, 2, 2), "holds 2.0 of 10 classes"),
        ([], counts(1, 4, 0), "holds 2.5 of 10 classes"),
        ([], counts(5, 5), None),
        ([], counts(2, 2, classes=2), None),
        ([], counts(0, 0), None),
        (["--absent_class_weight=1"], counts(2, 2, 2), None),
        (["--absent_class_weight=0.03"], counts(2, 2, 2), None),
    ],
)
def test_clients_of_few_classes_are_noted_unless_their_weight_is_chosen(flags, label_counts, told):
    options, _ = parse_flags(train.define_flags, ["train", *flags])
    note = note_on_few_classes(options, label_counts)
    assert (note is None) == (told is None)
    assert told is None or (told in note and "--absent_class_weight=0.03" in note)
