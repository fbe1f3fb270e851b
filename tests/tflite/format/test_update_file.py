"""Tests of update files: read as written, refused with a clear error if anything is wrong."""

import dataclasses
import functools
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from spaces import SPACE
from subnet_shapes import subnet_shapes

from fedsup_tf.architecture import Architecture
from fedsup_tf.files import checkpoint
from tflite.format import update_file
from tflite.format.update_file import DeviceUpdate, parse_update, read_update, write_update

SAMPLES = Path(__file__).parents[2] / "data" / "first_release"
SHAPES_OF = functools.partial(subnet_shapes, SPACE)
ARCHITECTURE = Architecture((8, 16), (1, 2), (5, 3))


def make_update(**changes):
    rng = np.random.default_rng(0)
    shapes = SHAPES_OF(ARCHITECTURE)
    fields = dict(
        delta={name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
        architecture=ARCHITECTURE,
        base_hash="0123456789abcdef" * 4,
        base_round=7,
        examples=12,
        loss_before=1.5,
        loss_after=0.7,
        client="phone 3",
    )
    return DeviceUpdate(**{**fields, **changes})


def read(path):
    return read_update(path, SPACE, SHAPES_OF)


def write_by_hand(path, tensors=None, metadata=None, header=None, tensor_header=None, text=None):
    """Writes an update as the file's documentation describes, with parts of it replaced."""
    update = make_update()
    tensors = {**update.delta, **(tensors or {})}
    names = [name for name, value in tensors.items() if value is not None]
    codes = {"float32": "F32", "float64": "F64", "int8": "I8"}
    head, data = {}, b""
    for name in names:
        value = tensors[name].tobytes()
        head[name] = {
            "dtype": codes[tensors[name].dtype.name],
            "shape": list(tensors[name].shape),
            "data_offsets": [len(data), len(data) + len(value)],
        }
        data += value
    for name, changes in (tensor_header or {}).items():
        head[name].update(changes)
    fields = {
        "architecture": {"widths": [8, 16], "depths": [1, 2], "kernels": [5, 3]},
        "base_hash": "0123456789abcdef" * 4,
        "base_round": 7,
        "examples": 12,
        "loss_before": 1.5,
        "loss_after": 0.7,
        "client": "phone 3",
        **(metadata or {}),
    }
    fields = {name: value for name, value in fields.items() if value != "left out"}
    head["__metadata__"] = {
        "fedsup-tf": text
        or json.dumps(
            {"kind": "fedsup-tf update", "version": 1, "metadata": fields, **(header or {})}
        )
    }
    head = json.dumps(head).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


def assert_equal(actual, expected):
    assert actual.delta.keys() == expected.delta.keys()
    for name, value in expected.delta.items():
        assert actual.delta[name].dtype == np.float32
        assert actual.delta[name].tobytes() == value.tobytes()
    assert actual.metadata() == expected.metadata()
    assert actual.identity == expected.identity


@pytest.mark.parametrize("client", ["phone 3", None])
@pytest.mark.parametrize("class_names", [("cat", "Hündin", "7"), None])
def test_an_update_comes_back_bit_for_bit(tmp_path, client, class_names):
    update = make_update(client=client, class_names=class_names)
    write_update(tmp_path / "update.safetensors", update)
    assert_equal(read(tmp_path / "update.safetensors"), update)


def test_a_file_written_by_hand_as_documented_is_the_same_update(tmp_path):
    write_by_hand(tmp_path / "update")
    assert_equal(read(tmp_path / "update"), make_update())
    # As JSON writers of other languages do: integers as losses, no client.
    write_by_hand(tmp_path / "update", metadata={"loss_before": 2, "client": "left out"})
    assert_equal(read(tmp_path / "update"), make_update(loss_before=2.0, client=None))
    write_by_hand(tmp_path / "update", metadata={"class_names": ["a", "b", "c"]})
    assert_equal(read(tmp_path / "update"), make_update(class_names=("a", "b", "c")))


def test_the_identity_is_that_of_the_content():
    update = make_update()
    changed = {name: value.copy() for name, value in update.delta.items()}
    changed["head/bias"][0] = np.nextafter(changed["head/bias"][0], np.float32(9))
    others = [
        make_update(delta=changed),
        make_update(base_hash="f" * 64),
        make_update(architecture=Architecture((8, 16), (1, 2), (5, 5))),
    ]
    assert len({update.identity, *(other.identity for other in others)}) == 4
    same = [
        make_update(base_round=8),
        make_update(examples=13),
        make_update(loss_after=0.5),
        make_update(client=None),
        make_update(class_names=("a", "b", "c")),
        make_update(delta=dict(reversed(update.delta.items()))),
    ]
    assert {other.identity for other in same} == {update.identity}


def test_reading_and_writing_load_no_tensorflow(tmp_path):
    write_by_hand(tmp_path / "update")
    shapes = {name: value.shape for name, value in make_update().delta.items()}
    program = (
        "import sys; from tflite.format.update_file import read_update, write_update;"
        "from fedsup_tf.space import SearchSpace;"
        f"space = SearchSpace.from_json({SPACE.to_json()!r});"
        f"update = read_update({str(tmp_path / 'update')!r}, space, lambda _: {shapes!r});"
        f"write_update({str(tmp_path / 'copy')!r}, update);"
        "print(update.identity, [name for name in sys.modules if name.startswith('tensorflow')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.stdout.split() == [make_update().identity, "[]"], result.stderr
    assert_equal(read(tmp_path / "copy"), make_update())


def test_the_fingerprint_is_the_documented_one():
    tensors = {
        "b": np.array([[1, 2], [3, 4]], np.float32),
        "a/x": np.array(5, np.int32),
        "B": np.zeros((0, 3), np.float32),
    }
    expected = hashlib.sha256(
        b"B\nfloat32\n0,3\n"
        b"a/x\nint32\n\n\x05\x00\x00\x00"
        b"b\nfloat32\n2,2\n\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\x40\x40\x00\x00\x80\x40"
    ).hexdigest()
    assert checkpoint.fingerprint(tensors) == expected
    tensors["b"] = np.asfortranarray(tensors["b"].astype(">f4"))
    assert checkpoint.fingerprint(dict(reversed(tensors.items()))) == expected
    tensors["b"][1, 1] = np.nextafter(np.float32(4), np.float32(5))
    assert checkpoint.fingerprint(tensors) != expected


def fields_of(*dimensions):
    return dataclasses.asdict(Architecture(*dimensions))


DELTA = make_update().delta
# Nested as deep as the parser allows, and deeper than Python writes.
NESTED = json.loads("[" * 900 + "]" * 900)
BIAS = DELTA["head/bias"]


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (dict(tensors={"head/bias": None}), r"missing are \['head/bias'\]"),
        (dict(tensors={"head/more": BIAS}), r"unknown are \['head/more'\]"),
        (dict(tensors={"head/bias": BIAS[:2]}), r"of shape \(3,\), received \(2,\)"),
        (dict(tensors={"head/bias": BIAS.astype(np.float64)}), "type F32, received F64"),
        (dict(tensors={"head/bias": np.array([1, np.nan, 2], np.float32)}), "NaN or infinity"),
        (dict(tensors={"head/bias": np.array([1, -np.inf, 2], np.float32)}), "NaN or infinity"),
        (dict(tensor_header={"head/bias": {"shape": [-3]}}), r"of shape \(3,\), received \(-3,\)"),
        (
            dict(tensor_header={"head/bias": {"shape": [2**62, 2**62]}}),
            r"of shape \(3,\), received \(4611",
        ),
        (dict(tensor_header={"head/bias": {"data_offsets": [0, 12]}}), "cannot be read"),
        (dict(header={"version": 2}), "version 1, received 'fedsup-tf update' of version 2"),
        (
            dict(header={"kind": "fedsup-tf supernet"}),
            "received 'fedsup-tf supernet'.* Give a file of that kind",
        ),
        (dict(header={"metadata": 5}), "with metadata"),
        (dict(text="[1]"), "an unknown file"),
        (dict(text="{"), "header is JSON"),
        (dict(text="[" * 100_000), "header is JSON"),
        (dict(metadata={"client": NESTED}), "text or nothing as client"),
        (dict(metadata={"architecture": {"widths": NESTED}}), "expected"),
        (dict(metadata={"examples": 0}), "examples to be a whole number from 1"),
        (dict(metadata={"examples": 2**31}), "examples to be a whole number from 1"),
        (dict(metadata={"examples": True}), "examples to be a whole number from 1"),
        (dict(metadata={"examples": 2.5}), "examples to be a whole number from 1"),
        (dict(metadata={"base_round": -1}), "base_round to be a whole number from 0"),
        (dict(metadata={"loss_after": float("nan")}), "finite number as loss_after"),
        (dict(metadata={"loss_before": float("inf")}), "finite number as loss_before"),
        (dict(metadata={"loss_before": 10**400}), "finite numbers as losses"),
        (dict(metadata={"loss_before": "2"}), "finite number as loss_before"),
        (dict(metadata={"base_hash": "0" * 63}), "base_hash as 64"),
        (dict(metadata={"base_hash": 5}), "base_hash as 64"),
        (dict(metadata={"client": 5}), "text or nothing as client"),
        (dict(metadata={"class_names": "cat"}), "names as class_names"),
        (dict(metadata={"class_names": ["cat", 5]}), "names as class_names"),
        (dict(metadata={"examples": "left out"}), r"missing are \['examples'\]"),
        (dict(metadata={"colour": 1}), r"unknown are \['colour'\]"),
        (dict(metadata={"architecture": [8, 16]}), "expected a JSON object, received list"),
        (dict(metadata={"architecture": {}}), "missing are"),
        (
            dict(metadata={"architecture": {"widths": 8, "depths": [1], "kernels": [3]}}),
            "widths: expected a list of whole numbers",
        ),
        (
            dict(metadata={"architecture": fields_of((8, 9), (1, 2), (5, 3))}),
            r"'b' of search space 'tiny' allows widths \[16, 24\], the architecture asks for 9",
        ),
        (
            dict(metadata={"architecture": fields_of((8,), (1,), (5,))}),
            "has 2 stages, the architecture has 1",
        ),
        # The tensors of another subnet of the space.
        (dict(metadata={"architecture": dataclasses.asdict(SPACE.smallest())}), "unknown are"),
        (
            dict(metadata={"architecture": fields_of((8, 24), (1, 2), (5, 3))}),
            "expected tensor",
        ),
    ],
)
def test_what_is_not_a_right_update_is_refused_in_words(tmp_path, parts, told):
    path = tmp_path / "update"
    write_by_hand(path, **parts)
    with pytest.raises(ValueError, match=told) as error:
        read(path)
    assert str(error.value).startswith(f"{str(path)!r}: ")
    assert str(error.value).endswith(".")


FOREIGN = {
    "nothing": b"",
    "cut in its length": b"\x00\x01",
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.",
    "a header beyond the end": (1000).to_bytes(8, "little") + b"{}",
    "a huge header": (2**63 - 1).to_bytes(8, "little") + b"{}" * 100,
    "a header of no text": (4).to_bytes(8, "little") + b"{\xff\xff}",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_bytes_of_other_kinds_are_refused(tmp_path, kind):
    path = tmp_path / "update"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(ValueError, match="cannot be read"):
        read(path)


def test_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "update"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("head/bias", b"0" * 100)
    with pytest.raises(ValueError, match="cannot be read"):
        read(path)
    shutil.copy(SAMPLES / "run_supernet.safetensors", path)
    with pytest.raises(ValueError, match="received 'fedsup-tf supernet'"):
        read(path)
    safetensors.numpy.save_file(DELTA, path)
    with pytest.raises(ValueError, match="an unknown file"):
        read(path)
    with pytest.raises(ValueError, match="received a folder"):
        read(tmp_path)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9999])
def test_a_truncated_update_is_refused(tmp_path, share):
    path = tmp_path / "update"
    write_update(path, make_update())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match="cannot be read"):
        read(path)


def test_a_file_too_large_for_any_subnet_is_not_opened(tmp_path, monkeypatch):
    path = tmp_path / "update"
    with open(path, "wb") as file:
        file.truncate(10**9)
    monkeypatch.setattr(checkpoint.json, "loads", None)
    with pytest.raises(ValueError, match=r"at most [\d,]+ bytes in .*, received 1,000,000,000"):
        read(path)


def test_a_header_too_large_for_any_update_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "update"
    path.write_bytes((2**20 + 1).to_bytes(8, "little") + bytes(2**20 + 1))
    monkeypatch.setattr(update_file, "_max_bytes", lambda space: 2**30)
    monkeypatch.setattr(checkpoint.json, "loads", None)
    told = r"a header of at most 1,048,576 bytes in .*, received 1,048,577"
    with pytest.raises(ValueError, match=told):
        read(path)
    with pytest.raises(ValueError, match=told):
        parse_update("update", path.read_bytes(), SPACE, lambda architecture: {})


def test_what_does_not_fit_is_refused_before_any_value_is_read(tmp_path, monkeypatch):
    path, read_bytes, open_regular = tmp_path / "update", [], checkpoint.open_regular

    class Watched:
        def __init__(self, *arguments):
            self.file = open_regular(*arguments)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def readinto(self, values):
            read_bytes.append(values.nbytes)
            return self.file.readinto(values)

    monkeypatch.setattr(checkpoint, "open_regular", Watched)
    for parts in (
        dict(tensors={"head/bias": BIAS[:2]}),
        dict(tensors={"head/more": BIAS}),
        dict(tensors={"head/bias": BIAS.astype(np.float64)}),
        dict(header={"version": 2}),
    ):
        write_by_hand(path, **parts)
        with pytest.raises(ValueError, match="expected"):
            read(path)
    assert not read_bytes
    write_by_hand(path)
    read(path)
    assert read_bytes == [sum(value.nbytes for value in DELTA.values())]


def test_a_phone_cannot_make_an_update_that_a_server_would_refuse():
    spoiled = {**DELTA, "head/bias": np.full(3, np.nan, np.float32)}
    for changes in (
        dict(delta=spoiled),
        dict(delta={**DELTA, "head/bias": np.zeros(3)}),
        dict(examples=0),
        dict(loss_after=float("nan")),
    ):
        with pytest.raises(ValueError, match="expected"):
            make_update(**changes)
    assert dataclasses.replace(make_update(), loss_after=np.float32(0.5)).loss_after == 0.5
