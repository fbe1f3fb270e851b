"""Tensors and text in a safetensors file, which holds no code, written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from fedsup_tf.files.atomic_write import write_bytes
from fedsup_tf.files.json_schema import quoted
from fedsup_tf.files.reading import open_regular, reading

VERSION = 1
# Of the names and shapes of the tensors and the metadata; it is parsed as a whole.
_MOST_HEADER_BYTES = 2**24


class TensorForm(NamedTuple):
    """Type and shape that a file declares for a tensor, known before the tensor is read.

    Attributes:
      dtype: The type as safetensors writes it, such as `"F32"`.
      shape: Length of each axis.
    """

    dtype: str
    shape: tuple[int, ...]


def write_tensors(
    path: str | os.PathLike,
    kind: str,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
) -> None:
    """Writes tensors and JSON metadata; a crash or a full disk leaves what was at `path` before.

    Args:
      path: Where to write.
      kind: What the file is, such as `"supernet"`; `read_tensors` asks for it.
      tensors: Float32 arrays of finite values by name.
      metadata: Anything that is JSON.

    Raises:
      ValueError: If `read_tensors` would refuse a tensor; nothing is written then.
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
    write_bytes(path, data)


def read_tensors(
    path: str | os.PathLike,
    kind: str,
    check: Callable[[dict[str, Any], dict[str, TensorForm]], None] | None = None,
    max_bytes: int | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads what `write_tensors` wrote, whoever may have written the file.

    The header is read first; its length is bounded, and no room is made for a tensor before the
    metadata and the tensors' types and shapes are accepted.

    Args:
      path: The file.
      kind: What it must be.
      check: Called with the metadata and the tensors' forms by name before any tensor is read;
        raises a ValueError if they are not what the caller expects.
      max_bytes: Size above which the file is not opened; by default any.

    Returns:
      The arrays by name, float32 and finite, and the metadata.

    Raises:
      InvalidFileError: If there is no such file, or it is not a whole file of that kind and
        version, or a tensor is of another type or not finite, or `check` or `max_bytes` refuses it.
    """
    expected = f"a whole safetensors file of kind {kind!r}"
    with reading(path, expected):
        _check_size(path, kind, max_bytes)
        with safetensors.safe_open(path, "numpy") as file:
            header = _checked_header(kind, file.metadata())
            parts = {name: file.get_slice(name) for name in file.keys()}
            forms = {
                name: TensorForm(part.get_dtype(), tuple(part.get_shape()))
                for name, part in parts.items()
            }
            if check is not None:
                check(header["metadata"], forms)
            for name, form in forms.items():
                if form.dtype != "F32":
                    raise ValueError(
                        f"expected tensors of type F32, received {form.dtype} for "
                        f"{quoted(name)}. Write it anew as float32."
                    )
            tensors = {}
            for name in forms:
                tensors[name] = file.get_tensor(name)
                received = _fault(tensors[name])
                if received:
                    raise ValueError(
                        f"expected finite float32 values in tensor {quoted(name)}, received "
                        f"{received}. Use an earlier file, or train again with a smaller learning "
                        "rate."
                    )
    return tensors, header["metadata"]


def _fault(value: np.ndarray) -> str | None:
    """Returns what is wrong with a tensor; None for finite float32."""
    if value.dtype != np.float32:
        return str(value.dtype)
    return None if np.isfinite(value).all() else "NaN or infinity"


def _check_size(path, kind: str, max_bytes: int | None) -> None:
    with open_regular(path, f"a file of kind {kind!r}") as file:
        size = os.fstat(file.fileno()).st_size
        header_bytes = int.from_bytes(file.read(8), "little")
    if max_bytes is not None and size > max_bytes:
        raise ValueError(
            f"expected at most {max_bytes:,} bytes in a file of kind {kind!r}, received {size:,} "
            "bytes. Use a file of the same search space."
        )
    if _MOST_HEADER_BYTES < header_bytes <= size:
        raise ValueError(
            f"expected a header of at most {_MOST_HEADER_BYTES:,} bytes in a file of kind "
            f"{kind!r}, received {header_bytes:,} bytes. Write or copy it anew."
        )


def fingerprint(tensors: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of tensors as 64 lowercase hexadecimal digits.

    What is hashed is, for each tensor in the order of the names' Unicode code points, the UTF-8
    text

        NAME newline DTYPE newline LENGTH,LENGTH,... newline

    (`float32` is NumPy's name of the dtype; a newline is the single byte 10; the lengths of the
    axes are decimal numbers, none for a scalar), and directly after it the tensor's values in
    row-major order, little-endian, `4 * values` bytes for float32. Nothing comes between tensors.

    Args:
      tensors: Arrays, or anything NumPy can read as one, such as variables, by name.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = np.asarray(tensors[name])
        lengths = ",".join(map(str, value.shape))
        digest.update(f"{name}\n{value.dtype.name}\n{lengths}\n".encode())
        digest.update(value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _checked_header(kind: str, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Returns the header that `write_tensors` wrote, if it is of that kind and version."""
    try:
        header = json.loads((metadata or {}).get("fedsup-tf", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"expected a file of kind {kind!r} whose header is JSON, received one that cannot be "
            f"read ({error}). Write or copy it anew."
        ) from error
    fields = header if isinstance(header, dict) else {}
    if fields.get("kind") != f"fedsup-tf {kind}" or fields.get("version") != VERSION:
        raise ValueError(
            f"expected 'fedsup-tf {kind}' of version {VERSION}, received "
            f"{quoted(fields.get('kind', 'an unknown file'))} of version "
            f"{quoted(fields.get('version'))}. Use a file that this version wrote."
        )
    if not isinstance(fields.get("metadata"), dict):
        raise ValueError(
            f"expected a file of kind {kind!r} with metadata, received none. Write it anew."
        )
    return fields
