"""Architectures within cost limits: checks that there are any, and draws them at random.

Costs are sums over parts (`cost_parts`). Dynamic programming from the head to the stem therefore
finds, for each stage and each input width, the Pareto-optimal costs of everything that can follow.
Draws first use uniform rejection sampling. If the limits are too tight for it, they use a random
depth-first walk over the stages that prunes every branch that cannot meet the limits.
"""

import functools
import math
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.validation import check_choice
from fedsup_tf.search.budget import Budget, CostModel
from fedsup_tf.search.cost_parts import Part, entering_widths, resolutions_of, stage_parts
from fedsup_tf.search.costs import Cost, architecture_cost, part_cost
from fedsup_tf.space import SearchSpace

# Uniform draws to try before the walk.
UNIFORM_TRIES = 200
# Relative tolerance: above the rounding errors of sums in another order, below any real difference.
_TOLERANCE = 1e-9


class FeasibleSet:
    """The architectures of a search space that meet a budget; there is at least one."""

    def __init__(self, model: CostModel, budget: Budget):
        """Computes the costs that can be reached, and checks that some meet the budget.

        Args:
          model: Cost model of the search space.
          budget: Limits on the costs.

        Raises:
          ValueError: If no architecture meets the budget (the message gives the smallest feasible
            value of each limited cost), or the budget limits a cost that the model lacks.
        """
        unknown = [name for name in budget.limits if name not in model.names]
        if unknown:
            raise ValueError(
                f"The budget limits {', '.join(unknown)}, which needs a latency table. Give the "
                "device's table, or drop the limit."
            )
        self.model = model
        self.budget = budget
        self._columns = [model.names.index(name) for name in budget.limits]
        self._limits = np.array(list(budget.limits.values()), np.float64)
        self._suffix_costs = _SuffixCosts(model.space, lambda part: model.part(part)[self._columns])
        totals = self._suffix_costs.totals
        if not (totals <= self._limits).all(1).any():
            raise ValueError(self._why_empty(totals))

    def __contains__(self, architecture: Architecture) -> bool:
        return bool((self.model.vector(architecture)[self._columns] <= self._limits).all())

    def draw(
        self, rng: np.random.Generator, exclude: Collection[Architecture] = ()
    ) -> Architecture | None:
        """Draws an architecture that meets the budget and is not one of `exclude`.

        Returns:
          A uniform draw; if 200 uniform draws from the space fail, one found by a random walk,
          which is not uniform. None if there is no such architecture.
        """
        bounds = [(self._suffix_costs, self._limits * (1 + _TOLERANCE))]
        return _draw(self.model.space, rng, self.__contains__, bounds, exclude)

    def _why_empty(self, totals: np.ndarray) -> str:
        lines = []
        for column, (name, limit) in enumerate(self.budget.limits.items()):
            text = f"{name} {_format(name, totals[:, column].min())}"
            if len(self._limits) > 1:
                others = np.arange(len(self._limits)) != column
                kept = (totals[:, others] <= self._limits[others]).all(1)
                minimum = _format(name, totals[kept, column].min()) if kept.any() else "none"
                text += f" alone, {minimum} while the other limits are kept"
            lines.append(f"{text} (limit {_format(name, limit)})")
        return (
            f"No architecture of search space {self.model.space.name!r} meets the budget. The "
            f"smallest feasible values are: {'; '.join(lines)}. Raise the limits."
        )


def feasible_range(space: SearchSpace, cost: str) -> tuple[int, int]:
    """Computes the minimum and maximum cost of the architectures of `space`.

    Args:
      space: The search space.
      cost: `"parameters"` or `"macs"`.

    Raises:
      ValueError: If `cost` is another name.
    """
    check_choice(cost, "cost", Cost._fields)
    minimum, negated_maximum = (
        int(suffix_costs.totals.min()) for suffix_costs in _both_suffix_costs(space, cost)
    )
    return minimum, -negated_maximum


def sample_within(
    space: SearchSpace,
    rng: np.random.Generator,
    cost: str,
    minimum: float,
    maximum: float,
) -> Architecture:
    """Draws an architecture with `minimum <= cost <= maximum`, like `draw_within`.

    Raises:
      ValueError: If no architecture of the space meets the bounds.
    """
    architecture = draw_within(space, rng, cost, minimum, maximum)
    if architecture is None:
        lowest, highest = feasible_range(space, cost)
        raise ValueError(
            f"No architecture of search space {space.name!r} has {cost} from {minimum:,} to "
            f"{maximum:,}; they range from {lowest:,} to {highest:,}. Widen the bounds."
        )
    return architecture


def draw_within(
    space: SearchSpace,
    rng: np.random.Generator,
    cost: str,
    minimum: float,
    maximum: float,
) -> Architecture | None:
    """Draws an architecture with `minimum <= cost <= maximum` if there is one.

    Args:
      space: The search space to draw from.
      rng: The source of randomness.
      cost: `"parameters"` or `"macs"`.
      minimum: Minimum cost allowed.
      maximum: Maximum cost allowed.

    Returns:
      A uniform draw among the architectures within the bounds; if 200 uniform draws from the space
      fail, one found by a random walk, which is not uniform. None if no architecture of the space
      meets the bounds.
    """

    def meets(architecture: Architecture) -> bool:
        return minimum <= getattr(architecture_cost(space, architecture), cost) <= maximum

    lowest, highest = feasible_range(space, cost)
    if minimum > maximum or minimum > highest or maximum < lowest:
        return None
    # `cost >= minimum` is written as an upper limit, `-cost <= -minimum`.
    bounds = list(zip(_both_suffix_costs(space, cost), (maximum, -minimum), strict=True))
    return _draw(space, rng, meets, bounds)


class _SuffixCosts:
    """Pareto-optimal costs of the suffixes of architectures, from each stage to the head.

    Attributes:
      part: Function that computes a part's costs, `(costs,)`.
      tables: Maps each resolution to a list with an entry per stage and a last one for the head.
        Each entry maps the input width to the costs of the suffixes, `(suffixes, costs)`.
      totals: Pareto-optimal costs of whole architectures, `(totals, costs)`; architectures of
        different resolutions are not compared.
    """

    def __init__(self, space: SearchSpace, part: Callable[[Part], np.ndarray]):
        self.part = part
        self.tables = {r: _suffix_tables(space, part, r) for r in resolutions_of(space)}
        totals = [
            part(Part.of_stem(resolution)) + tables[0][space.stem_width]
            for resolution, tables in self.tables.items()
        ]
        self.totals = np.concatenate(totals)


def _suffix_tables(
    space: SearchSpace, part: Callable[[Part], np.ndarray], resolution: int
) -> list[dict[int, np.ndarray]]:
    last = len(space.stages)
    widths = entering_widths(space, last)
    tables = [{width: part(Part.of_head(width, resolution))[None] for width in widths}]
    for stage in reversed(range(last)):
        table = {}
        for in_width in entering_widths(space, stage):
            suffixes = [
                part(choice) + tables[0][choice.width]
                for choice in stage_parts(space, stage, in_width, resolution)
            ]
            table[in_width] = _pareto_rows(np.concatenate(suffixes))
        tables.insert(0, table)
    return tables


# Pairs of the suffix costs for some costs and the upper limits on these costs, `(costs,)`.
_Bounds = Sequence[tuple[_SuffixCosts, np.ndarray | float]]


@functools.lru_cache(maxsize=16)
def _both_suffix_costs(space: SearchSpace, cost: str) -> tuple[_SuffixCosts, _SuffixCosts]:
    """Returns the suffix costs for a cost, and for the negated cost, which yield its maximum."""
    return tuple(
        _SuffixCosts(
            space,
            lambda part, sign=sign: np.array([sign * getattr(part_cost(space, part), cost)], float),
        )
        for sign in (1, -1)
    )


def _draw(
    space: SearchSpace,
    rng: np.random.Generator,
    meets: Callable[[Architecture], bool],
    bounds: _Bounds,
    exclude: Collection[Architecture] = (),
) -> Architecture | None:
    for _ in range(UNIFORM_TRIES):
        architecture = space.sample(rng)
        if architecture not in exclude and meets(architecture):
            return architecture
    candidates = _walk(space, rng, bounds)
    return next((found for found in candidates if found not in exclude and meets(found)), None)


def _walk(space: SearchSpace, rng: np.random.Generator, bounds: _Bounds) -> Iterator[Architecture]:
    """Yields all architectures within the bounds, in random order."""

    def extend(stage: int, in_width: int, spent: list[np.ndarray], chosen: list[Part]):
        resolution = chosen[0].resolution
        if stage == len(space.stages):
            dimensions = ((part.width, part.depth, part.kernel) for part in chosen[1:])
            yield Architecture(*zip(*dimensions, strict=True), resolution or None)
            return
        choices = stage_parts(space, stage, in_width, resolution)
        for place in rng.permutation(len(choices)):
            part = choices[place]
            totals = [
                total + suffix_costs.part(part)
                for total, (suffix_costs, _) in zip(spent, bounds, strict=True)
            ]
            if all(
                (total + suffix_costs.tables[resolution][stage + 1][part.width] <= limits)
                .all(1)
                .any()
                for total, (suffix_costs, limits) in zip(totals, bounds, strict=True)
            ):
                yield from extend(stage + 1, part.width, totals, [*chosen, part])

    resolutions = resolutions_of(space)
    # Draws no random number if there is only one resolution.
    order = rng.permutation(len(resolutions)) if len(resolutions) > 1 else (0,)
    for place in order:
        stem = Part.of_stem(resolutions[place])
        spent = [suffix_costs.part(stem) for suffix_costs, _ in bounds]
        yield from extend(0, space.stem_width, spent, [stem])


def _pareto_rows(vectors: np.ndarray) -> np.ndarray:
    """Selects the Pareto-optimal rows (lower is better), without duplicates."""
    kept = np.empty((0, vectors.shape[1]))
    # In the sorted order of `np.unique`, no row comes before one that dominates it.
    for vector in np.unique(vectors, axis=0):
        if not (kept <= vector).all(1).any():
            kept = np.concatenate([kept, vector[None]])
    return kept


def _format(name: str, value: float) -> str:
    # Rounds up, so that the value shown is feasible.
    return f"{math.ceil(value * 1000) / 1000:,.3f}" if name.endswith("_ms") else f"{value:,.0f}"
