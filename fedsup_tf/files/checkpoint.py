"""Tensors and text in a safetensors file, which holds no code, written whole or not at all."""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

VERSION = 1


class TensorForm(NamedTuple):
    """What a file declares of a tensor, known before the tensor is read.

    Attributes:
      dtype: As safetensors writes it, such as `"F32"`.
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
      tensors: Arrays by name.
      metadata: Anything that is JSON.
    """
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
    """Reads what `write_tensors` wrote.

    Args:
      path: The file.
      kind: What it must be.
      check: Called with the metadata and the tensors' forms by name before any tensor is read;
        raises a ValueError if they are not what the caller expects.
      max_bytes: Size above which the file is not opened; by default any.

    Returns:
      The arrays by name, and the metadata.

    Raises:
      ValueError: If there is no such file, or it is not a whole file of that kind and version, or
        `check` or `max_bytes` refuses it.
    """
    if not os.path.isfile(path):
        raise ValueError(
            f"Expected a file of kind {kind!r} at {str(path)!r}, found none. Check the path."
        )
    size = os.path.getsize(path)
    if max_bytes is not None and size > max_bytes:
        raise ValueError(
            f"{str(path)!r}: expected at most {max_bytes:,} bytes in a file of kind {kind!r}, "
            f"received {size:,} bytes. Use a file of the same search space."
        )
    try:
        with safetensors.safe_open(path, "numpy") as file:
            header = _checked_header(path, kind, file.metadata())
            if check is not None:
                parts = {name: file.get_slice(name) for name in file.keys()}
                forms = {
                    name: TensorForm(part.get_dtype(), tuple(part.get_shape()))
                    for name, part in parts.items()
                }
                _check_in(path, check, header["metadata"], forms)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{str(path)!r}: expected a whole safetensors file of kind {kind!r}, received one "
            f"that cannot be read ({error}). Write or copy it anew."
        ) from error
    return tensors, header["metadata"]


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


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file whole or not at all, onto the disk before it takes its name."""

    def write(temporary):
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    replace_file(path, write)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file as `write_bytes` does, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes anything that is JSON as `write_text` does, in lines for people."""
    write_text(path, json.dumps(value, indent=1))


def replace_file(path: str | os.PathLike, write: Callable[[str], None]) -> None:
    """Calls `write` with a temporary path beside `path`, then renames it to `path`."""
    path = os.fspath(path)
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    # The name's ending stays last, since some writers choose their format by it.
    temporary = os.path.join(folder, f".{secrets.token_hex(4)}.{name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            f"Could not write {path!r}: {error.strerror or error}. What was there before is "
            "unchanged; make room or choose another folder."
        ) from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _checked_header(path, kind, metadata) -> dict[str, Any]:
    """The header that `write_tensors` wrote, if it is of that kind and version."""
    try:
        header = json.loads((metadata or {}).get("fedsup-tf", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{str(path)!r}: expected a file of kind {kind!r} whose header is JSON, received "
            f"one that cannot be read ({error}). Write or copy it anew."
        ) from error
    fields = header if isinstance(header, dict) else {}
    if fields.get("kind") != f"fedsup-tf {kind}" or fields.get("version") != VERSION:
        raise ValueError(
            f"{str(path)!r}: expected 'fedsup-tf {kind}' of version {VERSION}, received "
            f"{fields.get('kind', 'an unknown file')!r} of version {fields.get('version')}. Use a "
            "file that this version wrote."
        )
    if not isinstance(fields.get("metadata"), dict):
        raise ValueError(
            f"{str(path)!r}: expected a file of kind {kind!r} with metadata, received none. Write "
            "it anew."
        )
    return fields


def _check_in(path, check, metadata, forms) -> None:
    try:
        check(metadata, forms)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error
