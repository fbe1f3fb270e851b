"""Search of a trained supernet for the most accurate subnet under a budget, scored by clients."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fedsup_tf.accuracy import build_accuracy
from fedsup_tf.search.budget import Budget, CostModel
from fedsup_tf.search.constraints import FeasibleSet
from fedsup_tf.search.evolution import SearchResult, random_search, search_architectures
from tff_programs.execution.contexts import local_execution
from tff_programs.learning.evaluation import CandidateEvaluation, Examples, halve_held_out
from tff_programs.programs.checkpoint import TrainedSupernet
from tff_programs.programs.training_information import trained_tiers
from tff_programs.reports import search_report
from tff_programs.reports.search_report import Scored

# Streams of random numbers that do not depend on each other.
_EVOLUTION, _RANDOM, _CLIENTS = range(3)


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Settings of a search.

    Attributes:
      generations: Generations of the evolution.
      population: Candidates scored in a generation.
      parents: How many of the best have children.
      clients_per_round: Clients that score; 0 for all. They are drawn once, so that all candidates
        are compared on the same images.
      candidates_per_round: Subnets that a client receives in a round.
      client_batch_size: Images normalized together.
      clients_at_once: Clients computed side by side, a process each; 0 for one a core.
      seed: Decides the search; which images it may use is decided by the training's seed.
    """

    generations: int = 10
    population: int = 16
    parents: int = 8
    clients_per_round: int = 0
    candidates_per_round: int = 8
    client_batch_size: int = 50
    clients_at_once: int = 0
    seed: int = 0


class SubnetSearch(NamedTuple):
    """Results of a search.

    Attributes:
      evolution: The evolutionary search.
      random: A random search of as many candidates, for comparison.
      scored: The best of both, the smallest and the largest subnet, scored on both halves.
      clients: Number of clients that scored.
      images: Number of held-out images they scored on.
    """

    evolution: SearchResult
    random: SearchResult
    scored: tuple[Scored, ...]
    clients: int
    images: int


def search_subnets(
    trained: TrainedSupernet,
    budget: Budget,
    costs: CostModel,
    settings: SearchSettings | None = None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> SubnetSearch:
    """Searches for the most accurate subnet under a budget.

    Candidates are scored by clients on one half of their held-out images; the other half is for the
    scores that are returned.

    Args:
      trained: The supernet and its clients.
      budget: The limits.
      costs: The costs that the limits are about.
      settings: Settings of the search.
      on_progress: Called with a line of text about each generation.

    Raises:
      ValueError: If no subnet is within the budget, or more clients are asked than there are.
      RuntimeError: If an event loop is running already; await `search_subnets_async` there.
    """
    settings = settings or SearchSettings()
    space, data = trained.supernet.space, trained.data
    # Fails before any work if no subnet is within the budget.
    FeasibleSet(costs, budget)
    # The halves are those of the training's seed: another search uses the same images.
    is_for_search = halve_held_out(data.dataset.test_labels, trained.data_settings.seed)
    voters = _draw_clients(settings, len(data))
    search_clients = [Examples(*data.test_examples(client, is_for_search)) for client in voters]
    images = sum(len(client.labels) for client in search_clients)
    on_progress(
        f"{space.name} ({space.size:,} subnets) on {data.name}, "
        f"{search_report.describe_limits(budget)}: scored by {len(voters)} clients on {images:,} "
        "held-out images"
    )
    evaluation = CandidateEvaluation(
        space,
        trained.preprocessing,
        trained.weights,
        settings.client_batch_size,
        settings.candidates_per_round,
    )
    known = {}

    def fitness(architectures):
        # A subnet that two searches come upon is evaluated for both at once.
        new = [architecture for architecture in architectures if architecture not in known]
        known.update(zip(new, evaluation.accuracies(new, search_clients), strict=True))
        return [known[architecture] for architecture in architectures]

    with local_execution(settings.clients_at_once or None, on_progress):
        evolution, drawn = _search(trained, fitness, budget, costs, settings, on_progress)
        named = {
            "evolution": evolution.best.architecture,
            "random search": drawn.best.architecture,
            "smallest": space.smallest(),
            "largest": space.largest(),
        }
        searched = fitness(list(named.values()))
        report_clients = [
            Examples(*data.test_examples(client, ~is_for_search)) for client in range(len(data))
        ]
        reported = evaluation.accuracies(list(named.values()), report_clients)
    central = _central(trained, named.values(), ~is_for_search, settings.client_batch_size)
    scored = tuple(
        Scored(name, architecture, costs.costs(architecture), *shares)
        for (name, architecture), *shares in zip(
            named.items(), searched, reported, central, strict=True
        )
    )
    return SubnetSearch(evolution, drawn, scored, len(voters), images)


async def search_subnets_async(*arguments, **options) -> SubnetSearch:
    """Runs `search_subnets` beside a running event loop, in a thread of its own."""
    return await asyncio.to_thread(search_subnets, *arguments, **options)


def _search(
    trained, fitness, budget, costs, settings: SearchSettings, on_progress
) -> tuple[SearchResult, SearchResult]:
    space = trained.supernet.space
    # Both begin with the subnets that were trained as they are.
    initial = [tier.architecture for tier in trained_tiers(trained.information)]
    initial += [space.smallest(), space.largest()]

    def tell_generations():
        line = search_report.progress_lines()
        return lambda generation: on_progress(line(generation))

    on_progress("evolution")
    evolution = search_architectures(
        space,
        fitness,
        budget,
        costs,
        np.random.default_rng([settings.seed, _EVOLUTION]),
        generations=settings.generations,
        population=settings.population,
        parents=settings.parents,
        initial=initial,
        on_generation=tell_generations(),
    )
    on_progress("random search of as many candidates")
    drawn = random_search(
        space,
        fitness,
        budget,
        costs,
        np.random.default_rng([settings.seed, _RANDOM]),
        evaluations=len(evolution.candidates),
        population=settings.population,
        initial=initial,
        on_generation=tell_generations(),
    )
    return evolution, drawn


def _central(
    trained: TrainedSupernet, architectures, is_chosen: np.ndarray, batch_size: int
) -> list[float]:
    """Returns each subnet's accuracy on the chosen images of the test part."""
    accuracy = build_accuracy(trained.supernet, trained.preprocessing)
    dataset = trained.data.dataset
    images, labels = dataset.test_images[is_chosen], dataset.test_labels[is_chosen]
    return [
        accuracy(trained.weights, architecture, images, labels, batch_size)
        for architecture in architectures
    ]


def _draw_clients(settings: SearchSettings, clients: int) -> Sequence[int]:
    count = settings.clients_per_round or clients
    if count > clients:
        raise ValueError(
            f"Expected clients_per_round of at most {clients}, the number of clients, received "
            f"{count}."
        )
    rng = np.random.default_rng([settings.seed, _CLIENTS])
    return sorted(int(client) for client in rng.choice(clients, count, replace=False))
