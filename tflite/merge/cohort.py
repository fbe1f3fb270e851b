"""Decides with which weight and length each update of a cohort counts, from its medians.

Nobody can tell what a phone really did, but a cohort of phones can be compared: most of them are
honest, so that an honest update lies near the median. The limits are wide enough that a cohort of
ordinary spread is merged as it is, to the bit.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.validation import check_number
from tflite.format.update_file import DeviceUpdate


@dataclasses.dataclass(frozen=True)
class CohortLimits:
    """Limits on the distance of an update from the others; all are factors.

    Attributes:
      examples: Claims of examples above this multiple of the median count as that.
      far_examples: Updates that claim more than this multiple of the median are left out.
      size: Updates larger than this multiple of the median are scaled down to it. An update's size
        is its root mean square over the entries it covers, so that subnets of all sizes compare.
      far_size: Updates larger than this multiple of the median are left out.
      two: Of two updates there is no majority: the larger size is cut to this multiple of the
        smaller, so that the mean is at most this many times as long as either of them. Claims are
        cut to the multiple `examples` of the smaller.
      weights: Updates whose norm is above this multiple of that of the weights they change are left
        out, also when they are alone.
    """

    examples: float = 4.0
    far_examples: float = 100.0
    size: float = 3.0
    far_size: float = 10.0
    two: float = 2.0
    weights: float = 100.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check_number(getattr(self, field.name), field.name, least=1, what="Limits of a cohort")


class UpdateSummary(NamedTuple):
    """One valid update of the cohort, without its tensors.

    Attributes:
      name: Its path, or its client or identity if it came as an object.
      source: From where its tensors are read again.
      identity: `DeviceUpdate.identity`.
      base_hash: `DeviceUpdate.base_hash`.
      architecture: The subnet that it trained.
      examples: Number of examples that it claims.
      norm: L2 norm of its delta.
      size: Root mean square of its delta over the entries it covers.
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
      examples: Number of examples that it counts for.
      scale: Factor of its delta, at most 1.
      reason: Why it is left out: what was expected, received and what to do; else empty.
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
    """Compares updates with each other.

    Args:
      summaries: The updates of the cohort.
      limits: How far they may lie apart; None to use all as they are.
      max_examples: Number of examples above which a claim counts as that, in place of the limit of
        claims.
      clip_norm: L2 norm to which longer updates are scaled down, in place of the limit of sizes.
      compare_examples: Whether claims of examples matter.
      compare_sizes: Whether sizes are compared here.

    Returns:
      A decision on each update.
    """
    claims = _Bounds(math.inf, math.inf)
    sizes = _Bounds(math.inf, math.inf)
    if limits is not None:
        # An update of zeros moves nothing, and must not make all others look large.
        moving = [summary.size for summary in summaries if summary.size > 0]
        if compare_sizes:
            sizes = _bounds(moving, limits.size, limits.far_size, limits.two)
        if compare_examples and max_examples is None:
            claimed = [summary.examples for summary in summaries]
            claims = _bounds(claimed, limits.examples, limits.far_examples, limits.examples)
    if max_examples is not None:
        claims = claims._replace(most=max_examples)
    if clip_norm is not None:
        sizes = sizes._replace(most=math.inf)
    return [_decide_on(summary, claims, sizes, limits, clip_norm) for summary in summaries]


class _Bounds(NamedTuple):
    """Above `most` a value is cut to it, above `far` its update is left out."""

    most: float
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
            "outside and left out; merge it by itself if it can be trusted.",
        )
    scale = 1.0
    if summary.size > sizes.most:
        scale = sizes.most / summary.size
    if clip_norm is not None and summary.norm > clip_norm:
        scale = clip_norm / summary.norm
    examples = summary.examples if summary.examples <= claims.most else max(1, int(claims.most))
    return Decision(examples, scale)
