"""Tests of a `.tflite`'s metadata: writers and readers require a name for each logit."""

import dataclasses
import json

import pytest

from fedsup_tf.presets import digits_small
from tflite.format.metadata import ModelMetadata, append_metadata

SPACE = digits_small(classes=9)
METADATA = ModelMetadata(
    architecture=SPACE.smallest(),
    space=SPACE,
    supernet_hash="a" * 64,
    round=3,
    class_names=tuple("abcdefghi"),
    preprocessing={"mean": [8.0], "standard_deviation": [4.0], "crop_padding": 0, "flip": False},
    training={},
    batch_sizes={"infer": 1},
    variables={},
    parameters=1,
    macs=1,
)


def test_metadata_are_read_as_they_were_written():
    assert ModelMetadata.from_json(METADATA.to_json()) == METADATA


@pytest.mark.parametrize("names", ["abcdefghij", "abcdefgh", ""])
def test_another_number_of_class_names_than_of_logits_is_refused(names):
    told = rf"each of the model's 9 logits, received {len(names)} names\. Export"
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(METADATA, class_names=tuple(names))
    fields = {**json.loads(METADATA.to_json()), "class_names": list(names)}
    with pytest.raises(ValueError, match=told):
        ModelMetadata.from_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"class_names": ["a"] * 9}, "a different name for each class, received .'a', 'a'"),
        ({"preprocessing": {}}, "A model's metadata: expected what this version writes.*'mean'"),
        (
            {"preprocessing": {**METADATA.preprocessing, "mean": [1], "standard_deviation": [0]}},
            "Preprocessing: expected standard_deviation to be",
        ),
        (
            {
                "preprocessing": {
                    **METADATA.preprocessing,
                    "mean": [1, 1, 1],
                    "standard_deviation": [1, 1, 1],
                }
            },
            "expected preprocessing of its images' 1 channels, received that of 3",
        ),
        ({"batch_sizes": {}}, r"expected batch_sizes of infer, received \{\}"),
        ({"supernet_hash": ""}, "expected supernet_hash as a SHA-256 in 64 lower-case hex"),
        ({"precision": "int4"}, "expected precision as one of float32"),
        ({"variables": {"head/bias": [9]}}, "expected batch_sizes of evaluate, infer, train"),
    ],
)
def test_fields_that_a_program_would_stumble_over_are_refused(changes, told):
    fields = {**json.loads(METADATA.to_json()), **changes}
    with pytest.raises(ValueError, match=told):
        ModelMetadata.from_json(json.dumps(fields))


def test_metadata_that_no_reader_would_take_is_not_written():
    long = [f"{number}{'x' * 130_000}" for number in range(9)]
    metadata = dataclasses.replace(METADATA, class_names=tuple(long))
    with pytest.raises(ValueError, match=r"at most 1,048,576 bytes, received 1,1.* shorter names"):
        append_metadata(b"", metadata)


def test_feature_rates_are_written_only_if_there_are_any():
    assert "feature_rates" not in json.loads(METADATA.to_json())
    fine_tuned = dataclasses.replace(METADATA, feature_rates=(0.25, 0.5))
    assert json.loads(fine_tuned.to_json())["feature_rates"] == [0.25, 0.5]
    assert ModelMetadata.from_json(fine_tuned.to_json()) == fine_tuned


def test_the_single_rate_of_an_earlier_version_is_that_of_any_loss():
    fields = {**json.loads(METADATA.to_json()), "feature_rate": 0.25}
    assert ModelMetadata.from_json(json.dumps(fields)).feature_rates == (0.25, 0.25)


RATES = ["[0, 1]", "[0.5, 2]", "[0.5, 0.4]", "[0.5]", "0.5", '["x", 1]', "[true, 1]", "null"]


@pytest.mark.parametrize("rates", [*RATES, "[0.5, NaN]"])
def test_other_feature_rates_are_refused(rates):
    fields = {**json.loads(METADATA.to_json()), "feature_rates": json.loads(rates)}
    told = "expected feature_rates as two ascending numbers above 0 and of at most 1, received"
    with pytest.raises(ValueError, match=told):
        ModelMetadata.from_json(json.dumps(fields))


def test_a_fitted_classifier_is_known_by_its_earlier_name():
    fields = {**json.loads(METADATA.to_json()), "classifier": "closed_form"}
    assert ModelMetadata.from_json(json.dumps(fields)).classifier == "refitted"
