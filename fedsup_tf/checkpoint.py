"""Tensors and text in a safetensors file, which holds no code, written whole or not at all."""

import json
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

VERSION = 1


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
    replace_file(path, lambda temporary: _write_bytes(temporary, data))


def read_tensors(
    path: str | os.PathLike, kind: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads what `write_tensors` wrote.

    Returns:
      The arrays by name, and the metadata.

    Raises:
      ValueError: If there is no such file, or it is not a whole file of that kind and version.
    """
    if not os.path.isfile(path):
        raise ValueError(f"Expected a {kind} file at {str(path)!r}, found none. Check the path.")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {}).get("fedsup-tf", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{str(path)!r}: expected a {kind} in a whole safetensors file, received one that "
            f"cannot be read ({error}). Write or copy it anew."
        ) from error
    if header.get("kind") != f"fedsup-tf {kind}" or header.get("version") != VERSION:
        raise ValueError(
            f"{str(path)!r}: expected a fedsup-tf {kind} of version {VERSION}, received "
            f"{header.get('kind', 'an unknown file')!r} of version {header.get('version')}. Use a "
            "file that this version wrote."
        )
    return tensors, header["metadata"]


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


def _write_bytes(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
