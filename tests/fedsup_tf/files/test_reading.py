"""Tests of reading untrusted files: regular files only, bounded sizes, one kind of error."""

import codecs
import dataclasses
import json
import os
import socket

import numpy as np
import pytest
import safetensors.numpy
from spaces import SPACE

from fedsup_tf.architecture import Architecture
from fedsup_tf.data import archives, idx_files
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files import checkpoint
from fedsup_tf.files.json_schema import read_json
from fedsup_tf.files.reading import InvalidFileError, parsing, read_bytes, read_text, reading
from fedsup_tf.presets import load_space
from fedsup_tf.search.latency import LatencyTable
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet


def pipe(path):
    os.mkfifo(path)


def local_socket(path):
    # A socket's path must be short, so bind it by a relative name; the file stays afterwards.
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


def nothing(path):
    del path


KINDS = {
    pipe: "received a named pipe",
    local_socket: "received a socket",
    device: "received a device",
    folder: "received a folder",
    nothing: "(found|received) none",
}
READERS = {
    "supernet": Supernet.load_checkpoint,
    "update": lambda path: checkpoint.read_tensors(path, "update"),
    "latency table": LatencyTable.load,
    "text": lambda path: read_text(path, "a text"),
    "npz": lambda path: archives.read_npz(path, ["images"], "write it anew"),
    "idx": lambda path: idx_files.read_idx_folder(path.parent),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_only_a_regular_file_is_opened(tmp_path, kind, reader):
    path = tmp_path / "train-images-idx3-ubyte"
    kind(path)
    told = "neither" if (reader, kind) == ("idx", nothing) else KINDS[kind]
    with pytest.raises(InvalidFileError, match=told) as error:
        READERS[reader](path)
    assert str(tmp_path) in str(error.value)


def test_a_file_larger_than_its_bound_is_not_read(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(b"0" * 11)
    with pytest.raises(InvalidFileError, match="at most 10 bytes, received 11"):
        read_bytes(path, "a note", 10)
    assert read_bytes(path, "a note", 11) == b"0" * 11


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_the_byte_order_mark_says_what_a_text_is_in(tmp_path, mark, encoding):
    path = tmp_path / "space.json"
    space = dataclasses.replace(SPACE, name="Größe")
    path.write_bytes(
        mark + json.dumps(dataclasses.asdict(space), ensure_ascii=False).encode(encoding)
    )
    assert load_space(str(path)) == space


@pytest.mark.parametrize("data", ["{}".encode("utf-16-le"), b"\xff\xfe\x00", b"{\xe4}"])
def test_text_in_no_known_encoding_is_named_with_the_remedy(tmp_path, data):
    path = tmp_path / "space.json"
    path.write_bytes(data)
    with pytest.raises(InvalidFileError, match=r"space\.json': .*expected"):
        load_space(str(path))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad magic"),
        KeyError("field"),
        RecursionError("too deep"),
        MemoryError(),
        TypeError("int"),
        OSError(5, "Input/output error"),
        BaseException("a panic of Rust"),
    ],
)
def test_whatever_a_decoder_raises_is_one_sentence(error):
    with pytest.raises(InvalidFileError, match=r"^'x/y': expected a note, received .*\.$"):
        with reading("x/y", "a note"):
            raise error
    with pytest.raises(ValueError, match=r"^A note: expected .*, received .*\.$"):
        with parsing("A note"):
            raise error


def test_a_sentence_keeps_its_words_and_gets_the_name():
    with pytest.raises(InvalidFileError, match=r"^'x': A note: expected 2, received 3\.$"):
        with reading("x", "a note"):
            raise ValueError("A note: expected 2, received 3.")
    with pytest.raises(KeyboardInterrupt), reading("x", "a note"):
        raise KeyboardInterrupt


# ------------------------------------------------------------------------------ checkpoints


def write_supernet(path, tensors=None, metadata=None):
    supernet = Supernet(SPACE)
    tensors = {**supernet.values_by_name(), **(tensors or {})}
    fields = {"space": SPACE.to_json(), "information": {"round": 1}, **(metadata or {})}
    fields = {name: value for name, value in fields.items() if value != "left out"}
    header = {"kind": "fedsup-tf supernet", "version": 1, "metadata": fields}
    safetensors.numpy.save_file(tensors, path, {"fedsup-tf": json.dumps(header)})


RGB = Preprocessing((1.0,) * 3, (1.0,) * 3).to_json()
LIMITS = [None, {"cost": "macs", "limit": 5}, {"cost": "watts", "limit": 5}]
FOREIGN = Architecture((8,) * 3, (1,) * 3, (3,) * 3).to_json()
BIAS = Supernet(SPACE).values_by_name()["head/bias"]


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (dict(tensors={"head/bias": BIAS + np.float32("nan")}), "'head/bias', received NaN"),
        (dict(tensors={"head/bias": BIAS - np.float32("inf")}), "'head/bias', received NaN or inf"),
        (dict(tensors={"head/bias": BIAS.astype(np.float64)}), "type F32, received F64"),
        (dict(tensors={"head/bias": BIAS.astype(np.float16)}), "type F32, received F16"),
        (dict(tensors={"head/bias": BIAS.astype(np.int32)}), "type F32, received I32"),
        (dict(metadata={"space": "left out"}), r"missing are \['space'\]"),
        (dict(metadata={"information": "left out"}), r"missing are \['information'\]"),
        (dict(metadata={"space": 5}), "expected JSON as text, received 5"),
        (dict(metadata={"space": "[" * 100_000}), "A search space: expected JSON"),
        (dict(metadata={"information": []}), "information as an object"),
        (dict(metadata={"information": {"round": "1"}}), "expected round as a whole number"),
        (dict(metadata={"information": {"settings": []}}), "expected settings as an object"),
        (dict(metadata={"information": {"settings": {"clients": "2"}}}), "expected clients as"),
        (dict(metadata={"information": {"preprocessing": {}}}), "expected preprocessing as text"),
        (dict(metadata={"information": {"tiers": [5]}}), "expected tiers as a list"),
        (dict(metadata={"information": {"tier_shares": 5}}), "expected tier_shares as a list"),
        (dict(metadata={"information": {"tier_limits": LIMITS}}), "expected tier_limits as a list"),
        (dict(metadata={"information": {"merged": 5}}), "expected merged as a list"),
        (dict(metadata={"information": {"class_names": "ab"}}), "expected class_names as a list"),
        (
            dict(metadata={"information": {"class_names": ["a"]}}),
            "of its 3 classes, received 1",
        ),
        (
            dict(metadata={"information": {"preprocessing": "{}"}}),
            "Preprocessing: expected the fields",
        ),
        (dict(metadata={"information": {"preprocessing": RGB}}), "1 channels, received that of 3"),
        (dict(metadata={"information": {"tiers": [["a", "{}"]]}}), "An architecture: expected"),
        (dict(metadata={"information": {"tiers": [["a", FOREIGN]]}}), "the architecture has 3"),
    ],
)
def test_a_supernet_that_is_not_one_is_refused_in_words(tmp_path, parts, told):
    path = tmp_path / "supernet.safetensors"
    write_supernet(path)
    assert Supernet.load_checkpoint(path)[1] == {"round": 1}
    write_supernet(path, **parts)
    with pytest.raises(InvalidFileError, match=told) as error:
        Supernet.load_checkpoint(path)
    assert str(error.value).startswith(f"{str(path)!r}: ")
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    ("information", "told"),
    [
        ({"class_names": ["a"]}, "received 1 names"),
        ({"class_names": ["a", "b", "a"]}, "a different name for each class"),
        ({"round": "1"}, "expected round as a whole"),
        ({"more": object()}, "values that JSON can represent, received others .a object"),
        ([1], "expected its information as an object"),
    ],
)
def test_information_that_no_program_could_read_is_not_written(tmp_path, information, told):
    path = tmp_path / "supernet.safetensors"
    with pytest.raises(ValueError, match=told):
        Supernet(SPACE).save_checkpoint(path, information)
    assert not path.exists()


def test_a_supernet_of_values_that_are_not_finite_is_not_written(tmp_path):
    path = tmp_path / "supernet.safetensors"
    supernet = Supernet(SPACE)
    supernet.save_checkpoint(path)
    before = path.read_bytes()
    supernet.weights_by_name()["head/bias"].assign(BIAS + np.float32("nan"))
    with pytest.raises(ValueError, match="'head/bias', received NaN"):
        supernet.save_checkpoint(path)
    assert path.read_bytes() == before


def test_a_header_longer_than_any_is_not_parsed(tmp_path):
    path = tmp_path / "supernet.safetensors"
    path.write_bytes((2**25).to_bytes(8, "little") + b" " * 2**25)
    with pytest.raises(InvalidFileError, match="a header of at most 16,777,216 bytes"):
        Supernet.load_checkpoint(path)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, "missing are"),
        ({"architecture": [], "supernet_hash": "a"}, "expected a JSON object, received list"),
        (
            {"architecture": {"widths": 5, "depths": [1], "kernels": [3]}, "supernet_hash": "a"},
            "widths",
        ),
        (
            {"architecture": dataclasses.asdict(SPACE.smallest()), "supernet_hash": 5},
            "this supernet",
        ),
    ],
)
def test_a_calibration_that_is_not_one_is_refused_in_words(tmp_path, metadata, told):
    from tff_programs.programs.calibration_files import read_calibration

    path = tmp_path / "calibration.safetensors"
    checkpoint.write_tensors(path, "calibration", {"a": np.zeros(2, np.float32)}, metadata)
    with pytest.raises(InvalidFileError, match=told):
        read_calibration(path, SPACE.smallest(), "a" * 64)


# ------------------------------------------------------------------------------ spaces


FIELDS = json.loads(SPACE.to_json())
STAGE = FIELDS["stages"][0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stages": [{**STAGE, "depths": [1, 1_000_000]}]}, "depths of up to 64, received 2"),
        ({"stages": [{**STAGE, "widths": list(range(1, 100))}]}, "at most 64 widths"),
        ({"stages": [{**STAGE, "widths": [10**9]}]}, "widths of up to 16,384"),
        ({"stages": [{**STAGE, "kernels": [10**9 + 1]}]}, "kernels of up to 63"),
        ({"stages": [{**STAGE, "name": ["a"]}]}, "stage's name is text"),
        ({"stages": [{**STAGE, "name": "a\0b"}]}, "stage's name is text"),
        ({"stages": [{**STAGE, "name": "a" * 1000}]}, "stage's name is text"),
        ({"stages": [{**STAGE, "name": f"s{n}"} for n in range(65)]}, "1 to 64 stages"),
        (
            {"stages": [{**STAGE, "name": f"s{n}", "depths": [64]} for n in range(5)]},
            "at most 256 blocks, received about 320",
        ),
        (
            {"stages": [{**STAGE, "widths": [2**14], "depths": [64]}]},
            "at most 1,073,741,824 weights",
        ),
        (
            {
                "stages": [
                    {**STAGE, "widths": list(range(1, 65)), "depths": list(range(1, 65))},
                    {
                        **STAGE,
                        "name": "b",
                        "widths": list(range(1, 65)),
                        "depths": list(range(1, 65)),
                    },
                ]
            },
            "combinations",
        ),
        ({"name": ["tiny"]}, "expected its name as text"),
        ({"classes": 10**9}, "classes to be a whole number from 2 to"),
        ({"image_shape": [10**9, 8, 1]}, "each from 1 to 8,192"),
        ({"normalization": ["parametric"]}, "expected normalization"),
        ({"stages": {"a": 1}}, "stages to be a list"),
        ({"stages": [5]}, "expected an object"),
    ],
)
def test_a_space_is_bounded_before_anything_is_counted(tmp_path, changes, told):
    path = tmp_path / "space.json"
    path.write_text(json.dumps({**FIELDS, **changes}))
    with pytest.raises(InvalidFileError, match=told) as error:
        load_space(str(path))
    assert "space.json" in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"widths": ' * 10_000, "[]", "5", "", "\0", "{"])
def test_json_of_other_kinds_is_refused(tmp_path, text):
    path = tmp_path / "architecture.json"
    path.write_text(text)
    for what, parse in (
        ("an architecture", Architecture.from_json),
        ("a search space", SearchSpace.from_json),
    ):
        with pytest.raises(InvalidFileError, match=r"architecture\.json.*expected"):
            read_json(path, what, parse)


def test_a_stage_named_by_a_list_is_refused_in_python_too():
    with pytest.raises(ValueError, match="name is text"):
        Stage(["a"], (8,), (1,), (3,))
