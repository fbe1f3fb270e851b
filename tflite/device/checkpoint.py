"""Saves the progress of on-device training in a safetensors file, since apps may be killed.

The file holds the variables as `state/NAME`, the variables after the best epoch as `best/NAME` if
training used held-out examples, the history and the notes. It belongs to one model: the variables
and the training step of one exported file.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedsup_tf.files.checkpoint import fingerprint, read_tensors, write_tensors
from fedsup_tf.files.json_schema import expect_keys, quoted
from tflite.device.epoch import EpochReport
from tflite.format.metadata import ModelMetadata

_KIND = "device checkpoint"
_FIELDS = {"base_hash", "architecture", "model", "history", "notes"}
# Fields that files of earlier versions do not have.
_NEW_FIELDS = {"model"}
# Maximum size of the header: names and shapes of the tensors, history and notes.
_HEADER_BYTES = 2**22


class Progress(NamedTuple):
    """Progress of on-device training.

    Attributes:
      state: Variables by name, after the last complete epoch.
      best: Variables after the epoch with the lowest held-out loss; None without held-out examples.
      history: Report of each epoch.
      notes: Additional JSON values of the training program.
    """

    state: Mapping[str, np.ndarray]
    best: Mapping[str, np.ndarray] | None
    history: tuple[EpochReport, ...]
    notes: Mapping[str, Any]


def write_progress(
    path: str | os.PathLike,
    metadata: ModelMetadata,
    received: Mapping[str, np.ndarray],
    progress: Progress,
) -> None:
    """Atomically writes the training progress of a model, whose file holds `received`."""
    tensors = {f"state/{name}": value for name, value in progress.state.items()}
    tensors |= {f"best/{name}": value for name, value in (progress.best or {}).items()}
    fields = {
        **_origin(metadata, received),
        "history": [report._asdict() for report in progress.history],
        "notes": dict(progress.notes),
    }
    write_tensors(path, _KIND, tensors, fields)


def read_progress(
    path: str | os.PathLike, metadata: ModelMetadata, received: Mapping[str, np.ndarray]
) -> Progress:
    """Reads the file that `write_progress` wrote for the same model.

    Raises:
      ValueError: If the file is damaged or belongs to another model. `DeviceModel.check_state`
        checks the values further.
    """
    history: tuple[EpochReport, ...] = ()

    def check(fields, forms):
        nonlocal history
        expect_keys(fields, _FIELDS, _FIELDS - _NEW_FIELDS, "A device's checkpoint")
        origin = _origin(metadata, received)
        found = {key: fields[key] for key in origin if key in fields}
        if found != {key: origin[key] for key in found}:
            raise ValueError(
                f"A device's checkpoint: expected one of the model {_short(origin)}, received one "
                f"of {_short(found)}. Train the model that it belongs to, or start anew with "
                "another file."
            )
        parts = ("state", "best") if any(name.startswith("best/") for name in forms) else ("state",)
        expected = {
            f"{part}/{name}": ("F32", tuple(shape))
            for part in parts
            for name, shape in metadata.variables.items()
        }
        wrong = sorted(dict(expected.items() ^ {n: tuple(f) for n, f in forms.items()}.items()))
        if wrong:
            raise ValueError(
                f"A device's checkpoint: expected the {len(metadata.variables)} tensors of the "
                f"model's state, received others for {quoted(wrong[:5])}. Start anew with another "
                "file."
            )
        if not isinstance(fields["notes"], dict):
            raise _damaged("an object as notes", type(fields["notes"]).__name__)
        if not isinstance(fields["history"], list):
            raise _damaged("a list as history", type(fields["history"]).__name__)
        history = tuple(map(_report, fields["history"]))
        epochs = [report.epoch for report in history]
        if epochs != list(range(1, len(history) + 1)):
            raise _damaged("epochs numbered from 1", quoted(epochs))

    values = sum(math.prod(shape) for shape in metadata.variables.values())
    tensors, fields = read_tensors(path, _KIND, check, 2 * 4 * values + _HEADER_BYTES)
    state, best = (
        {
            name: tensors[f"{part}/{name}"]
            for name in metadata.variables
            if f"{part}/{name}" in tensors
        }
        for part in ("state", "best")
    )
    return Progress(state, best or None, history, fields["notes"])


def _origin(metadata: ModelMetadata, received: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns fields that tell models apart, also two exports of one subnet."""
    step = json.dumps([metadata.training, metadata.feature_rates], sort_keys=True)
    content = f"{fingerprint(received)} {step}"
    return {
        "base_hash": metadata.supernet_hash,
        "architecture": metadata.architecture.fields(),
        "model": hashlib.sha256(content.encode()).hexdigest(),
    }


def _short(origin: Mapping[str, Any]) -> str:
    model = quoted(origin.get("model", "unknown"))[1:13]
    return (
        f"{model}, {quoted(origin['architecture'])} of supernet {quoted(origin['base_hash'])[1:13]}"
    )


def _report(fields: Any) -> EpochReport:
    numbers = fields.values() if isinstance(fields, dict) else ["none"]
    if (
        not all(type(number) in (int, float) or number is None for number in numbers)
        or set(fields) != set(EpochReport._fields)
        or type(fields["epoch"]) is not int
    ):
        raise _damaged(f"{', '.join(EpochReport._fields)} of each epoch", quoted(fields))
    return EpochReport(**fields)


def _damaged(expected: str, received: str) -> ValueError:
    return ValueError(
        f"A device's checkpoint: expected {expected}, received {received}. Start anew with another "
        "file."
    )
