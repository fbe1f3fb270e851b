"""Measures the accuracy on digits with each aggregator, with and without poisoned clients.

`uv run python benchmarks/aggregation.py` trains the supernet of `fedsup demo` once per aggregator,
with the same clients, subnets, shuffles and initial weights, and prints the test accuracy of the
four tiers. In the poisoned runs, two of the 20 clients, one of the smallest and one of the largest
tier, send their updates multiplied by -10. It writes aggregation.json and aggregation.png to --out.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import contextlib
import time

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from absl import app, flags, logging

from fedsup_tf.accuracy import build_accuracy
from fedsup_tf.data.datasets import load_dataset
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.files.atomic_write import replace_file, write_json
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.presets import digits_small
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators import clipping
from tff_programs.aggregators.compression import EightBitUpload
from tff_programs.aggregators.overlap_mean import OverlapMeanFactory
from tff_programs.aggregators.padded_overlap_mean import secure_overlap_mean
from tff_programs.aggregators.privacy import PrivacyAccount, PrivateOverlapMeanFactory
from tff_programs.aggregators.robust import RobustOverlapMeanFactory
from tff_programs.execution.contexts import local_execution
from tff_programs.learning.message_size import traffic_counter
from tff_programs.learning.schedule import build_schedule
from tff_programs.learning.training_process import build_fedsup_process
from tff_programs.reports.report import format_table
from tff_programs.simulation.clients import ClientData
from tff_programs.simulation.in_memory import simulate
from tff_programs.simulation.round_plan import Assignment
from tff_programs.simulation.tiers import default_tiers, tier_accuracies

_ROUNDS = flags.DEFINE_integer("rounds", 60, "Rounds of each run.", lower_bound=1)
_ONLY = flags.DEFINE_list("only", [], "Names of the cases to run; all by default.")
_OUT = flags.DEFINE_string("out", "runs/benchmark_aggregation", "Folder of the results.")

_CLIENTS, _ASKED = 20, 10
_SPACE = digits_small()
_SUPERNET = Supernet(_SPACE)
_CLIPPING_NORM = 1.0
_NOISE_MULTIPLIER = 0.03


class PoisonedFactory(tff.aggregators.WeightedAggregationFactory):
    """Factory that multiplies the updates of some clients before `inner` aggregates all updates."""

    def __init__(self, clients, factor, inner):
        """Creates the factory."""
        self._clients, self._factor, self._inner = clients, factor, inner

    def create(self, value_type, weight_type):
        """Creates the process for a `SubnetUpdate` type and a float32 weight."""
        inner = self._inner.create(value_type, weight_type)

        @tff.tensorflow.computation(value_type)
        def poison(update):
            poisoned = tf.reduce_any(tf.equal(update.client, list(self._clients)))
            factor = tf.where(poisoned, self._factor, 1.0)
            return update._replace(delta=tuple(part * factor for part in update.delta))

        @tff.federated_computation(
            inner.initialize.type_signature.result,
            tff.FederatedType(value_type, tff.CLIENTS),
            tff.FederatedType(weight_type, tff.CLIENTS),
        )
        def next_fn(state, updates, weights):
            return inner.next(state, tff.federated_map(poison, updates), weights)

        return tff.templates.AggregationProcess(inner.initialize, next_fn)


class MadeData(ClientData):
    """Client data that is materialized eagerly, for contexts that do not support deferred data."""

    def select(self, plan):
        """Returns the materialized data of a round's clients."""
        return [data.make() for data in super().select(plan)]


def cases(poisoned):
    """Yields the name, the aggregation factory and the weighting of each case."""

    def clipped(norm, inner):
        return clipping.ClippingFactory(norm, inner)

    mean = OverlapMeanFactory(_SUPERNET)
    # At most 2 of the 10 clients of a round are poisoned.
    robust = RobustOverlapMeanFactory(_SUPERNET, 0.2, _ASKED)
    private = PrivateOverlapMeanFactory(_SUPERNET, _CLIPPING_NORM, _NOISE_MULTIPLIER, (1, 2))
    yield "mean", mean, "examples"
    yield "diluted mean", OverlapMeanFactory(_SUPERNET, "diluted"), "examples"
    yield "fixed clipping", clipped(_CLIPPING_NORM, mean), "examples"
    yield "adaptive clipping", clipped(clipping.adaptive_clipping_norm(), mean), "examples"
    zeroed = clipping.ZeroingFactory(clipping.adaptive_zeroing_norm(), mean)
    yield "adaptive zeroing", zeroed, "examples"
    yield "8 bits", OverlapMeanFactory(_SUPERNET, upload=EightBitUpload()), "examples"
    yield "robust mean", robust, "examples"
    yield "uniform weights", mean, "uniform"
    yield "private", private, "uniform"
    yield "secure sum", secure_overlap_mean(_SUPERNET, 1e4), "examples"
    for name, factory in (
        ("mean", mean),
        ("adaptive clipping", clipped(clipping.adaptive_clipping_norm(), mean)),
        ("adaptive zeroing", zeroed),
        ("robust mean", robust),
    ):
        yield f"poisoned: {name}", PoisonedFactory(poisoned, -10.0, factory), "examples"


def train(factory, weighting, source, rounds, accuracy, tiers):
    """Trains from initial weights and returns the simulation."""
    dataset = source.data.dataset
    process = build_fedsup_process(
        _SPACE,
        LocalTraining(epochs=3, batch_size=16),
        dataset.preprocessing,
        build_schedule("cosine", 0.1, rounds),
        aggregation=factory,
        weighting=weighting,
    )

    def evaluate(weights):
        images, labels = dataset.test_images, dataset.test_labels
        return tier_accuracies(accuracy, weights, tiers, images, labels, 50)

    return simulate(
        process,
        source,
        rounds,
        count_bytes=traffic_counter(_SUPERNET),
        evaluate=evaluate,
        evaluate_every=max(1, rounds // 12),
    )


@contextlib.contextmanager
def test_execution():
    """Installs TFF's test context, the only one that supports secure sums."""
    before = tff.framework.get_context_stack().current
    context = tff.backends.test.create_async_test_cpp_execution_context()
    tff.framework.set_default_context(tff.program.NativeFederatedContext(context))
    try:
        yield
    finally:
        tff.framework.set_default_context(before)


def draw(results, path):
    """Plots the mean accuracy of the four tiers over rounds, with and without poisoned clients."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained", sharey=True)
    colours = pyplot.get_cmap("tab10")
    for place, (title, poisoned) in enumerate((("honest clients", False), ("2 of 20", True))):
        chosen = {n: r for n, r in results.items() if n.startswith("poisoned") == poisoned}
        for number, (name, result) in enumerate(chosen.items()):
            label = f"{name.removeprefix('poisoned: ')}  {result['mean_accuracy']:.1f} %"
            axes[place].plot(*result["curve"], label=label, color=colours(number % 10))
        axes[place].set(xlabel="round", title=title if not poisoned else f"{title} poisoned")
        axes[place].legend(frameon=False, fontsize=8)
        axes[place].grid(alpha=0.25)
        axes[place].spines[["top", "right"]].set_visible(False)
    axes[0].set(ylabel="test accuracy, mean of the tiers, %", ylim=(0, 100))
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=130))
    pyplot.close(figure)


def main(argv):
    """Runs the cases and prints the table."""
    logging.set_verbosity(logging.ERROR)
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags alone, received {argv[1:]}.")
    dataset = load_dataset("digits")
    data = FederatedDataset.divide(dataset, "shard", _CLIENTS, classes_per_client=5)
    tiers = default_tiers(_SPACE, 0)
    assignment = Assignment(
        _SPACE, tiers, _CLIENTS, _ASKED, redraw=False, cohorts="random", sandwich=True
    )
    tier_of_clients = assignment.tier_of_clients()
    poisoned = [int(np.flatnonzero(tier_of_clients == tier)[0]) for tier in (0, len(tiers) - 1)]
    accuracy = build_accuracy(_SUPERNET, dataset.preprocessing)
    known = [name for name, *_ in cases(poisoned)]
    if unknown := set(_ONLY.value) - set(known):
        raise app.UsageError(f"--only: expected {', '.join(known)}, received {sorted(unknown)}.")

    results = {}
    rows = [("aggregation", "measured", *(tier.name for tier in tiers), "mean", "seconds")]
    for name, factory, weighting in cases(poisoned):
        if _ONLY.value and name not in _ONLY.value:
            continue
        start = time.monotonic()
        secure = name == "secure sum"
        source = (MadeData if secure else ClientData)(data, assignment)
        with test_execution() if secure else local_execution():
            simulation = train(factory, weighting, source, _ROUNDS.value, accuracy, tiers)
        seconds = time.monotonic() - start
        accuracies = [100 * simulation.accuracies[tier.name] for tier in tiers]
        measured = _measured(simulation.metrics)
        if name == "private":
            measured |= _epsilons(_ROUNDS.value)
        results[name] = {
            "accuracies": accuracies,
            "mean_accuracy": float(np.mean(accuracies)),
            "measured": measured,
            "seconds": seconds,
            "curve": _curve(simulation.metrics, tiers),
        }
        told = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in measured.items())
        figures = [f"{value:.1f}" for value in (*accuracies, np.mean(accuracies))]
        rows.append((name, told, *figures, f"{seconds:.0f}"))
        print(f"{name}: {', '.join(figures)} %; {told or 'nothing measured'}", flush=True)
    print()
    print(format_table(rows))
    os.makedirs(_OUT.value, exist_ok=True)
    write_json(os.path.join(_OUT.value, "aggregation.json"), results)
    draw(results, os.path.join(_OUT.value, "aggregation.png"))
    print(f"In {_OUT.value}: aggregation.json, aggregation.png")


def _epsilons(rounds):
    """Returns epsilon here, and for 1,000 of 100,000 clients with equal noise on the mean."""
    epsilons = {}
    for asked, clients in ((_ASKED, _CLIENTS), (1_000, 100_000)):
        multiplier = _NOISE_MULTIPLIER * asked / _ASKED
        # Coverage shows which tiers took part, so sampling does not count.
        account = PrivacyAccount(multiplier, 0.1 / clients, asked, clients, sampled=False)
        epsilons[f"epsilon_{asked}_of_{clients}"] = account.epsilon_after(rounds)
    return epsilons


def _measured(metrics):
    """Returns the mean over the rounds of each of the aggregator's metrics."""
    names = ("clipping_norm", "clipped", "zeroed", "compression_error", "set_aside")
    return {
        name: float(np.mean([row[name] for row in metrics])) for name in names if name in metrics[0]
    }


def _curve(metrics, tiers):
    rounds, means = [], []
    for number, row in enumerate(metrics, 1):
        values = [row.get(f"accuracy/{tier.name}") for tier in tiers]
        if None not in values:
            rounds.append(number)
            means.append(100 * float(np.mean(values)))
    return rounds, means


if __name__ == "__main__":
    app.run(main)
