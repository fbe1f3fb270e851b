"""Evolutionary search for the most accurate architecture under a budget.

The search follows Cai et al. (Once-for-all, arXiv 1908.09791, section 3.5), except that one call of
the fitness function scores a whole generation, since each call costs rounds on federated clients.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.validation import check_whole_number
from fedsup_tf.search.budget import Budget, CostModel
from fedsup_tf.search.constraints import FeasibleSet
from fedsup_tf.space import SearchSpace

_TRIES_PER_CHILD = 50

Fitness = Callable[[Sequence[Architecture]], Sequence[float]]


class Candidate(NamedTuple):
    """An architecture that was scored.

    Attributes:
      architecture: The architecture.
      accuracy: Accuracy that the fitness function returned.
      costs: Costs of the architecture by name.
      generation: Number of the generation that scored it, from 1.
    """

    architecture: Architecture
    accuracy: float
    costs: Mapping[str, float]
    generation: int


class SearchResult(NamedTuple):
    """Result of a search.

    Attributes:
      candidates: All scored candidates in the order of scoring; their architectures are distinct.
      finalists: Candidates that were scored again more precisely, with these scores; may be empty.
    """

    candidates: tuple[Candidate, ...]
    finalists: tuple[Candidate, ...] = ()

    @property
    def best(self) -> Candidate:
        """The most accurate finalist, or candidate; ties are broken by fewer MACs."""
        return ranked(self.finalists or self.candidates)[0]

    def front(self, cost: str) -> tuple[Candidate, ...]:
        """Selects the `pareto_front` of the candidates."""
        return pareto_front(self.candidates, cost)


class Generation(NamedTuple):
    """Progress of a search after a generation.

    Attributes:
      number: Number of the generation, from 1.
      candidates: Candidates scored in this generation.
      best: Best candidate so far.
      evaluations: Number of candidates scored so far.
    """

    number: int
    candidates: tuple[Candidate, ...]
    best: Candidate
    evaluations: int


def search_architectures(
    space: SearchSpace,
    fitness: Fitness,
    budget: Budget,
    costs: CostModel,
    rng: np.random.Generator,
    *,
    generations: int = 10,
    population: int = 16,
    parents: int = 8,
    crossover_share: float = 0.5,
    mutation_probability: float = 0.15,
    initial: Sequence[Architecture] = (),
    on_generation: Callable[[Generation], None] | None = None,
) -> SearchResult:
    """Searches by evolution, mutating and crossing over the best architectures so far.

    The first generation consists of `initial` and random draws. The parents of each later
    generation are the best of all scored candidates. No candidate exceeds the budget and none is
    scored twice; if the parents yield no new child, a random candidate takes its place.

    Args:
      space: The search space.
      fitness: Function that returns the accuracies of a sequence of architectures; called once per
        generation.
      budget: Limits that no candidate may exceed.
      costs: Cost model of `space`.
      rng: The source of randomness; its state determines the result.
      generations: Number of generations, including the first.
      population: Number of candidates per generation.
      parents: Number of best candidates that produce children.
      crossover_share: Fraction of children made by crossover of two parents; the others are
        mutations of one.
      mutation_probability: Probability with which a mutation redraws each entry of a parent.
      initial: Architectures to begin with, such as those of the trained tiers; those that exceed
        the budget are skipped.
      on_generation: Function to call after each generation.

    Returns:
      All scored candidates: `generations * population`, or all that meet the budget if those are
      fewer.

    Raises:
      ValueError: If no architecture meets the budget, or an argument is out of range.

    Example:
      >>> import numpy as np
      >>> from fedsup_tf import Budget, CostModel, digits_small, search_architectures
      >>> space = digits_small()
      >>> result = search_architectures(
      ...     space,
      ...     fitness=lambda architectures: [sum(one.widths) / 1000 for one in architectures],
      ...     budget=Budget(parameters=30_000),
      ...     costs=CostModel(space),
      ...     rng=np.random.default_rng(0),
      ...     generations=3,
      ...     population=4,
      ... )
      >>> len(result.candidates)
      12
      >>> result.best.costs["parameters"] <= 30_000
      True
    """
    _check_at_least_one(generations=generations, population=population, parents=parents)
    feasible = _feasible_set(space, costs, budget)

    def children(scored: dict[Architecture, Candidate]) -> Iterable[Architecture]:
        best = [candidate.architecture for candidate in ranked(scored.values())[:parents]]
        chosen = [] if scored else _first(initial, feasible, population)
        for number in range(len(chosen), population):
            crosses = len(best) > 1 and number < round(crossover_share * population)
            for _ in range(_TRIES_PER_CHILD if best else 0):
                if crosses:
                    first, second = rng.choice(len(best), 2, replace=False)
                    child = space.crossover(best[first], best[second], rng)
                else:
                    child = space.mutate(best[rng.integers(len(best))], rng, mutation_probability)
                if child not in scored and child not in chosen and child in feasible:
                    break
            else:
                child = feasible.draw(rng, {*scored, *chosen})
            if child is None:
                break
            chosen.append(child)
        return chosen

    return _run(fitness, costs, children, generations, on_generation)


def random_search(
    space: SearchSpace,
    fitness: Fitness,
    budget: Budget,
    costs: CostModel,
    rng: np.random.Generator,
    *,
    evaluations: int = 160,
    population: int = 16,
    initial: Sequence[Architecture] = (),
    on_generation: Callable[[Generation], None] | None = None,
) -> SearchResult:
    """Scores random architectures within the budget: the baseline for `search_architectures`.

    Args:
      space: The search space.
      fitness: Function that returns the accuracies of up to `population` architectures.
      budget: Limits that no candidate may exceed.
      costs: Cost model of `space`.
      rng: The source of randomness; its state determines the result.
      evaluations: Number of candidates to score.
      population: Maximum number of candidates per call of `fitness`.
      initial: Architectures to begin with; those that exceed the budget are skipped.
      on_generation: Function to call after each call of `fitness`.

    Returns:
      All scored candidates: `evaluations`, or all that meet the budget if those are fewer.

    Raises:
      ValueError: If no architecture meets the budget, or an argument is out of range.
    """
    _check_at_least_one(evaluations=evaluations, population=population)
    feasible = _feasible_set(space, costs, budget)

    def draws(scored: dict[Architecture, Candidate]) -> Iterable[Architecture]:
        count = min(population, evaluations - len(scored))
        chosen = [] if scored else _first(initial, feasible, count)
        for _ in range(count - len(chosen)):
            drawn = feasible.draw(rng, {*scored, *chosen})
            if drawn is None:
                break
            chosen.append(drawn)
        return chosen

    return _run(fitness, costs, draws, math.ceil(evaluations / population), on_generation)


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Sorts candidates by descending accuracy; ties are broken by fewer multiply-accumulates."""
    # The last key makes the order unique for candidates that tie in both.
    return sorted(
        candidates, key=lambda one: (-one.accuracy, one.costs["macs"], str(one.architecture))
    )


def pareto_front(candidates: Iterable[Candidate], cost: str) -> tuple[Candidate, ...]:
    """Selects candidates more accurate than all others of at most their cost, cheapest first."""
    front: list[Candidate] = []
    for candidate in sorted(ranked(candidates), key=lambda one: one.costs[cost]):
        if not front or candidate.accuracy > front[-1].accuracy:
            front.append(candidate)
    return tuple(front)


def _run(
    fitness: Fitness,
    costs: CostModel,
    propose: Callable[[dict[Architecture, Candidate]], Iterable[Architecture]],
    generations: int,
    on_generation: Callable[[Generation], None] | None,
) -> SearchResult:
    scored: dict[Architecture, Candidate] = {}
    for number in range(1, generations + 1):
        proposed = list(propose(scored))
        if not proposed:
            break
        accuracies = [float(accuracy) for accuracy in fitness(proposed)]
        if len(accuracies) != len(proposed) or not all(map(math.isfinite, accuracies)):
            raise ValueError(
                f"Expected the fitness to return {len(proposed)} finite accuracies, one for each "
                f"architecture, received {accuracies}."
            )
        new = tuple(
            Candidate(architecture, accuracy, costs.costs(architecture), number)
            for architecture, accuracy in zip(proposed, accuracies, strict=True)
        )
        scored.update((candidate.architecture, candidate) for candidate in new)
        if on_generation is not None:
            best = ranked(scored.values())[0]
            on_generation(Generation(number, new, best, len(scored)))
    return SearchResult(tuple(scored.values()))


def _feasible_set(space: SearchSpace, costs: CostModel, budget: Budget) -> FeasibleSet:
    if costs.space != space:
        raise ValueError(
            f"Expected a cost model of search space {space.name!r}, received one of "
            f"{costs.space.name!r}. Make one of the space that is searched."
        )
    return FeasibleSet(costs, budget)


def _first(
    initial: Iterable[Architecture], feasible: FeasibleSet, count: int
) -> list[Architecture]:
    """Selects the first `count` distinct architectures of `initial` that meet the budget."""
    return [one for one in dict.fromkeys(initial) if one in feasible][:count]


def _check_at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        check_whole_number(count, name, 1)
