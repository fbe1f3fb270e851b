"""Fuzzes file readers with mutated files and counts the outcomes.

    uv run python benchmarks/fuzz_readers.py --examples=5000 [--seed=0] [--reader=update ...]

Whatever a file contains, a reader must either return a value or raise a ValueError whose message is
a one-line sentence that names the file. Anything else, or taking more than a minute, is a finding:
the file is kept in --findings and the exit code is 1.
`tests/integration/test_fuzz_readers.py` checks the same property with fewer files.
"""

import argparse
import collections
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import os
import signal
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st
from PIL import Image

from fedsup_tf.architecture import Architecture
from fedsup_tf.data import idx_files
from fedsup_tf.data.own_data import read_own
from fedsup_tf.data.pictures import PictureForm, read_picture
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.json_schema import read_json
from fedsup_tf.presets import load_space
from fedsup_tf.search.cost_parts import parts_of_space
from fedsup_tf.search.latency import Latency, LatencyTable, Measurement
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet
from tff_programs.programs.calibration_files import read_calibration, write_calibration
from tff_programs.simulation.availability import diurnal_trace, load_trace
from tff_programs.simulation.device_speed import default_devices, devices_to_json, load_devices
from tff_programs.simulation.tiers import Tier
from tflite.format.metadata import ENTRY, HASH_ENTRY, ModelMetadata, append_metadata, read_metadata
from tflite.format.update_file import DeviceUpdate, read_update, write_update
from tflite.merge.received_updates import subnet_shapes

SPACE = SearchSpace("tiny", (6, 6, 1), 3, 8, 1, (Stage("a", (8, 16), (1, 2), (3, 5)),))
TIERS = (Tier("smallest", SPACE.smallest()), Tier("largest", SPACE.largest()))
_SECONDS = 60

# Unexpected replacements for JSON values.
_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([10**4000, 2**31, 2**31 - 1, -1, 0, 1e308, -0.0]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["\0", "a/b", "../x", "x" * 10_000, "\ud800", "F32", "1"]),
    st.sampled_from([[], {}, [[]], [0], ["a"], {"a": []}, [1, 1_000_000], list(range(5000))]),
    st.integers(1, 3000).map(
        lambda depth: functools.reduce(lambda inner, _: [inner], range(depth), 0)
    ),
)


@st.composite
def mutated_bytes(draw, data: bytes) -> bytes:
    """Mutates bytes at random positions: flips, removes, repeats, overwrites or inserts some."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "drop", "repeat", "number", "insert"]))
        if kind == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[place:]
        elif kind == "drop":
            del data[place : place + draw(st.integers(1, 64))]
        elif kind == "repeat":
            data[place:place] = data[place : place + draw(st.integers(1, 64))]
        elif kind == "number":
            size = draw(st.sampled_from([1, 2, 4, 8]))
            number = draw(st.sampled_from([0, 1, 2**31, 2**63 - 1, 2**64 - 1, 127, 255]))
            data[place : place + size] = (number % 256**size).to_bytes(size, "little")
        else:
            data[place:place] = draw(st.binary(max_size=16))
    return bytes(data)


@st.composite
def mutated_value(draw, value: Any) -> Any:
    """Mutates a JSON value at a random position: replaces, removes or adds a part."""
    inside = isinstance(value, dict | list) and len(value) > 0
    if not inside or draw(st.integers(0, 5)) == 0:
        return draw(_ODD)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    changed = value.copy()
    kind = draw(st.integers(0, 9))
    if kind == 0:
        del changed[key]
    elif kind == 1 and isinstance(value, dict):
        changed[draw(st.text(max_size=9))] = draw(_ODD)
    elif kind == 1:
        changed.append(changed[key])
    else:
        changed[key] = draw(mutated_value(value[key]))
    return changed


def _text(value: Any) -> str:
    # Values may be nested more deeply than the encoder's default limit.
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        return json.dumps(value)
    finally:
        sys.setrecursionlimit(limit)


@st.composite
def mutated_json(draw, data: bytes) -> bytes:
    """Mutates a JSON file: its values, its encoding or its bytes."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(mutated_bytes(data))
    if kind == 1:
        return data.decode().encode(
            draw(st.sampled_from(["utf-16", "utf-16-le", "utf-8-sig", "utf-32"]))
        )
    return _text(draw(mutated_value(json.loads(data)))).encode()


@st.composite
def mutated_tensors(draw, data: bytes) -> bytes:
    """Mutates a safetensors file: its bytes, its header, the JSON in its header, or its values."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(mutated_bytes(data))
    length = int.from_bytes(data[:8], "little")
    header, values = json.loads(data[8 : 8 + length]), data[8 + length :]
    if kind == 1:
        header = draw(mutated_value(header))
    elif kind == 2:
        inner = draw(mutated_value(json.loads(header["__metadata__"]["fedsup-tf"])))
        header["__metadata__"]["fedsup-tf"] = _text(inner)
    else:
        values = draw(mutated_bytes(values[:64])) + values[64:]
    text = _text(header).encode()
    return len(text).to_bytes(8, "little") + text + values


@st.composite
def mutated_tflite(draw, data: bytes) -> bytes:
    """Mutates a `.tflite` with metadata: its bytes, or its JSON while the model's hash is valid."""
    if draw(st.booleans()):
        return draw(mutated_bytes(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        model = data[: archive.getinfo(ENTRY).header_offset]
        text = draw(mutated_json(archive.read(ENTRY)))
    file = io.BytesIO(model)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(ENTRY, text)
        archive.writestr(HASH_ENTRY, hashlib.sha256(model).hexdigest())
    return file.getvalue()


@st.composite
def mutated_idx(draw, data: bytes) -> bytes:
    """Mutates an idx file before or after compression."""
    if draw(st.booleans()):
        return draw(mutated_bytes(data))
    head = draw(mutated_bytes(gzip.decompress(data)[:16]))
    return gzip.compress(head + gzip.decompress(data)[16:])


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes:
      name: Name of the file to read.
      write: Function that writes a valid file.
      read: Function that reads a file.
      mutate: Function that returns a strategy of mutated files for the bytes of a valid file.
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    mutate: Callable[[bytes], st.SearchStrategy]


def _write_update(path: Path) -> None:
    shapes = _shapes(SPACE.largest())
    delta = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    names = ("cat", "dog", "cow")
    update = DeviceUpdate(delta, SPACE.largest(), "a" * 64, 1, 5, 1.5, 0.5, "phone", names)
    write_update(path, update)


@functools.cache
def _shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    return subnet_shapes(_supernet(), architecture)


@functools.cache
def _supernet() -> Supernet:
    return Supernet(SPACE)


def _write_checkpoint(path: Path) -> None:
    information = {
        "round": 3,
        "settings": {"dataset": "digits", "clients": 6, "learning_rate": 0.1},
        "preprocessing": Preprocessing((1.0,), (2.0,)).to_json(),
        "class_names": ["a", "b", "c"],
        "tiers": [["largest", SPACE.largest().to_json()]],
    }
    _supernet().save_checkpoint(path, information)


def _write_latency(path: Path) -> None:
    measured = Measurement(batch_size=1, threads=1, subnets=2, median_error=0.1, largest_error=0.2)
    rows = {part: Latency(0.1, 0.4) for part in parts_of_space(SPACE)}
    LatencyTable(SPACE, rows, "a machine", measured, measured).save(path)


def _write_metadata(path: Path) -> None:
    metadata = ModelMetadata(
        architecture=SPACE.largest(),
        space=SPACE,
        supernet_hash="a" * 64,
        round=3,
        class_names=("a", "b", "c"),
        preprocessing={"mean": [1.0], "standard_deviation": [2.0]},
        training={"epochs": 1},
        batch_sizes={"train": 8, "infer": 1, "evaluate": 8},
        variables={name: tuple(shape) for name, shape in _shapes(SPACE.largest()).items()},
        parameters=100,
        macs=1000,
    )
    path.write_bytes(append_metadata(b"TFL3" * 64, metadata))


def _write_idx(path: Path) -> None:
    header = np.array([0x0803, 2, 28, 28], ">u4").tobytes()
    path.write_bytes(gzip.compress(header + bytes(2 * 28 * 28)))
    labels = {"train-labels-idx1-ubyte": 0x0801, "t10k-labels-idx1-ubyte": 0x0801}
    for name, magic in labels.items():
        content = np.array([magic, 2], ">u4").tobytes() + bytes(2)
        path.with_name(name).write_bytes(content)
    path.with_name("t10k-images-idx3-ubyte").write_bytes(header + bytes(2 * 28 * 28))


def _write_picture(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 4), np.uint8)
    Image.fromarray(pixels).save(path)


def _write_table(path: Path) -> None:
    _write_picture(path.with_name("a.png"))
    path.write_text("path,label,client,split\na.png,1,ann,train\na.png,2,bob,test\n")


READERS = {
    "update": Reader(
        "update.safetensors",
        _write_update,
        lambda path: read_update(path, SPACE, _shapes),
        mutated_tensors,
    ),
    "checkpoint": Reader(
        "supernet.safetensors", _write_checkpoint, Supernet.load_checkpoint, mutated_tensors
    ),
    "metadata": Reader("net.tflite", _write_metadata, read_metadata, mutated_tflite),
    "space": Reader(
        "space.json",
        lambda path: path.write_text(SPACE.to_json()),
        lambda path: load_space(str(path)),
        mutated_json,
    ),
    "architecture": Reader(
        "architecture.json",
        lambda path: path.write_text(SPACE.largest().to_json()),
        lambda path: read_json(path, "an architecture", Architecture.from_json),
        mutated_json,
    ),
    "trace": Reader(
        "trace.json",
        lambda path: path.write_text(diurnal_trace(3, 0, days=2).to_json()),
        lambda path: load_trace(str(path)),
        mutated_json,
    ),
    "devices": Reader(
        "devices.json",
        lambda path: path.write_text(devices_to_json(default_devices(SPACE, TIERS), TIERS)),
        lambda path: load_devices(str(path), TIERS),
        mutated_json,
    ),
    "latency": Reader("latency.json", _write_latency, LatencyTable.load, mutated_json),
    "calibration": Reader(
        "calibration.safetensors",
        lambda path: write_calibration(
            path, {"mean_square": np.ones(8, np.float32)}, SPACE.largest(), "a" * 64
        ),
        lambda path: read_calibration(path, SPACE.largest(), "a" * 64),
        mutated_tensors,
    ),
    "idx": Reader(
        "train-images-idx3-ubyte.gz",
        _write_idx,
        lambda path: idx_files.read_idx_folder(path.parent),
        mutated_idx,
    ),
    "picture": Reader(
        "picture.png",
        _write_picture,
        lambda path: read_picture(path, PictureForm((8, 8, 3))),
        mutated_bytes,
    ),
    "table": Reader("table.csv", _write_table, read_own, mutated_bytes),
    "arrays": Reader(
        "own.npz",
        lambda path: np.savez(
            path, images=np.zeros((4, 8, 8), np.uint8), labels=np.array(["a", "b"] * 2)
        ),
        read_own,
        mutated_bytes,
    ),
}


class Finding(BaseException):
    """Raised when a reader misbehaves; a BaseException, so that no reader can catch it."""


def check(reader: Reader, path: Path) -> bool:
    """Reads a file and returns whether the reader accepted it.

    Raises:
      Finding: If the reader neither returned nor raised a one-line sentence that names the file.
    """
    signal.alarm(_SECONDS)
    try:
        reader.read(path)
    except Finding:
        raise
    except ValueError as error:
        text = str(error)
        # Readers of data sets may name the file without its ".gz" suffix.
        if path.name.removesuffix(".gz") in text and text.endswith(".") and "\n" not in text:
            return False
        raise Finding(f"no sentence that names the file: {text[:300]!r}") from error
    except Exception as error:
        raise Finding(f"{type(error).__name__}: {str(error)[:300]}") from error
    finally:
        signal.alarm(0)
    return True


def fuzz(name: str, examples: int, folder: Path, seed: int | None = None) -> collections.Counter:
    """Reads `examples` mutated files.

    Args:
      name: Key of `READERS`.
      examples: Number of files.
      folder: Folder to write the files to.
      seed: Seed of the mutations; by default, all calls use the same files.

    Returns:
      The numbers of files `"taken"` and `"refused"`.

    Raises:
      Finding: At the first file that the reader mishandles; the file stays in `folder`.
    """
    signal.signal(signal.SIGALRM, _too_long)
    reader, counts = READERS[name], collections.Counter()
    path = folder / reader.name
    reader.write(path)
    if not check(reader, path):
        raise Finding("the whole file was refused")
    whole = path.read_bytes()

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=seed is None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(reader.mutate(whole))
    def read_mutated(data):
        path.write_bytes(data)
        counts["taken" if check(reader, path) else "refused"] += 1

    if seed is not None:
        read_mutated = hypothesis.seed(seed)(read_mutated)
    read_mutated()
    return counts


def _too_long(*_):
    raise Finding(f"took longer than {_SECONDS} s")


def main() -> int:
    """Runs all chosen readers and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=5000, help="Files for each reader.")
    parser.add_argument("--seed", type=int, default=0, help="Decides the files.")
    parser.add_argument("--reader", action="append", choices=sorted(READERS), help="Default: all.")
    parser.add_argument("--findings", default="findings", help="Folder of files that were found.")
    options = parser.parse_args()
    found = 0
    print(f"{'reader':14s}{'files':>8s}{'refused':>9s}{'taken':>7s}")
    for name in options.reader or READERS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / READERS[name].name
            try:
                counts = fuzz(name, options.examples, Path(folder), options.seed)
            except Finding:
                found += 1
                os.makedirs(options.findings, exist_ok=True)
                kept = Path(options.findings) / f"{name}-{READERS[name].name}"
                kept.write_bytes(path.read_bytes())
                print(f"{name:14s}  {kept}\n{traceback.format_exc()}", flush=True)
                continue
        total = counts["refused"] + counts["taken"]
        print(f"{name:14s}{total:8,}{counts['refused']:9,}{counts['taken']:7,}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
