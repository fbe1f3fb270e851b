"""Resolves ties of ReLU6: inputs within rounding error of 0 or 6, where correct engines may differ.

ReLU6 passes a gradient strictly between 0 and 6. Two engines that add in different orders differ in
the last bits of a value. If the value is that close to 0 or 6, they may also differ in whether its
gradient passes, which is not a rounding error but the whole gradient of a unit. One such comparison
among the half million of a batch changes weights by 1e-5 in a step, and by 1e-3 after ten steps.
The certificate therefore compares weights after these comparisons, and only these, have been
resolved as in the exported model.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tflite.certify.reference import Reference, Step, passes_gradient

# A value is a tie if its distance from 0 or 6 is below this multiple of the largest rounding error
# of its channel. The margin covers the different rounding errors of the other engine.
_ROUNDINGS = 24
# Minimum rounding error of a channel, in units of the normalized value.
_MIN_ROUNDING = 1.5e-7
# Maximum number of ties that are tried, nearest first.
_MAX_TRIED = 300
_MAX_PASSES = 3
# A flipped comparison is kept if it removes at least this fraction of the squared difference.
_MIN_GAIN = 0.02


class ResolvedStep(NamedTuple):
    """A step of the reference with its ties resolved as in the exported model.

    Attributes:
      step: Result of the step.
      before: `largest_difference` of the weights with the reference's own comparisons.
      after: `largest_difference` of the weights with the resolved comparisons.
      decided: Number of comparisons that were resolved differently than in the reference.
      distance: Largest distance of these values from 0 or 6; 0 if there are none.
    """

    step: Step
    before: float
    after: float
    decided: int
    distance: float


class _Tie(NamedTuple):
    """A value within rounding error of 0 or 6; many pixels of a plain background may share it.

    Attributes:
      roundings: Distance from 0 or 6 in rounding errors of the channel.
      distance: Distance from 0 or 6.
      norm: Name of the normalization before the ReLU6.
      places: Indices of the pixels that share the value, one array per axis.
    """

    roundings: float
    distance: float
    norm: str
    places: tuple[np.ndarray, ...]


def resolve_ties(
    reference: Reference,
    found: Mapping[str, np.ndarray],
    weights: Mapping[str, tf.Tensor],
    momenta: Mapping[str, tf.Tensor],
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
    seen: np.ndarray | None,
    enough: float,
) -> ResolvedStep:
    """Computes a step and resolves ties until its weights agree with the exported model's.

    Args:
      reference: Reference that computes the step.
      found: Weights after the exported model's step, by name.
      weights: Weights before the step, by name.
      momenta: Momenta before the step, by name.
      images: `(batch, height, width, channels)`, uint8.
      labels: `(batch,)`, int32.
      learning_rate: Learning rate of the step.
      seen: Labels of earlier steps, as for `Reference.step`.
      enough: Difference of the weights at or below which no further ties are tried.
    """
    arguments = (weights, momenta, images, labels, learning_rate, seen)
    step = reference.step(*arguments)
    before = after = largest_difference(found, step.weights)
    if after <= enough:
        return ResolvedStep(step, before, after, 0, 0.0)
    values = step.computed.before_relu6
    masks = {name: passes_gradient(value).numpy() for name, value in values.items()}
    squared = _squared_difference(found, step.weights)
    decided, distance = 0, 0.0
    remaining_items = _nearest_ties(values, reference.before_relu6(weights, images))
    # Several passes, since the effect of a tie may show only after a larger one has been resolved.
    for _ in range(_MAX_PASSES):
        kept = []
        for item in remaining_items:
            own = masks[item.norm]
            own[item.places] = 1 - own[item.places]
            given = {name: tf.constant(mask) for name, mask in masks.items()}
            tried = reference.step(*arguments, given)
            remaining = _squared_difference(found, tried.weights)
            if remaining > (1 - _MIN_GAIN) * squared:
                own[item.places] = 1 - own[item.places]
                kept.append(item)
                continue
            step, squared = tried, remaining
            decided += len(item.places[0])
            distance = max(distance, item.distance)
            after = largest_difference(found, step.weights)
            if after <= enough:
                return ResolvedStep(step, before, after, decided, distance)
        if len(kept) == len(remaining_items):
            break
        remaining_items = kept
    return ResolvedStep(step, before, after, decided, distance)


def largest_difference(found: Mapping[str, np.ndarray], weights: Mapping[str, tf.Tensor]) -> float:
    """Computes the largest absolute difference over all entries of all tensors of `weights`.

    The difference of an entry above 1 in size is divided by that size, since its rounding error
    grows with it.
    """
    # Unlike `max` of Python, that of NumPy keeps NaN wherever it occurs.
    return float(np.max([np.abs(value).max() for value in _differences(found, weights)]))


def _nearest_ties(values: Mapping[str, tf.Tensor], exact: Mapping[str, tf.Tensor]) -> list[_Tie]:
    """Returns the ties, nearest first, of values given in float32 and exactly in float64."""
    ties = []
    for name, value in exact.items():
        value = value.numpy()
        distance = np.minimum(np.abs(value), np.abs(value - 6))
        rounding = np.abs(values[name].numpy() - value).max((0, 1, 2))
        rounding = np.maximum(rounding, _MIN_ROUNDING)
        places = np.nonzero(distance < _ROUNDINGS * rounding)
        shared = {}
        for place in zip(*places, strict=True):
            shared.setdefault((place[3], value[place]), []).append(place)
        for (channel, _), equal in shared.items():
            near = float(distance[equal[0]])
            index = tuple(np.transpose(equal))
            ties.append(_Tie(near / float(rounding[channel]), near, name, index))
    return sorted(ties, key=lambda tie: tie.roundings)[:_MAX_TRIED]


def _squared_difference(found: Mapping[str, np.ndarray], weights: Mapping[str, tf.Tensor]) -> float:
    return sum(
        float(np.square(value, dtype=np.float64).sum()) for value in _differences(found, weights)
    )


def _differences(
    found: Mapping[str, np.ndarray], weights: Mapping[str, tf.Tensor]
) -> Iterator[np.ndarray]:
    for name, value in weights.items():
        value = np.asarray(value)
        yield (found[name] - value) / np.maximum(np.abs(value), 1)
