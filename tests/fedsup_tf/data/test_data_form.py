"""Tests of comparing data with the data that a net was trained on."""

import pytest

from fedsup_tf.data.data_form import DataForm
from fedsup_tf.data.datasets import load_dataset
from fedsup_tf.data.preprocessing import Preprocessing

INK = Preprocessing((4.9,), (6.0,), greatest_pixel=16)
FORM = DataForm(3, (8, 8, 1), ("cat", "dog", "eel"), INK)


def test_data_of_the_same_form_passes():
    FORM.check("mine", FORM)
    FORM.check("mine", FORM._replace(preprocessing=Preprocessing((5.5,), (7.5,))))
    unknown = DataForm(3, (8, 8, 1))
    unknown.check("mine", FORM)
    FORM.check("mine", unknown)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"classes": 6, "class_names": tuple("abcdef")},
            r"expected 3 classes \(cat, dog, eel\), received 6 classes \(a, b, c, d, e, \.\.\.\)\.",
        ),
        ({"classes": 2, "class_names": None}, "expected 3 classes .*, received 2 classes"),
        ({"class_names": ("dog", "cat", "eel")}, r"received 3 classes \(dog, cat, eel\)\. Give"),
        ({"image_shape": (8, 8, 3)}, r"expected images of shape \(8, 8, 1\), received \(8, 8, 3\)"),
        (
            {"preprocessing": Preprocessing((72.9,), (90.0,))},
            "expected pixels from 0 to 16 of a standard .* received pixels .* 90",
        ),
        (
            {"preprocessing": Preprocessing((12.0,), (12.0,), greatest_pixel=255)},
            "expected pixels from 0 to 16 .*, received pixels from 0 to 255",
        ),
    ],
)
def test_data_of_another_form_is_refused(changes, told):
    with pytest.raises(ValueError, match=f"Data mine: .*{told}"):
        FORM.check("mine", FORM._replace(**changes))


def test_the_form_of_a_data_set_is_that_of_its_arrays():
    dataset = load_dataset("digits", image_shape=(12, 10, 3))
    form = DataForm.of_dataset(dataset)
    assert form == (10, (12, 10, 3), dataset.class_names, dataset.preprocessing)
