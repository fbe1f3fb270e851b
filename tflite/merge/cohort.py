"""Decides the weight and the scale of each update by comparison with the cohort's medians.

A server cannot verify what a phone really did, but it can compare the phones of a cohort: most are
honest, so an honest update lies near the median. The limits are wide enough that a cohort of
ordinary spread is merged unchanged, bit for bit.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.validation import check_number
from tflite.format.update_file import DeviceUpdate

# An update that would be scaled down further than this is left out instead.
_MIN_SCALE = 1e-6


@dataclasses.dataclass(frozen=True)
class CohortLimits:
    """Limits on how much an update may differ from the others; all are factors.

    Attributes:
      examples: Claimed numbers of examples are capped at this multiple of their median.
      far_examples: Updates that claim more than this multiple of the median are left out.
      size: Updates larger than this multiple of the median size are scaled down to it. The size of
        an update is its root mean square over the entries it covers, which makes subnets of all
        sizes comparable.
      far_size: Updates larger than this multiple of the median size are left out.
      two: Limit for a cohort of two updates, which has no majority: the larger size is capped at
        this multiple of the smaller one, so the mean is at most this many times as long as either
        of them. Claimed numbers of examples are capped at `examples` times the smaller claim.
      weights: Updates whose norm exceeds this multiple of the norm of the weights they change are
        left out, even in a cohort of one.
    """

    examples: float = 4.0
    far_examples: float = 100.0
    size: float = 3.0
    far_size: float = 10.0
    two: float = 2.0
    weights: float = 100.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check_number(
                getattr(self, field.name), field.name, minimum=1, what="Limits of a cohort"
            )


class UpdateSummary(NamedTuple):
    """A valid update of a cohort, without its tensors.

    Attributes:
      name: Path of the update; for an update object, its client name or identity.
      source: Source to read the tensors from again.
      identity: `DeviceUpdate.identity`.
      base_hash: `DeviceUpdate.base_hash`.
      architecture: Architecture of the trained subnet.
      examples: Claimed number of training examples.
      norm: L2 norm of the delta.
      size: Root mean square of the delta over the entries it covers.
      weights_norm: L2 norm of the supernet's weights in these entries.
    """

    name: str
    source: str | DeviceUpdate
    identity: str
    base_hash: str
    architecture: Architecture
    examples: int
    norm: float
    size: float
    weights_norm: float


class Decision(NamedTuple):
    """Decision on how much an update counts.

    Attributes:
      examples: Number of examples that the update counts for.
      scale: Factor that scales the delta, at most 1.
      reason: Reason for leaving the update out: what was expected, what was received and what to
        do; empty if the update is used.
    """

    examples: int
    scale: float = 1.0
    reason: str = ""


def decide(
    summaries: Sequence[UpdateSummary],
    limits: CohortLimits | None,
    max_examples: int | None = None,
    clip_norm: float | None = None,
    compare_examples: bool = True,
    compare_sizes: bool = True,
) -> list[Decision]:
    """Decides how much each update counts by comparing the updates with each other.

    Args:
      summaries: Updates of the cohort.
      limits: Limits on how much updates may differ; None to use all unchanged.
      max_examples: Maximum number of examples that an update counts for, in place of
        `limits.examples`.
      clip_norm: L2 norm that longer updates are scaled down to, in place of `limits.size`.
      compare_examples: Whether to compare claimed numbers of examples.
      compare_sizes: Whether to compare sizes.

    Returns:
      The decision on each update.
    """
    claims = _Bounds(math.inf, math.inf)
    sizes = _Bounds(math.inf, math.inf)
    if limits is not None:
        # Updates of zeros are ignored here, since they would make all others look large.
        moving = [summary.size for summary in summaries if summary.size > 0]
        if compare_sizes:
            sizes = _bounds(moving, limits.size, limits.far_size, limits.two)
        if compare_examples and max_examples is None:
            claimed = [summary.examples for summary in summaries]
            claims = _bounds(claimed, limits.examples, limits.far_examples, limits.examples)
    if max_examples is not None:
        claims = claims._replace(maximum=max_examples)
    if clip_norm is not None:
        sizes = sizes._replace(maximum=math.inf)
    return [_decide_on(summary, claims, sizes, limits, clip_norm) for summary in summaries]


class _Bounds(NamedTuple):
    """Bounds on a value: above `maximum` it is capped, above `far` its update is left out."""

    maximum: float
    far: float


def _bounds(values: Sequence[float], factor: float, far_factor: float, of_two: float) -> _Bounds:
    if len(values) < 2:
        return _Bounds(math.inf, math.inf)
    if len(values) == 2:
        return _Bounds(of_two * min(values), math.inf)
    middle = float(np.median(values))
    return _Bounds(factor * middle, far_factor * middle)


def _decide_on(summary: UpdateSummary, claims, sizes, limits, clip_norm) -> Decision:
    far = []
    if limits is not None and summary.norm > limits.weights * summary.weights_norm > 0:
        far.append(
            f"a norm of at most {limits.weights:g} times the {summary.weights_norm:.3g} of the "
            f"weights it changes, received {summary.norm:.3g}"
        )
    if summary.size > sizes.far:
        far.append(f"a root mean square of at most {sizes.far:.3g}, received {summary.size:.3g}")
    if summary.examples > claims.far:
        far.append(f"at most {claims.far:,.0f} examples, received {summary.examples:,}")
    if far:
        return Decision(
            0,
            0.0,
            f"Expected an update like those of the other phones: {'; '.join(far)}. It is far "
            "outside and left out; if it can be trusted, merge it by itself, without limits.",
        )
    scale = 1.0
    if summary.size > sizes.maximum:
        scale = sizes.maximum / summary.size
    if clip_norm is not None and summary.norm > clip_norm:
        scale = clip_norm / summary.norm
    if scale < _MIN_SCALE:
        return Decision(
            0,
            0.0,
            f"Expected an update whose size is like those of the other phones, received one of "
            f"{summary.size:.3g}, more than a million times as large. Send it with others.",
        )
    examples = (
        summary.examples if summary.examples <= claims.maximum else max(1, int(claims.maximum))
    )
    return Decision(examples, scale)
