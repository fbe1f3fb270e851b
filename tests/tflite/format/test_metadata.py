"""Metadata of a `.tflite`: a name for each logit, whoever writes or reads it."""

import dataclasses
import json

import pytest

from fedsup_tf.presets import digits_small
from tflite.format.metadata import ModelMetadata

SPACE = digits_small(classes=9)
METADATA = ModelMetadata(
    architecture=SPACE.smallest(),
    space=SPACE,
    supernet_hash="a" * 64,
    round=3,
    class_names=tuple("abcdefghi"),
    preprocessing={},
    training={},
    batch_sizes={},
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


def test_a_fitted_classifier_is_known_by_its_earlier_name():
    fields = {**json.loads(METADATA.to_json()), "classifier": "closed_form"}
    assert ModelMetadata.from_json(json.dumps(fields)).classifier == "refitted"
