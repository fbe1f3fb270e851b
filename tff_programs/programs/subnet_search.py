"""Search of a trained supernet for the most accurate subnet under a budget, scored by clients."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fedsup_tf.accuracy import build_accuracy
from fedsup_tf.architecture import Architecture
from fedsup_tf.search.budget import Budget, CostModel
from fedsup_tf.search.constraints import FeasibleSet
from fedsup_tf.search.evolution import (
    SearchResult,
    random_search,
    ranked,
    search_architectures,
)
from tff_programs.execution.contexts import local_execution
from tff_programs.learning.evaluation import CandidateEvaluation, Examples, halve_held_out
from tff_programs.programs.checkpoint import TrainedSupernet
from tff_programs.programs.subnet_evaluation import calibrated_accuracy
from tff_programs.programs.training_information import trained_tiers
from tff_programs.reports import search_report
from tff_programs.reports.search_report import Scored

# Independent random number streams.
_EVOLUTION, _RANDOM, _CLIENTS = range(3)


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Settings of a search.

    Attributes:
      generations: Number of generations of the evolution.
      population: Number of candidates scored per generation.
      parents: Number of the best candidates that have children.
      clients_per_round: Number of clients that score; 0 for all. They are drawn once, so that all
        candidates are compared on the same images.
      calibrated: Whether candidates are scored as they are deployed: each is calibrated, with its
        own classifier, on training images of the clients that score. This only needs sums over
        clients, which are computed in this process. Otherwise, clients score the subnets that they
        receive, in rounds computed by worker processes.
      images_per_client: Maximum number of images that each client calibrates a candidate on.
      finalists: Number of the best candidates of each search that are scored again, together with
        the tiers' nets, calibrated as in an exported file: on more images, of all clients. With few
        images, classifiers of many features are worse than they will be. 0 for none; if not
        calibrated, there are none.
      candidates_per_round: Number of subnets that a client receives per round, if not calibrated.
      client_batch_size: Number of images normalized together, if not calibrated.
      clients_at_once: Number of clients computed in parallel, each in its own process, if not
        calibrated; 0 for one per CPU core.
      seed: Seed of the search. The training's seed decides which images the search may use.
    """

    generations: int = 10
    population: int = 16
    parents: int = 8
    clients_per_round: int = 0
    calibrated: bool = True
    images_per_client: int = 30
    finalists: int = 8
    candidates_per_round: int = 8
    client_batch_size: int = 50
    clients_at_once: int = 0
    seed: int = 0


class SubnetSearch(NamedTuple):
    """Results of a search.

    Attributes:
      evolution: The evolutionary search.
      random: A random search with the same number of candidates, for comparison.
      scored: The best subnet of each search, the smallest and the largest subnet, scored on both
        halves: on the search half as candidates are, on the other as finalists are.
      clients: Number of clients that scored.
      images: Number of held-out images that they scored on.
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

    Clients score the candidates on one half of their held-out images; the other half is reserved
    for the report.

    Args:
      trained: The supernet and its clients.
      budget: The limits.
      costs: Computes the costs that the budget limits.
      settings: Settings of the search.
      on_progress: Called with a line of text about each generation.

    Raises:
      ValueError: If no subnet is within the budget, or more clients are requested than there are.
      RuntimeError: If `settings.calibrated` is False and an event loop is already running; await
        `search_subnets_async` instead.
    """
    settings = settings or SearchSettings()
    space, data = trained.supernet.space, trained.data
    # Fails before any work if no subnet is within the budget.
    FeasibleSet(costs, budget)
    # The training's seed decides the halves, so that every search uses the same images.
    is_for_search = halve_held_out(data.dataset.test_labels, trained.data_settings.seed)
    scorers = _draw_clients(settings, len(data))
    search_clients = [Examples(*data.test_examples(client, is_for_search)) for client in scorers]
    images = sum(len(client.labels) for client in search_clients)
    on_progress(
        f"{space.name} ({space.size:,} subnets) on {data.name}, "
        f"{search_report.describe_limits(budget)}: scored by {len(scorers)} clients on {images:,} "
        "held-out images"
    )
    evaluate = _Calibrated if settings.calibrated else _AsReceived
    evaluation = evaluate(trained, settings, scorers)

    def scoring(accuracies):
        # A subnet that both searches find is evaluated only once.
        known = {}

        def fitness(architectures):
            new = [architecture for architecture in architectures if architecture not in known]
            known.update(zip(new, accuracies(new, search_clients), strict=True))
            return [known[architecture] for architecture in architectures]

        return fitness

    fitness = scoring(evaluation.accuracies)

    workers = contextlib.nullcontext()
    if not settings.calibrated:
        workers = local_execution(settings.clients_at_once or None, on_progress)
    with workers:
        evolution, drawn = _search(trained, fitness, budget, costs, settings, on_progress)
        if settings.calibrated and settings.finalists:
            evolution, drawn = _score_finalists(
                (evolution, drawn),
                [tier.architecture for tier in trained_tiers(trained.information)],
                scoring(evaluation.deployed_accuracies),
                settings.finalists,
                on_progress,
            )
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
        reported = evaluation.deployed_accuracies(list(named.values()), report_clients)
    central = evaluation.central(list(named.values()), ~is_for_search)
    scored = tuple(
        Scored(name, architecture, costs.costs(architecture), *shares)
        for (name, architecture), *shares in zip(
            named.items(), searched, reported, central, strict=True
        )
    )
    return SubnetSearch(evolution, drawn, scored, len(scorers), images)


async def search_subnets_async(*arguments, **options) -> SubnetSearch:
    """Runs `search_subnets` in a separate thread, for use in a running event loop."""
    return await asyncio.to_thread(search_subnets, *arguments, **options)


def _search(
    trained, fitness, budget, costs, settings: SearchSettings, on_progress
) -> tuple[SearchResult, SearchResult]:
    space = trained.supernet.space
    # Both searches start from the subnets of the training's tiers and the extremes.
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


def _score_finalists(
    results: Sequence[SearchResult],
    tiers: Sequence[Architecture],
    fitness: Callable[[Sequence[Architecture]], Sequence[float]],
    count: int,
    on_progress: Callable[[str], None],
) -> list[SearchResult]:
    """Scores the best candidates of each search, and the tiers' nets among them, once more."""
    decided = []
    for name, result in zip(("evolution", "random search"), results, strict=True):
        of_tiers = [one for one in result.candidates if one.architecture in tiers]
        chosen = {one.architecture: one for one in ranked(result.candidates)[:count] + of_tiers}
        on_progress(f"{name}: {len(chosen)} finalists, calibrated as in an exported file")
        finalists = tuple(
            one._replace(accuracy=score)
            for one, score in zip(chosen.values(), fitness(list(chosen)), strict=True)
        )
        decided.append(result._replace(finalists=finalists))
        best = decided[-1].best
        on_progress(f"  best {100 * best.accuracy:.1f} % ({best.architecture})")
    return decided


class _AsReceived:
    """Scores candidates as clients receive them, in rounds.

    `accuracies` scores subnets on the examples of all clients together, `deployed_accuracies` as in
    an exported file if that is possible, and `central` likewise on selected images of the test
    part.
    """

    def __init__(self, trained, settings, scorers):
        del scorers
        self._trained, self._batch_size = trained, settings.client_batch_size
        evaluation = CandidateEvaluation(
            trained.supernet.space,
            trained.preprocessing,
            trained.weights,
            settings.client_batch_size,
            settings.candidates_per_round,
        )
        self.accuracies = self.deployed_accuracies = evaluation.accuracies

    def central(self, architectures, is_chosen):
        accuracy = build_accuracy(self._trained.supernet, self._trained.preprocessing)
        test = (*_chosen_test_examples(self._trained, is_chosen), self._batch_size)
        return [accuracy(self._trained.weights, one, *test) for one in architectures]


class _Calibrated:
    """Scores candidates as they are deployed, with the same methods as `_AsReceived`."""

    def __init__(self, trained, settings, scorers):
        self._weights = trained.weights
        self._trained = trained
        self._accuracy = calibrated_accuracy(trained, settings.images_per_client, clients=scorers)
        self._deployed = calibrated_accuracy(trained)

    def accuracies(self, architectures, clients):
        test = _all_examples(clients)
        return [self._accuracy(self._weights, one, *test) for one in architectures]

    def deployed_accuracies(self, architectures, clients):
        test = _all_examples(clients)
        return [self._deployed(self._weights, one, *test) for one in architectures]

    def central(self, architectures, is_chosen):
        test = _chosen_test_examples(self._trained, is_chosen)
        return [self._deployed(self._weights, one, *test) for one in architectures]


def _all_examples(clients: Sequence[Examples]) -> Examples:
    return Examples(*(np.concatenate(part) for part in zip(*clients, strict=True)))


def _chosen_test_examples(trained: TrainedSupernet, is_chosen: np.ndarray) -> Examples:
    dataset = trained.data.dataset
    return Examples(dataset.test_images[is_chosen], dataset.test_labels[is_chosen])


def _draw_clients(settings: SearchSettings, clients: int) -> Sequence[int]:
    count = settings.clients_per_round or clients
    if count > clients:
        raise ValueError(
            f"Expected clients_per_round of at most {clients}, the number of clients, received "
            f"{count}."
        )
    rng = np.random.default_rng([settings.seed, _CLIENTS])
    return sorted(int(client) for client in rng.choice(clients, count, replace=False))
