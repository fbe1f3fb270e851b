"""Tensors and JSON metadata in safetensors files, which hold no code; written atomically."""

import functools
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors.numpy

from fedsup_tf.files.atomic_write import write_bytes
from fedsup_tf.files.json_schema import quoted
from fedsup_tf.files.reading import open_regular, reading

VERSION = 1
# Maximum size of the header (metadata, tensor names and shapes), which is parsed as a whole.
_MAX_HEADER_BYTES = 2**24
# Tensors are collected up to this size before they are hashed.
_HASHED_BYTES = 2**20


class TensorForm(NamedTuple):
    """Dtype and shape that a file declares for a tensor, known before the tensor is read.

    Attributes:
      dtype: Dtype in the notation of safetensors, such as `"F32"`.
      shape: Length of each axis.
    """

    dtype: str
    shape: tuple[int, ...]


# Raises a ValueError if the metadata, or the tensors' forms by name, are not as expected.
TensorCheck = Callable[[dict[str, Any], dict[str, TensorForm]], None]


class FiniteTensors(dict[str, np.ndarray]):
    """Arrays by name that were checked to be finite float32 when they were read."""


def write_tensors(
    path: str | os.PathLike,
    kind: str,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
) -> None:
    """Writes tensors and JSON metadata atomically.

    Args:
      path: Path of the file; an existing file is unchanged after a crash or on a full disk.
      kind: Kind of the file, such as `"supernet"`; `read_tensors` checks it.
      tensors: Arrays by name, float32 with finite values.
      metadata: JSON values by name.

    Raises:
      ValueError: If a tensor is not float32 or not finite, or the metadata is longer than
        `read_tensors` accepts; nothing is written then.
      OSError: If the file cannot be written.
    """
    for name, value in tensors.items():
        received = _fault(np.asarray(value))
        if received:
            raise ValueError(
                f"{os.fspath(path)!r}: expected finite float32 values to write in tensor {name!r}, "
                f"received {received}. What was there before is unchanged; go on from it with a "
                "smaller learning rate."
            )
    header = {"kind": f"fedsup-tf {kind}", "version": VERSION, "metadata": metadata}
    data = safetensors.numpy.save(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()},
        {"fedsup-tf": json.dumps(header)},
    )
    # The first 8 bytes are the length of the header.
    header_bytes = int.from_bytes(data[:8], "little")
    if header_bytes > _MAX_HEADER_BYTES:
        raise ValueError(
            f"{os.fspath(path)!r}: expected metadata of at most {_MAX_HEADER_BYTES:,} bytes, which "
            f"readers accept, received {header_bytes:,}. What was there before is unchanged; save "
            "less."
        )
    write_bytes(path, data)


def read_tensors(
    path: str | os.PathLike,
    kind: str,
    check: TensorCheck | None = None,
    max_bytes: int | None = None,
    max_header_bytes: int = _MAX_HEADER_BYTES,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a file in the format of `write_tensors`, which may come from an untrusted source.

    The header is read first. Its length is bounded, and memory for the tensors is allocated only
    after the metadata and the tensors' dtypes and shapes are accepted.

    Args:
      path: The file.
      kind: Expected kind of the file.
      check: Function that is called with the metadata and the tensors' forms by name before any
        tensor is read; raises a ValueError to reject them.
      max_bytes: Maximum size of the file; None for no limit.
      max_header_bytes: Maximum length of the header.

    Returns:
      The arrays by name, float32 and finite, and the metadata.

    Raises:
      InvalidFileError: If the file does not exist, is not a complete file of this kind and version,
        exceeds a limit or is rejected by `check`, or if a tensor is not float32 or not finite.
    """
    expected = f"a whole safetensors file of kind {kind!r}"
    with reading(path, expected), open_regular(path, f"a file of kind {kind!r}") as file:
        size = os.fstat(file.fileno()).st_size
        return _read(file, size, kind, check, max_bytes, max_header_bytes)


def parse_tensors(
    name: str,
    data: bytes,
    kind: str,
    check: TensorCheck | None = None,
    max_header_bytes: int = _MAX_HEADER_BYTES,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Parses the bytes of a file like `read_tensors`; error messages refer to it by `name`."""
    with reading(name, f"a whole safetensors file of kind {kind!r}"):
        return _read(io.BytesIO(data), len(data), kind, check, None, max_header_bytes)


def _read(
    file: BinaryIO,
    size: int,
    kind: str,
    check: TensorCheck | None,
    max_bytes: int | None,
    max_header_bytes: int,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    header_bytes = _header_bytes(file.read(8), size, kind, max_bytes, max_header_bytes)
    declared = json.loads(str(file.read(header_bytes), "utf-8"))
    if not isinstance(declared, dict):
        raise ValueError("its header is no JSON object")
    header = _checked_header(kind, declared.pop("__metadata__", None))
    forms = {
        name: TensorForm(fields["dtype"], tuple(fields["shape"]))
        for name, fields in declared.items()
    }
    if check is not None:
        check(header["metadata"], forms)
    for name, form in forms.items():
        if form.dtype != "F32":
            raise ValueError(
                f"expected tensors of type F32, received {form.dtype} for "
                f"{quoted(name)}. Write it anew as float32."
            )
    places = {name: fields["data_offsets"] for name, fields in declared.items()}
    _check_places(places, forms, size - 8 - header_bytes)
    values = np.empty((size - 8 - header_bytes) // 4, "<f4")
    if file.readinto(values) != values.nbytes:
        raise ValueError("it became shorter while it was read")
    tensors = FiniteTensors()
    for name, (begin, end) in places.items():
        tensors[name] = values[begin // 4 : end // 4].reshape(forms[name].shape)
    if not np.isfinite(values).all():
        name = next(name for name, value in tensors.items() if _fault(value))
        raise ValueError(
            f"expected finite float32 values in tensor {quoted(name)}, received NaN or "
            "infinity. Use an earlier file, or train again with a smaller learning rate."
        )
    return tensors, header["metadata"]


def _check_places(
    places: Mapping[str, Any], forms: Mapping[str, TensorForm], data_bytes: int
) -> None:
    """Raises a ValueError unless the float32 tensors fill the data without gaps or overlaps."""
    filled = 0
    for name, (begin, end) in sorted(places.items(), key=lambda place: place[1]):
        shape = forms[name].shape
        numbers = (begin, end, *shape)
        is_whole = set(map(type, numbers)) == {int} and min(numbers) >= 0
        if not is_whole or begin != filled or end != begin + 4 * math.prod(shape):
            raise ValueError(
                f"the place {quoted([begin, end])} of tensor {quoted(name)} is not that of shape "
                f"{quoted(list(shape))} from {filled} on"
            )
        filled = end
    if filled != data_bytes:
        raise ValueError(f"its tensors have {filled} bytes and not {data_bytes}")


def _fault(value: np.ndarray) -> str | None:
    """Returns the fault of a tensor that is not finite float32, otherwise None."""
    if value.dtype != np.float32:
        return str(value.dtype)
    return None if np.isfinite(value).all() else "NaN or infinity"


def _header_bytes(
    length: bytes, size: int, kind: str, max_bytes: int | None, max_header_bytes: int
) -> int:
    """Decodes the header length from a file's first 8 bytes, and checks it and the file's size."""
    header_bytes = int.from_bytes(length, "little")
    if max_bytes is not None and size > max_bytes:
        raise ValueError(
            f"expected at most {max_bytes:,} bytes in a file of kind {kind!r}, received {size:,} "
            "bytes. Use a file of the same search space."
        )
    if max_header_bytes < header_bytes <= size:
        raise ValueError(
            f"expected a header of at most {max_header_bytes:,} bytes in a file of kind "
            f"{kind!r}, received {header_bytes:,} bytes. Write or copy it anew."
        )
    if 8 + header_bytes > size:
        raise ValueError(
            f"it has {size:,} bytes, and its header alone would have {header_bytes:,}: it is of "
            "another kind, or was cut"
        )
    return header_bytes


def fingerprint(tensors: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of tensors as 64 lowercase hexadecimal digits.

    The hashed data is the concatenation of the tensors, in the order of the names' Unicode code
    points. Each tensor begins with the UTF-8 text

        NAME newline DTYPE newline LENGTH,LENGTH,... newline

    (DTYPE is NumPy's name such as `float32`; a newline is the single byte 10; the lengths of the
    axes are decimal numbers, none for a scalar), directly followed by the tensor's values in
    row-major order, little-endian, `4 * values` bytes for float32. Nothing separates the tensors.

    Args:
      tensors: Arrays by name, or values that NumPy can convert to arrays, such as variables.
    """
    digest, parts, size = hashlib.sha256(), [], 0
    for name in sorted(tensors):
        value = np.asarray(tensors[name])
        parts.append(_text_of(name, value.dtype, value.shape))
        parts.append(np.ascontiguousarray(value, value.dtype.newbyteorder("<")))
        size += value.nbytes
        # Batches small tensors, since another thread may take over between two updates.
        if size >= _HASHED_BYTES:
            digest.update(b"".join(parts))
            parts, size = [], 0
    digest.update(b"".join(parts))
    return digest.hexdigest()


@functools.lru_cache(maxsize=4096)
def _text_of(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Returns the text that `fingerprint` hashes before a tensor's values."""
    return f"{name}\n{dtype.name}\n{','.join(map(str, shape))}\n".encode()


def _checked_header(kind: str, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Parses the header that `write_tensors` wrote, and checks its kind and version."""
    try:
        header = json.loads((metadata or {}).get("fedsup-tf", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"expected a file of kind {kind!r} whose header is JSON, received one that cannot be "
            f"read ({error}). Write or copy it anew."
        ) from error
    fields = header if isinstance(header, dict) else {}
    if fields.get("kind") != f"fedsup-tf {kind}" or fields.get("version") != VERSION:
        is_other = fields.get("version") == VERSION
        remedy = "Give a file of that kind" if is_other else "Use a file that this version wrote"
        raise ValueError(
            f"expected 'fedsup-tf {kind}' of version {VERSION}, received "
            f"{quoted(fields.get('kind', 'an unknown file'))} of version "
            f"{quoted(fields.get('version'))}. {remedy}."
        )
    if not isinstance(fields.get("metadata"), dict):
        raise ValueError(
            f"expected a file of kind {kind!r} with metadata, received none. Write it anew."
        )
    return fields
