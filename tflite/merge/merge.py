"""Merges phones' updates into the supernet, like a federated round whose clients send files."""

import functools
import math
import os
import tempfile
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from fedsup_tf import robust, slicing
from fedsup_tf.architecture import Architecture
from fedsup_tf.files.validation import check_choice, check_number, check_whole_number
from fedsup_tf.slicing import Overlap
from fedsup_tf.supernet import Supernet
from tflite.format.update_file import DeviceUpdate
from tflite.merge.cohort import CohortLimits, Decision, decide
from tflite.merge.influence import influence_factors
from tflite.merge.merge_report import (
    MergeReport,
    NothingToMergeError,
    RejectedUpdate,
    TensorCoverage,
    TooFewUpdatesError,
    UsedUpdate,
)
from tflite.merge.received_updates import Cohort, read_cohort
from tflite.merge.weighted_update import WeightedUpdate

_LIMITS = CohortLimits()
_NONE: Mapping[str, float] = types.MappingProxyType({})


def merge_updates(
    supernet: Supernet,
    base_hash: str,
    updates: Iterable[str | os.PathLike | DeviceUpdate],
    *,
    aggregation: str = "coverage",
    weighting: str = "examples",
    clip_norm: float | None = None,
    max_examples: int | None = None,
    poisoned: float = 0.0,
    limits: CohortLimits | None = _LIMITS,
    already_merged: Collection[str] = (),
    older: Mapping[str, float] = _NONE,
    class_names: Sequence[str] | None = None,
    noise: Callable[[Overlap], Overlap] | None = None,
) -> MergeReport:
    """Adds the mean of device updates to the supernet's weights, as a federated round does.

    The arithmetic is that of a round (`slicing.overlap`, `slicing.average`), so a single device's
    update changes the supernet to the same bits. Updates are read several times but held one at a
    time, so memory does not grow with their number; update objects from an iterator are kept in
    temporary files meanwhile. Updates that cannot be used are left out and reported.

    Updates are bounded by comparison with each other (see `CohortLimits`). Among three or more,
    updates that more than double or cancel the others' mean are reduced (see
    `influence.influence_factors`).

    Args:
      supernet: Supernet to update; if an error is raised, its weights are unchanged.
      base_hash: `checkpoint.fingerprint` of the supernet that the devices' subnets were extracted
        from.
      updates: Paths of update files or `DeviceUpdate` objects, of any mix of architectures.
      aggregation: One of `slicing.DIVISORS`: the mean of an entry is taken over the updates that
        cover it, or over all updates.
      weighting: One of `slicing.WEIGHTINGS`: updates are weighted by their number of examples, or
        equally.
      clip_norm: Maximum L2 norm of an update; longer updates are scaled down to it. By default, a
        multiple of the median size limits the size of an update.
      max_examples: Maximum number of examples that an update counts for. By default, a multiple of
        the median number of claimed examples.
      poisoned: Fraction of the updates that may be poisoned, below 0.5. The updates farthest from
        the others are set aside as in a federated round (see `fedsup_tf.robust`), instead of being
        limited in size by `limits`. Requires 3 updates; the part of each update in the smallest
        subnet is held in memory.
      limits: Limits on how much updates may differ; None if all senders are trusted.
      already_merged: Identities of updates that the supernet already contains; they are rejected.
      older: Maps fingerprints of earlier supernets of the same training to the factor, above 0 and
        at most 1, that scales the deltas of updates that started from them.
      class_names: Class names of the supernet. Updates with other class names are rejected, since
        their labels have another meaning. By default, class names are not compared.
      noise: Function that adds noise to the sum of the updates, for differential privacy. Requires
        `clip_norm`, the weighting `"uniform"` and `limits=None`, without `poisoned` and `older`.

    Returns:
      A report of the used, rejected and duplicate updates.

    Raises:
      NothingToMergeError: If no update can be used.
      TooFewUpdatesError: If `poisoned` is given and fewer than 3 updates are valid.
      ValueError: If an argument is invalid, or the resulting weights are not finite.
    """
    if isinstance(updates, str | os.PathLike | DeviceUpdate) or not isinstance(updates, Iterable):
        raise ValueError(
            f"Expected a list of updates, received {type(updates).__name__}. Put it into a list."
        )
    _check_choices(aggregation, weighting, clip_norm, max_examples, poisoned)
    _check_factors(older)
    if noise is not None and (
        clip_norm is None or weighting != "uniform" or limits is not None or poisoned or older
    ):
        raise ValueError(
            "Expected a clip_norm, uniform weighting, no limits, no poisoned share and no older "
            "updates with noise, received others. One device's update would show in more than "
            "its clipped sum."
        )
    factors = {**older, base_hash: 1.0}
    with tempfile.TemporaryDirectory(prefix="fedsup-merge-") as folder:
        cohort = read_cohort(
            supernet,
            base_hash,
            updates,
            already_merged,
            folder,
            with_smallest_subnet_rows=poisoned > 0,
            older=older.keys(),
            class_names=class_names,
        )
        rejected = cohort.rejected
        decisions = decide(
            cohort.summaries,
            limits,
            max_examples,
            clip_norm,
            compare_examples=weighting == "examples",
            compare_sizes=not poisoned,
        )
        if poisoned:
            decisions = _set_poisoned_aside(cohort, decisions, poisoned)
        weighted = []
        for summary, decision in zip(cohort.summaries, decisions, strict=True):
            if decision.reason:
                rejected.append(RejectedUpdate(summary.name, decision.reason))
            else:
                decision = decision._replace(scale=decision.scale * factors[summary.base_hash])
                weight = decision.examples if weighting == "examples" else 1
                weighted.append(WeightedUpdate(summary, decision, float(np.float32(weight))))
        overlaps, counted = _sum(supernet, weighted, rejected)
        if not counted:
            _refuse(rejected, cohort.duplicates)
        if limits is not None and not poisoned and len(counted) > 2:
            rows = [functools.partial(update.row, supernet) for update in counted]
            influences = influence_factors(rows, aggregation)
            if min(influences) < 1:
                counted = [
                    one.cut_to(factor) for one, factor in zip(counted, influences, strict=True)
                ]
                overlaps, counted = _sum(supernet, counted, rejected)
        everyone = math.fsum(update.weight for update in counted)
        totals = slicing.expand_coverage(overlaps, supernet.grids)
    if noise is not None:
        totals = noise(totals)
    mean = slicing.average(totals, aggregation, tf.constant(everyone, tf.float32))
    weights = {name: value + mean[name] for name, value in supernet.weights_by_name().items()}
    if not all(_is_finite(value) for value in weights.values()):
        raise ValueError(
            "Expected updates whose mean gives finite weights, received some whose mean does not. "
            "The supernet is unchanged; give a clip norm or leave the largest updates out."
        )
    supernet.assign_weights(weights)
    used = tuple(
        UsedUpdate(
            summary.name,
            summary.identity,
            summary.architecture,
            summary.examples,
            summary.norm,
            decision.examples,
            decision.scale,
        )
        for summary, decision, *_ in counted
    )
    coverage = _reach(supernet, [update.architecture for update in used])
    rejected.sort(key=lambda update: cohort.places[update.name])
    return MergeReport(used, tuple(rejected), tuple(cohort.duplicates), coverage)


def _check_choices(aggregation, weighting, clip_norm, max_examples, poisoned) -> None:
    check_choice(aggregation, "aggregation", slicing.DIVISORS)
    check_choice(weighting, "weighting", slicing.WEIGHTINGS)
    otherwise = "Leave it out for a multiple of the updates' median."
    if clip_norm is not None:
        check_number(clip_norm, "clip_norm", above=0, advice=otherwise)
    if max_examples is not None:
        check_whole_number(max_examples, "max_examples", 1, advice=otherwise)
    reason = "With more, nobody can tell which updates are the honest ones."
    check_number(poisoned, "the poisoned share", minimum=0, below=0.5, advice=reason)


def _check_factors(older: Mapping[str, float]) -> None:
    for name, factor in older.items():
        check_number(factor, f"the factor of updates of {name[:12]}", above=0, maximum=1)


def _set_poisoned_aside(cohort: Cohort, decisions: list[Decision], poisoned: float):
    """Returns the decisions updated by a robust mean, with unchanged numbers of examples."""
    count = len(cohort.summaries)
    if count < 3:
        raise TooFewUpdatesError(
            f"Expected at least 3 valid updates for a poisoned share of {poisoned:g}, received "
            f"{count}. Wait for more, or give no share.",
            tuple(cohort.rejected),
            tuple(cohort.duplicates),
        )
    is_update = tf.ones([count], bool)
    kept, _ = robust.nearest(
        tf.constant(np.stack(cohort.smallest_subnet_rows)), is_update, poisoned
    )
    sizes = tf.constant([summary.size for summary in cohort.summaries], tf.float32)
    scales = robust.scale_factors(sizes, is_update).numpy()
    decided = []
    for is_kept, scale, decision in zip(kept.numpy(), scales, decisions, strict=True):
        if is_kept and not decision.reason:
            decision = Decision(decision.examples, min(float(scale), decision.scale))
        elif not decision.reason:
            reason = (
                "Expected an update whose direction is like the others', received one of the "
                f"{poisoned:.0%} farthest from their median. It is set aside; merge it by itself "
                "if it can be trusted."
            )
            decision = Decision(0, 0.0, reason)
        decided.append(decision)
    return decided


def _sum(
    supernet, weighted: Sequence[WeightedUpdate], rejected: list[RejectedUpdate]
) -> tuple[Overlap, list[WeightedUpdate]]:
    """Sums the updates; unreadable ones and those that overflow the sum are added to `rejected`."""
    overlaps, counted = slicing.zero_overlap(supernet.grids), []
    for update in weighted:
        try:
            overlaps = _add(overlaps, update.contribution(supernet))
        except (ValueError, OSError) as error:
            rejected.append(RejectedUpdate(update.summary.name, str(error)))
            continue
        counted.append(update)
    return overlaps, counted


def _add(first: Overlap, second: Overlap) -> Overlap:
    total = {name: value + second.total[name] for name, value in first.total.items()}
    if not all(_is_finite(value) for value in total.values()):
        raise ValueError(
            "Expected values that can be summed, received some so large that the sum is not "
            "finite. Send an update that was trained with a smaller learning rate."
        )
    coverage = {name: value + second.coverage[name] for name, value in first.coverage.items()}
    return Overlap(total, coverage)


def _is_finite(value) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(value)))


def _reach(supernet, architectures: Iterable[Architecture]) -> dict[str, TensorCoverage]:
    """Computes how many updates cover the entries of each tensor."""
    grids = supernet.grids
    counts = slicing.count_covering(grids, map(supernet.slices, architectures))
    reach = {}
    for name, count in counts.items():
        count, entries = count.numpy(), grids[name].entries
        reach[name] = TensorCoverage(
            int(count.max()), float(entries[count > 0].sum() / entries.sum())
        )
    return reach


def _refuse(rejected, duplicates) -> None:
    reasons = "".join(f"\n  {name}: {reason}" for name, reason in rejected[:5])
    more = f"\n  and {len(rejected) - 5} others" if len(rejected) > 5 else ""
    raise NothingToMergeError(
        "Expected at least one update that can be merged, received "
        f"{'none' if not rejected else f'{len(rejected)} that cannot'}. The supernet is "
        f"unchanged.{reasons}{more}",
        tuple(rejected),
        tuple(duplicates),
    )
