"""Which architectures meet a `Budget`: whether there are any, and random ones of them.

Costs are sums over parts. So dynamic programming from the head to the stem knows, for each stage
and the width that enters it, the costs of all that can follow which no other undercuts in every
limit. With them a walk over the stages never enters a dead end.
"""

import itertools
import math
from collections.abc import Collection, Iterator

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.search.budget import Budget, CostModel
from fedsup_tf.search.cost_parts import Part

_UNIFORM_TRIES = 200
# More than the rounding of sums in another order, less than any cost means.
_TOLERANCE = 1e-9


class FeasibleSet:
    """The architectures of a space that meet a budget; there is at least one."""

    def __init__(self, model: CostModel, budget: Budget):
        """Finds out what can be met.

        Args:
          model: Tells the costs.
          budget: Limits them.

        Raises:
          ValueError: If nothing meets the budget, with the smallest feasible value of each limit;
            or if it limits a cost that the model does not know.
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
        self._rest = _least_rest(model, self._columns)
        ends = _from_stem(model, self._columns, self._rest)
        if not (ends <= self._limits).all(1).any():
            raise ValueError(self._why_empty(ends))

    def __contains__(self, architecture: Architecture) -> bool:
        return bool((self.model.vector(architecture)[self._columns] <= self._limits).all())

    def draw(
        self, rng: np.random.Generator, without: Collection[Architecture] = ()
    ) -> Architecture | None:
        """Draws an architecture that meets the budget and is not of `without`.

        Returns:
          A uniform draw, unless 200 uniform draws of the space miss: then one found by a random
          walk, which is not uniform. None if there are no others.
        """
        for _ in range(_UNIFORM_TRIES):
            architecture = self.model.space.sample(rng)
            if architecture not in without and architecture in self:
                return architecture
        return next((found for found in self._walk(rng) if found not in without), None)

    def _walk(self, rng: np.random.Generator) -> Iterator[Architecture]:
        """All architectures that meet the budget, in random order."""
        stages = self.model.space.stages
        reach = self._limits * (1 + _TOLERANCE)

        def extend(number, in_width, spent, chosen):
            if number == len(stages):
                architecture = Architecture(*zip(*chosen, strict=True))
                if architecture in self:
                    yield architecture
                return
            choices = _choices(stages[number])
            for place in rng.permutation(len(choices)):
                part = Part.of_stage(number, in_width, *choices[place])
                total = spent + self.model.part(part)[self._columns]
                rest = self._rest[number + 1][part.width]
                if (total + rest <= reach).all(1).any():
                    yield from extend(number + 1, part.width, total, [*chosen, choices[place]])

        stem = self.model.part(Part.of_stem())[self._columns]
        yield from extend(0, self.model.space.stem_width, stem, [])

    def _why_empty(self, ends: np.ndarray) -> str:
        told = []
        for column, (name, limit) in enumerate(self.budget.limits.items()):
            text = f"{name} {_format(name, ends[:, column].min())}"
            if len(self._limits) > 1:
                others = np.arange(len(self._limits)) != column
                kept = (ends[:, others] <= self._limits[others]).all(1)
                least = _format(name, ends[kept, column].min()) if kept.any() else "none"
                text += f" alone, {least} while the other limits are kept"
            told.append(f"{text} (limit {_format(name, limit)})")
        return (
            f"No architecture of search space {self.model.space.name!r} meets the budget. The "
            f"smallest feasible values are: {'; '.join(told)}. Raise the limits."
        )


def least_cost(model: CostModel, name: str) -> float:
    """The least that any architecture of the model's space costs by that name."""
    columns = [model.names.index(name)]
    return float(_from_stem(model, columns, _least_rest(model, columns)).min())


def _least_rest(model: CostModel, columns: list[int]) -> list[dict[int, np.ndarray]]:
    """Per stage and entering width: costs from there to the head that none undercuts.

    Args:
      model: Tells the costs.
      columns: Which of its costs.

    Returns:
      For each stage, and last for the head, `(rests, columns)` by entering width.
    """
    space = model.space
    tables = [
        {width: model.part(Part.of_head(width))[None, columns] for width in space.stages[-1].widths}
    ]
    for number in reversed(range(len(space.stages))):
        table = {}
        for in_width in space.stages[number - 1].widths if number else (space.stem_width,):
            rests = []
            for choice in _choices(space.stages[number]):
                own = model.part(Part.of_stage(number, in_width, *choice))[columns]
                rests.append(own + tables[0][choice[0]])
            table[in_width] = _not_undercut(np.concatenate(rests))
        tables.insert(0, table)
    return tables


def _from_stem(model: CostModel, columns, rest: list[dict[int, np.ndarray]]) -> np.ndarray:
    return model.part(Part.of_stem())[columns] + rest[0][model.space.stem_width]


def _not_undercut(vectors: np.ndarray) -> np.ndarray:
    """The rows that no other row equals or undercuts in every column."""
    kept = np.empty((0, vectors.shape[1]))
    # In this order no row comes before one that undercuts it.
    for vector in np.unique(vectors, axis=0):
        if not (kept <= vector).all(1).any():
            kept = np.concatenate([kept, vector[None]])
    return kept


def _choices(stage) -> list[tuple[int, int, int]]:
    return list(itertools.product(stage.widths, stage.depths, stage.kernels))


def _format(name: str, value: float) -> str:
    # Rounded up, so that the number told is one that can be met.
    return f"{math.ceil(value * 1000) / 1000:,.3f}" if name.endswith("_ms") else f"{value:,.0f}"
