"""Compares the subnets that a search finds under increasing budgets with simpler choices.

    uv run python experiments/study/budgets.py SUPERNET --out=budgets.json

Searches a trained supernet with budgets of 10, 25, 50 and 100 percent of the largest subnet's
parameters. Prints the test accuracy of the subnet found, of the best subnet of an equally long
random search, and of the most accurate tier's net within the budget, all calibrated, on images that
the search never saw. Budgets below the smallest subnet are skipped.
"""

import json
import sys

from absl import app, flags

from fedsup_tf.files.atomic_write import write_json

_SHARES = flags.DEFINE_list("shares", ["10", "25", "50", "100"], "Budgets in percent.")
_CLIENTS = flags.DEFINE_integer("clients", 0, "Clients that score; 0 for all.", lower_bound=0)
_GENERATIONS = flags.DEFINE_integer("generations", 6, "Generations.", lower_bound=1)
_POPULATION = flags.DEFINE_integer("population", 10, "Candidates of a generation.", lower_bound=2)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the searches.", lower_bound=0)
_OUT = flags.DEFINE_string("out", None, "JSON file to write.", required=True)


def main(argv):
    """Searches under each budget, prints the results and writes them."""
    from fedsup_tf.search.budget import Budget, CostModel
    from fedsup_tf.search.costs import count_parameters
    from tff_programs.learning.evaluation import halve_held_out
    from tff_programs.programs.checkpoint import load_trained
    from tff_programs.programs.subnet_evaluation import calibrated_accuracy
    from tff_programs.programs.subnet_search import SearchSettings, search_subnets
    from tff_programs.programs.training_information import trained_tiers

    trained = load_trained(argv[1])
    space, dataset = trained.supernet.space, trained.data.dataset
    costs = CostModel(space)
    settings = SearchSettings(
        generations=_GENERATIONS.value,
        population=_POPULATION.value,
        parents=_POPULATION.value // 2,
        clients_per_round=_CLIENTS.value,
        seed=_SEED.value,
    )
    calibrated = calibrated_accuracy(trained)
    unseen = ~halve_held_out(dataset.test_labels, trained.data_settings.seed)
    test = dataset.test_images[unseen], dataset.test_labels[unseen]

    def measured(name, architecture):
        return {
            "net": name,
            "architecture": str(architecture),
            "parameters": count_parameters(space, architecture),
            "accuracy": calibrated(trained.weights, architecture, *test),
        }

    tiers = [measured(tier.name, tier.architecture) for tier in trained_tiers(trained.information)]
    largest = count_parameters(space, space.largest())
    rows = []
    for share in map(float, _SHARES.value):
        limit = int(largest * share / 100)
        if limit < count_parameters(space, space.smallest()):
            print(f"{share:g} %: no subnet has at most {limit:,} parameters", flush=True)
            continue
        found = search_subnets(trained, Budget(parameters=limit), costs, settings)
        row = {
            "share": share,
            "parameters": limit,
            "found": measured("found", found.evolution.best.architecture),
            "random": measured("random search", found.random.best.architecture),
            "tier": max(
                (tier for tier in tiers if tier["parameters"] <= limit),
                key=lambda tier: tier["accuracy"],
            ),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    write_json(_OUT.value, {"images": int(unseen.sum()), "tiers": tiers, "budgets": rows})


if __name__ == "__main__":
    sys.exit(app.run(main))
