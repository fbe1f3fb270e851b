"""Sampling architectures whose parameters or multiply-accumulates lie within bounds.

Uniform rejection sampling comes first. Where it finds nothing, a random depth-first walk over the
stages goes only where the bounds can still be met, so that the search always ends.
"""

from collections.abc import Iterator

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.search import costs
from fedsup_tf.space import SearchSpace

_UNIFORM_TRIES = 200


def feasible_range(space: SearchSpace, cost: str) -> tuple[int, int]:
    """Least and greatest `cost` (a field of `costs.Cost`) of any architecture of `space`."""
    if cost not in costs.Cost._fields:
        raise ValueError(f"Expected a cost of {', '.join(costs.Cost._fields)}, received {cost!r}.")
    least, greatest = _remaining(space, cost)[0][space.stem_width]
    stem = getattr(costs.stem_cost(space), cost)
    return stem + least, stem + greatest


def sample_within(
    space: SearchSpace,
    rng: np.random.Generator,
    cost: str,
    minimum: float,
    maximum: float,
) -> Architecture:
    """Draws an architecture with `minimum <= cost <= maximum`.

    Args:
      space: Where to draw from.
      rng: The source of randomness.
      cost: `"parameters"` or `"macs"`.
      minimum: Least cost allowed.
      maximum: Greatest cost allowed.

    Returns:
      A uniform draw among those within the bounds, unless they are so rare that 200 uniform draws
      of the space miss them: then one found by a random walk, which is not uniform.

    Raises:
      ValueError: If no architecture of the space meets the bounds.
    """
    least, greatest = feasible_range(space, cost)
    if minimum <= maximum and minimum <= greatest and maximum >= least:
        for _ in range(_UNIFORM_TRIES):
            architecture = space.sample(rng)
            if minimum <= getattr(costs.architecture_cost(space, architecture), cost) <= maximum:
                return architecture
        for architecture in _walk(space, rng, cost, minimum, maximum):
            return architecture
    raise ValueError(
        f"No architecture of search space {space.name!r} has {cost} from {minimum:,} to "
        f"{maximum:,}; they range from {least:,} to {greatest:,}. Widen the bounds."
    )


def _choices(space: SearchSpace, number: int) -> list[tuple[int, int, int]]:
    stage = space.stages[number]
    return [(w, d, k) for w in stage.widths for d in stage.depths for k in stage.kernels]


def _remaining(space: SearchSpace, cost: str) -> list[dict[int, tuple[int, int]]]:
    """Per stage and entering width: least and greatest cost from there to the classifier."""
    last = {
        width: (getattr(costs.head_cost(space, width), cost),) * 2
        for width in space.stages[-1].widths
    }
    tables = [last]
    for number in reversed(range(len(space.stages))):
        entering = space.stages[number - 1].widths if number else (space.stem_width,)
        table = {}
        for in_width in entering:
            ends = [
                tuple(
                    getattr(costs.stage_cost(space, number, in_width, *choice), cost) + end
                    for end in tables[0][choice[0]]
                )
                for choice in _choices(space, number)
            ]
            table[in_width] = (min(low for low, _ in ends), max(high for _, high in ends))
        tables.insert(0, table)
    return tables


def _walk(
    space: SearchSpace, rng: np.random.Generator, cost: str, minimum: float, maximum: float
) -> Iterator[Architecture]:
    tables = _remaining(space, cost)

    def extend(number, in_width, spent, chosen):
        if number == len(space.stages):
            yield Architecture(*zip(*chosen, strict=True))
            return
        choices = _choices(space, number)
        for choice in rng.permutation(len(choices)):
            width, depth, kernel = choices[choice]
            stage = costs.stage_cost(space, number, in_width, width, depth, kernel)
            total = spent + getattr(stage, cost)
            low, high = tables[number + 1][width]
            if total + low <= maximum and total + high >= minimum:
                yield from extend(number + 1, width, total, [*chosen, choices[choice]])

    yield from extend(0, space.stem_width, getattr(costs.stem_cost(space), cost), [])
