"""Tests of supernets on disk: bit-exact, complete or absent, refused with a clear error."""

import errno
import json

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from fedsup_tf.files import checkpoint
from fedsup_tf.presets import digits_small, fedsup_cifar
from fedsup_tf.supernet import Supernet


@pytest.fixture
def saved(tmp_path):
    supernet = Supernet(digits_small(), seed=3)
    path = tmp_path / "supernet.safetensors"
    supernet.save_checkpoint(path, {"round": 7, "names": ["a"]})
    return supernet, path


def test_information_of_numpy_and_tuples_is_written_as_json_has_it(tmp_path):
    information = {"round": np.int64(3), "class_names": tuple("0123456789"), "x": np.ones(2)}
    Supernet(digits_small()).save_checkpoint(tmp_path / "a.safetensors", information)
    _, read = Supernet.load_checkpoint(tmp_path / "a.safetensors")
    assert read == {"round": 3, "class_names": list("0123456789"), "x": [1.0, 1.0]}


def test_a_supernet_comes_back_bit_for_bit(saved):
    supernet, path = saved
    loaded, information = Supernet.load_checkpoint(path, digits_small())
    assert information == {"round": 7, "names": ["a"]}
    assert loaded.space == supernet.space
    for name, value in supernet.weights_by_name().items():
        assert loaded.weights_by_name()[name].numpy().tobytes() == value.numpy().tobytes()


def test_an_extracted_subnet_comes_back_too(tmp_path):
    subnet = Supernet(digits_small()).extract(digits_small().smallest())
    subnet.save_checkpoint(tmp_path / "subnet.safetensors")
    loaded, _ = Supernet.load_checkpoint(tmp_path / "subnet.safetensors")
    images = np.ones((2, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(loaded(images), subnet(images))


def test_a_supernet_of_another_space_is_refused_with_both_named(saved):
    _, path = saved
    with pytest.raises(ValueError, match=r"fedsup_cifar.*received one with name .digits_small"):
        Supernet.load_checkpoint(path, fedsup_cifar())


def test_metadata_that_no_reader_takes_is_not_written(tmp_path):
    path = tmp_path / "long.safetensors"
    checkpoint.write_tensors(path, "test", {"a": np.ones(1, np.float32)}, {"notes": "short"})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="expected metadata of at most 16,777,216 bytes"):
        checkpoint.write_tensors(path, "test", {}, {"notes": "x" * 2**24})
    assert path.read_bytes() == before


@pytest.mark.parametrize("keep", [0, 5, 100, 20_000])
def test_a_truncated_file_is_refused(saved, keep):
    _, path = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="cannot be read"):
        Supernet.load_checkpoint(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        Supernet.load_checkpoint(tmp_path / "none")


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="unknown file"):
        Supernet.load_checkpoint(path)


def test_a_file_of_another_version_is_refused(tmp_path):
    path = tmp_path / "new.safetensors"
    header = {"kind": "fedsup-tf supernet", "version": 99, "metadata": {}}
    safetensors.numpy.save_file({"x": np.zeros(3)}, path, {"fedsup-tf": json.dumps(header)})
    with pytest.raises(ValueError, match="version 99"):
        Supernet.load_checkpoint(path)


def test_a_full_disk_leaves_the_old_file_and_no_rest(saved, monkeypatch):
    supernet, path = saved
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    supernet.weights_by_name()["head/bias"].assign(np.ones(10))
    with pytest.raises(OSError, match=r"No space left on device.*unchanged"):
        supernet.save_checkpoint(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_keras_saves_and_loads_a_supernet_in_its_own_format(tmp_path):
    supernet = Supernet(digits_small(), seed=3)
    changed = {name: value + 0.01 for name, value in supernet.values_by_name().items()}
    supernet.assign_weights(changed)
    path = tmp_path / "supernet.keras"
    supernet.save(path)
    supernet.save(path, overwrite=True)
    loaded = tf.keras.models.load_model(path)
    assert isinstance(loaded, Supernet)
    assert loaded.space == supernet.space
    for name, value in loaded.values_by_name().items():
        np.testing.assert_array_equal(value, changed[name])
