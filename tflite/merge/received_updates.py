"""Reads the updates that phones sent and summarizes them for comparison."""

import functools
import math
import os
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fedsup_tf import slicing
from fedsup_tf.architecture import Architecture
from fedsup_tf.supernet import Supernet
from tflite.format.update_file import (
    DeviceUpdate,
    check_class_names,
    check_shapes,
    read_update,
    write_update,
)
from tflite.merge.cohort import UpdateSummary
from tflite.merge.merge_report import DuplicateUpdate, RejectedUpdate

# Maximum length of a rejection's reason, which may quote long text from a file.
_REASON_LENGTH = 400


class Cohort(NamedTuple):
    """The updates that were read.

    Attributes:
      summaries: Summaries of the valid updates.
      rejected: Updates that cannot be used, with reasons.
      duplicates: Repeated updates.
      smallest_subnet_rows: For each valid update, its values in the smallest subnet as one row, if
        requested; otherwise empty.
      places: Position of the first update of each name.
    """

    summaries: list[UpdateSummary]
    rejected: list[RejectedUpdate]
    duplicates: list[DuplicateUpdate]
    smallest_subnet_rows: list[np.ndarray]
    places: dict[str, int]


def subnet_shapes(supernet: Supernet, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a subnet's tensors by name, without absent tensors."""
    slices = supernet.slices(architecture)
    return {name: part.size for name, part in slices.items() if 0 not in part.size}


def _name(source) -> str:
    if isinstance(source, DeviceUpdate):
        return source.client or source.identity[:12]
    return str(source)


def read_cohort(
    supernet: Supernet,
    base_hash: str,
    updates: Iterable[str | os.PathLike | DeviceUpdate],
    already_merged: Collection[str],
    folder: str,
    with_smallest_subnet_rows: bool,
    older: Collection[str] = (),
    class_names: Sequence[str] | None = None,
) -> Cohort:
    """Reads all updates once, one at a time, and summarizes them for comparison.

    Args:
      supernet: Supernet that the updates will be merged into.
      base_hash: `checkpoint.fingerprint` of the supernet that updates must have started from.
      updates: Paths of update files or `DeviceUpdate` objects.
      already_merged: Identities of updates to reject.
      folder: Folder for temporary files of update objects from an iterator.
      with_smallest_subnet_rows: Whether to fill `Cohort.smallest_subnet_rows`.
      older: Fingerprints of earlier supernets that updates may also have started from.
      class_names: Class names that updates must have; None to accept any.
    """
    cohort, first_names = Cohort([], [], [], [], {}), {}
    for number, source in enumerate(updates):
        name = _name(source)
        cohort.places.setdefault(name, number)
        try:
            update = load_update(source, supernet)
            if update.identity in first_names:
                first = first_names[update.identity]
                cohort.duplicates.append(DuplicateUpdate(name, first))
                continue
            check_class_names(update, class_names)
            _check_base(update, base_hash, already_merged, older)
        except (ValueError, OSError) as error:
            reason = str(error).removeprefix(f"{name!r}: ")
            if len(reason) > _REASON_LENGTH:
                reason = f"{reason[:_REASON_LENGTH]}..."
            cohort.rejected.append(RejectedUpdate(name, reason))
            continue
        first_names[update.identity] = name
        kept = source
        if isinstance(source, DeviceUpdate) and not isinstance(updates, Collection):
            kept = os.path.join(folder, f"{number}.safetensors")
            write_update(kept, update)
        cohort.summaries.append(_summary(supernet, name, kept, update))
        if with_smallest_subnet_rows:
            cohort.smallest_subnet_rows.append(_smallest_subnet_row(supernet, update))
        # Frees the update before the next one is created.
        del source, update, kept
    return cohort


def load_update(source: str | os.PathLike | DeviceUpdate, supernet: Supernet) -> DeviceUpdate:
    """Loads an update and checks that it belongs to the supernet's search space."""
    shapes_of = functools.partial(subnet_shapes, supernet)
    if not isinstance(source, DeviceUpdate):
        return read_update(source, supernet.space, shapes_of)
    shapes = {name: value.shape for name, value in source.delta.items()}
    check_shapes(shapes, source.architecture, supernet.space, shapes_of)
    return source


def _check_base(update, base_hash, already_merged, older) -> None:
    if update.identity in already_merged:
        raise ValueError(
            "Expected an update that is new, received one that is already merged into this "
            f"supernet (identity {update.identity[:12]}). Leave it out."
        )
    if update.base_hash != base_hash and update.base_hash not in older:
        raise ValueError(
            f"Expected an update that started from the supernet {base_hash[:12]}, received one "
            f"that started from {update.base_hash[:12]} of round {update.base_round}. Merge it "
            "into that supernet, or export this one to the device and train again."
        )


def _summary(supernet, name, source, update) -> UpdateSummary:
    slices = supernet.slices(update.architecture)
    entries = sum(math.prod(part.size) for part in slices.values())
    norm = _norm(update.delta.values())
    weights = slicing.take(supernet.weights_by_name(), slices)
    return UpdateSummary(
        name,
        source,
        update.identity,
        update.base_hash,
        update.architecture,
        update.examples,
        norm,
        norm / math.sqrt(entries),
        _norm(weights.values()),
    )


def _norm(parts) -> float:
    # In float64, since squares of large values overflow float32.
    squares = (float(np.sum(np.square(part, dtype=np.float64))) for part in map(np.asarray, parts))
    return math.fsum(squares) ** 0.5


def whole_delta(supernet: Supernet, update: DeviceUpdate) -> dict[str, np.ndarray]:
    """Returns the update's tensors under all names, with size 0 for tensors the subnet lacks."""
    slices = supernet.slices(update.architecture)
    absent = {name: np.zeros(part.size, np.float32) for name, part in slices.items()}
    return {**absent, **update.delta}


def _smallest_subnet_row(supernet, update) -> np.ndarray:
    """Returns the update's values in the smallest subnet as one row with maximum magnitude 1."""
    slices = supernet.slices(update.architecture)
    placed = slicing.scatter(whole_delta(supernet, update), slices, supernet.weight_shapes)
    core = slicing.take(placed, supernet.slices(supernet.space.smallest()))
    row = np.concatenate([np.ravel(core[name]) for name in supernet.weight_shapes])
    # Only the direction matters, and squares of large values would overflow float32.
    return row / np.float32(np.abs(row).max(initial=0) or 1)
