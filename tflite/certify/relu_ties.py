"""Where two right engines part: values before ReLU6 that lie within rounding of 0 or 6.

ReLU6 passes a gradient strictly between 0 and 6 and stops it elsewhere. Two engines that add in
another order differ in the last bits of a value, and where it lies that close to 0 or 6, in whether
its gradient passes: a difference not of rounding but of a whole unit's share. One such comparison
among the half a million of a batch moves weights by 1e-5 in a step, and after ten steps by 1e-3.
So equality is held with these comparisons, and no others, decided as the exported model decided.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tflite.certify.reference import Reference, Step, passes_gradient

# A comparison is open if its value lies within so many times the largest rounding error that was
# met in its channel; another engine's rounding is not the reference's.
_ROUNDINGS = 24
# And at least this far, in units of the normalized value.
_LEAST_ROUNDING = 1.5e-7
# Open comparisons that are tried, the nearest first.
_MOST_TRIED = 300
_MOST_PASSES = 3
# A change of sides is kept if it takes away at least this part of the squared difference.
_LEAST_GAIN = 0.02


class ResolvedStep(NamedTuple):
    """A step of the reference, its open comparisons decided as the exported model's.

    Attributes:
      step: The step.
      before: Largest difference of a weight with the reference's own comparisons.
      after: Likewise as resolved.
      decided: Comparisons decided otherwise than by the reference.
      distance: The farthest of them from 0 or 6; 0 if there is none.
    """

    step: Step
    before: float
    after: float
    decided: int
    distance: float


class _Tie(NamedTuple):
    """Comparisons of one value, which many pixels of a plain background share.

    Attributes:
      roundings: Distance from 0 or 6 in rounding errors of the channel.
      distance: The same as it is.
      norm: The normalization's name.
      places: Index of each, an array for each axis.
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
    enough: float,
) -> ResolvedStep:
    """Takes a step, and decides open comparisons until it gives the exported model's weights.

    Args:
      reference: Takes the step.
      found: The weights after the exported model's step.
      weights: Before the step.
      momenta: Before the step.
      images: `(batch, height, width, channels)`, uint8.
      labels: `(batch,)`, int32.
      learning_rate: Of the step.
      enough: Largest difference of a weight at which nothing is left to explain.
    """
    arguments = (weights, momenta, images, labels, learning_rate)
    step = reference.step(*arguments)
    before = after = largest_difference(found, step.weights)
    if after <= enough:
        return ResolvedStep(step, before, after, 0, 0.0)
    values = step.computed.before_relu6
    sides = {name: passes_gradient(value).numpy() for name, value in values.items()}
    squared = _squared_difference(found, step.weights)
    decided, distance = 0, 0.0
    remaining_items = _nearest_ties(values, reference.before_relu6(weights, images))
    # What a comparison takes away may show only once a greater one is decided: try again then.
    for _ in range(_MOST_PASSES):
        kept = []
        for item in remaining_items:
            own = sides[item.norm]
            own[item.places] = 1 - own[item.places]
            given = {name: tf.constant(side) for name, side in sides.items()}
            tried = reference.step(*arguments, given)
            remaining = _squared_difference(found, tried.weights)
            if remaining > (1 - _LEAST_GAIN) * squared:
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
    """Of any entry of any tensor of `weights`."""
    return max(
        float(np.abs(found[name] - np.asarray(value)).max()) for name, value in weights.items()
    )


def _nearest_ties(values, exact) -> list[_Tie]:
    """The nearest ones, nearest first."""
    found = []
    for name, value in exact.items():
        value = value.numpy()
        distance = np.minimum(np.abs(value), np.abs(value - 6))
        rounding = np.abs(values[name].numpy() - value).max((0, 1, 2))
        rounding = np.maximum(rounding, _LEAST_ROUNDING)
        places = np.nonzero(distance < _ROUNDINGS * rounding)
        shared = {}
        for place in zip(*places, strict=True):
            shared.setdefault((place[3], value[place]), []).append(place)
        for (channel, _), equal in shared.items():
            near = float(distance[equal[0]])
            index = tuple(np.transpose(equal))
            found.append(_Tie(near / float(rounding[channel]), near, name, index))
    return sorted(found, key=lambda item: item.roundings)[:_MOST_TRIED]


def _squared_difference(found, weights) -> float:
    return sum(
        float(np.square(found[name] - value.numpy(), dtype=np.float64).sum())
        for name, value in weights.items()
    )
