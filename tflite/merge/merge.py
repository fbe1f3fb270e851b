"""Merging what phones learned into the supernet: a round whose clients sent files."""

import functools
import os
from collections.abc import Collection, Iterable

import numpy as np
import tensorflow as tf

from fedsup_tf import slicing
from fedsup_tf.architecture import Architecture
from fedsup_tf.slicing import Overlap
from fedsup_tf.supernet import Supernet
from tflite.format.update_file import DeviceUpdate, check_shapes, read_update
from tflite.merge.merge_report import (
    DuplicateUpdate,
    MergeReport,
    RejectedUpdate,
    TensorCoverage,
    UsedUpdate,
)

# Reasons quote what a file says, which may be long.
_REASON_LENGTH = 400


def merge_updates(
    supernet: Supernet,
    base_hash: str,
    updates: Iterable[str | os.PathLike | DeviceUpdate],
    *,
    aggregation: str = "coverage",
    weighting: str = "examples",
    clip_norm: float | None = None,
    already_merged: Collection[str] = (),
) -> MergeReport:
    """Adds the mean of devices' updates to the supernet's weights, as a federated round does.

    The arithmetic is that of a round (`slicing.overlap`, `slicing.average`), so that one device's
    update changes the supernet to the same bits. Updates are read and added one at a time; memory
    does not grow with their number. One that cannot be used is reported and left out.

    Args:
      supernet: Whose weights are changed; not at all if an error is raised.
      base_hash: `checkpoint.fingerprint` of the supernet that the devices' subnets were cut from.
      updates: Files, or updates already read, of any mix of architectures.
      aggregation: One of `slicing.DIVISORS`: whether an entry's mean runs over the updates that
        cover it, or over all.
      weighting: One of `slicing.WEIGHTINGS`: whether an update counts by its examples or all count
        the same.
      clip_norm: Largest L2 norm of an update; a larger one is scaled down to it.
      already_merged: Identities of updates that are in the supernet, to be rejected.

    Returns:
      What was used and what was not.

    Raises:
      ValueError: If a choice is unknown, or if no update can be used.
    """
    _check_choices(aggregation, weighting, clip_norm)
    grids = supernet.grids
    overlaps, everyone = slicing.no_overlap(grids), 0.0
    counts = {name: tf.zeros(grid.cells) for name, grid in grids.items()}
    used, rejected, duplicates, first_names = [], [], [], {}
    for source in updates:
        name = _name(source)
        try:
            update = _load(source, supernet)
            if update.identity in first_names:
                duplicates.append(DuplicateUpdate(name, first_names[update.identity]))
                continue
            _check_base(update, base_hash, already_merged)
            norm = _norm(update)
            weight = tf.constant(update.examples if weighting == "examples" else 1, tf.float32)
            overlaps = _add(overlaps, _overlap(supernet, update, weight, norm, clip_norm))
        except (ValueError, OSError) as error:
            reason = str(error).removeprefix(f"{name!r}: ")
            if len(reason) > _REASON_LENGTH:
                reason = f"{reason[:_REASON_LENGTH]}..."
            rejected.append(RejectedUpdate(name, reason))
            continue
        everyone += weight
        for tensor, part in supernet.slices(update.architecture).items():
            counts[tensor] += grids[tensor].cover(part, 1.0)
        first_names[update.identity] = name
        used.append(UsedUpdate(name, update.identity, update.architecture, update.examples, norm))
    if not used:
        _refuse(rejected)
    mean = slicing.average(slicing.by_entry(overlaps, grids), aggregation, everyone)
    weights = {name: value + mean[name] for name, value in supernet.weights_by_name().items()}
    supernet.assign_weights(weights)
    coverage = {
        name: TensorCoverage(
            int(tf.reduce_max(count)), float(np.mean(grids[name].spread(count > 0)))
        )
        for name, count in counts.items()
    }
    return MergeReport(tuple(used), tuple(rejected), tuple(duplicates), coverage)


def subnet_shapes(supernet: Supernet, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a subnet has, by name."""
    slices = supernet.slices(architecture)
    return {name: part.size for name, part in slices.items() if 0 not in part.size}


def _check_choices(aggregation, weighting, clip_norm) -> None:
    choices = (
        ("an aggregation", slicing.DIVISORS, aggregation),
        ("a weighting", slicing.WEIGHTINGS, weighting),
    )
    for what, known, value in choices:
        if value not in known:
            raise ValueError(f"Expected {what} of {', '.join(known)}, received {value!r}.")
    if clip_norm is not None and not 0 < clip_norm < float("inf"):
        raise ValueError(
            f"Expected a finite clip_norm above 0, received {clip_norm}. Leave it out to clip "
            "nothing."
        )


def _name(source) -> str:
    if isinstance(source, DeviceUpdate):
        return source.client or source.identity[:12]
    return str(source)


def _load(source, supernet) -> DeviceUpdate:
    """The update, if it is one of the supernet's search space."""
    shapes_of = functools.partial(subnet_shapes, supernet)
    if not isinstance(source, DeviceUpdate):
        return read_update(source, supernet.space, shapes_of)
    shapes = {name: value.shape for name, value in source.delta.items()}
    check_shapes(shapes, source.architecture, supernet.space, shapes_of)
    return source


def _check_base(update, base_hash, already_merged) -> None:
    if update.identity in already_merged:
        raise ValueError(
            "Expected an update that is new, received one that is already merged into this "
            f"supernet (identity {update.identity[:12]}). Leave it out."
        )
    if update.base_hash != base_hash:
        raise ValueError(
            f"Expected an update that started from the supernet {base_hash[:12]}, received one "
            f"that started from {update.base_hash[:12]} of round {update.base_round}. Merge it "
            "into that supernet, or export this one to the device and train again."
        )


def _norm(update) -> float:
    # In float64, since squares of large float32 values overflow.
    squares = (float(np.sum(np.square(v, dtype=np.float64))) for v in update.delta.values())
    return sum(squares) ** 0.5


def _overlap(supernet, update, weight, norm, clip_norm) -> Overlap:
    """The update's contribution to the mean."""
    slices = supernet.slices(update.architecture)
    delta = {
        name: update.delta.get(name, np.zeros(part.size, np.float32))
        for name, part in slices.items()
    }
    if clip_norm is not None and norm > clip_norm:
        scale = np.float32(clip_norm / norm)
        delta = {name: value * scale for name, value in delta.items()}
    return slicing.overlap(delta, slices, supernet.grids, weight)


def _add(first: Overlap, second: Overlap) -> Overlap:
    total = {name: value + second.total[name] for name, value in first.total.items()}
    if not all(bool(tf.reduce_all(tf.math.is_finite(value))) for value in total.values()):
        raise ValueError(
            "Expected values that can be summed, received some so large that the sum is not "
            "finite. Send an update that was trained with a smaller learning rate."
        )
    coverage = {name: value + second.coverage[name] for name, value in first.coverage.items()}
    return Overlap(total, coverage)


def _refuse(rejected) -> None:
    reasons = "".join(f"\n  {name}: {reason}" for name, reason in rejected[:5])
    more = f"\n  and {len(rejected) - 5} others" if len(rejected) > 5 else ""
    raise ValueError(
        "Expected at least one update that can be merged, received "
        f"{'none' if not rejected else f'{len(rejected)} that cannot'}. The supernet is "
        f"unchanged.{reasons}{more}"
    )
