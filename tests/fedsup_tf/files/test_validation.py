"""Tests of checks of single values: their results, and the form of their messages."""

import re

import numpy as np
import pytest

from fedsup_tf.files.validation import check_choice, check_number, check_whole_number


@pytest.mark.parametrize("value", [3, np.int64(3)])
def test_a_whole_number_is_returned_as_an_int(value):
    assert type(check_whole_number(value, "epochs", 1, 3)) is int


@pytest.mark.parametrize("value", [0, 4, 2.0, True, None, "2", np.float32(2)])
def test_anything_else_is_refused_with_the_bounds_and_the_value(value):
    message = f"Training: expected epochs to be a whole number from 1 to 3, received {value!r}. Go."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_whole_number(value, "epochs", 1, 3, what="Training", advice="Go.")


@pytest.mark.parametrize("value", [0, 0.5, np.float32(2)])
def test_a_finite_number_is_returned_as_it_is(value):
    assert check_number(value, "rate", minimum=0) is value


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, None, "1"])
def test_other_numbers_are_refused(value):
    with pytest.raises(
        ValueError, match=r"^Expected rate to be a finite number of at least 0, rec"
    ):
        check_number(value, "rate", minimum=0)


def test_a_bound_may_be_excluded():
    with pytest.raises(ValueError, match="rate to be a finite number above 0, received 0"):
        check_number(0, "rate", above=0)


@pytest.mark.parametrize(
    ("bounds", "valid", "others", "told"),
    [
        (
            {"minimum": 0, "maximum": 1},
            (0, 1),
            (-0.1, 1.1),
            "of at least 0 and of at most 1",
        ),
        ({"above": 0, "below": 1}, (0.5,), (0, 1), "a finite number above 0 and below 1"),
        (
            {"above": 0, "allow_infinity": True},
            (float("inf"),),
            (float("nan"), float("-inf")),
            "a number or infinity above 0",
        ),
        ({}, (-5,), (float("inf"),), "a finite number"),
    ],
)
def test_bounds_may_be_from_above_and_infinity_allowed(bounds, valid, others, told):
    for value in valid:
        assert check_number(value, "rate", **bounds) is value
    for value in others:
        with pytest.raises(ValueError, match=f"rate to be .*{told}, received"):
            check_number(value, "rate", **bounds)


@pytest.mark.parametrize("value", ["c", None, ["a"], True])
def test_a_choice_that_there_is_not_is_refused_with_those_there_are(value):
    assert check_choice("a", "kind", ("a", "b")) == "a"
    assert check_choice(1, "stride", (1, 2)) == 1
    with pytest.raises(ValueError, match="kind to be one of a, b, received"):
        check_choice(value, "kind", ("a", "b"))
    with pytest.raises(ValueError, match="stride to be one of 1, 2, received"):
        check_choice(value, "stride", (1, 2))


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_whole_numbers_beyond_every_float_are_no_numbers(value):
    with pytest.raises(ValueError, match="rate to be a number or infinity, received"):
        check_number(value, "rate", allow_infinity=True)
