"""Compares a federated round with alternatives and with the machine's own matrix products.

`uv run python benchmarks/round.py` takes turns and reports medians of --repetitions after one
warm-up:

* ours: a round of E-FedSup with `build_fedsup_process`, ten clients of 500 random images, four
  tiers (the smallest --tiers of them);
* stock: `tff.learning.algorithms.build_weighted_fed_avg` on each tier's net as a static Keras
  model with the clients of that tier, summed over the tiers; in TFF's default context and in ours;
* plain: the same local updates and sums without TFF, one thread per core (`plain_loop.py`);
* each tier's step on one thread, compared with the matrix products of its pointwise convolutions;
* the sandwich step of four nets, compared with the sum of the four nets' own steps;
* saving the state after a round with `RunStateManager` and with TFF's `FileProgramStateManager`;
* the first round, a round of subnets never drawn before, the evaluation of 10,000 images.

It prints a table and writes round.json and round.png to --out.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import asyncio
import collections
import functools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import stock_keras
import tensorflow as tf
import tensorflow_federated as tff
from absl import app, flags, logging
from round_data import BATCH, EXAMPLES, PREPROCESSING, SPACE, TIERS, client_arrays, cohort

from fedsup_tf.accuracy import build_accuracy
from fedsup_tf.files.atomic_write import replace_file, write_json
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.search.costs import count_macs
from fedsup_tf.supernet import Supernet
from tff_programs.execution import worker_command
from tff_programs.execution.contexts import local_execution
from tff_programs.execution.streaming import DeferredData
from tff_programs.learning.training_process import build_fedsup_process
from tff_programs.reports.report import format_table
from tff_programs.simulation.clients import client_cost, client_element
from tff_programs.simulation.run_state import RunStateManager

_REPETITIONS = flags.DEFINE_integer("repetitions", 7, "Measurements of each.", lower_bound=1)
_EXAMPLES = flags.DEFINE_integer("examples", EXAMPLES, "Images of a client.", lower_bound=1)
_TEST_IMAGES = flags.DEFINE_integer("test_images", 10_000, "Images evaluated.", lower_bound=1)
_TIERS = flags.DEFINE_integer(
    "tiers", len(TIERS), "Tiers measured, from the smallest.", lower_bound=1, upper_bound=len(TIERS)
)
_OUT = flags.DEFINE_string("out", "runs/benchmark_round", "Folder of the results.")


class OurRound:
    """A round of E-FedSup in the current context."""

    def __init__(self):
        """Builds the process and its state."""
        self._process = build_fedsup_process(
            SPACE, LocalTraining(epochs=1, batch_size=BATCH), PREPROCESSING
        )
        self.state = _materialize(self._process.initialize)

    def __call__(self, architectures):
        """Runs one round from the initial state."""
        data = [
            DeferredData(
                functools.partial(
                    client_element,
                    SPACE,
                    *client_arrays(n, _EXAMPLES.value),
                    architecture,
                    n,
                    (0, n),
                ),
                client_cost(SPACE, architecture, _EXAMPLES.value),
            )
            for n, architecture in enumerate(architectures)
        ]

        def compute():
            output = self._process.next(self.state, data)
            return output.state, output.metrics

        _materialize(compute)


class StockRound:
    """Federated averaging of one static Keras model on its clients, in the current context."""

    def __init__(self, architecture, clients):
        """Builds the process, its state and the clients' data."""
        spec = (
            tf.TensorSpec([None, *SPACE.image_shape], tf.float32),
            tf.TensorSpec([None], tf.int32),
        )

        def model():
            return tff.learning.models.from_keras_model(
                stock_keras.static_model(SPACE, architecture),
                loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                input_spec=spec,
            )

        self._process = tff.learning.algorithms.build_weighted_fed_avg(
            model,
            client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.1, 0.5),
            server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
        )
        self._state = _materialize(self._process.initialize)
        self._data = []
        for client in clients:
            images, labels = client_arrays(client, _EXAMPLES.value)
            images = ((images - 127.5) / 64).astype(np.float32)
            dataset = tf.data.Dataset.from_tensor_slices((images, labels))
            self._data.append(dataset.shuffle(len(labels), seed=client).batch(BATCH))

    def __call__(self):
        """Runs one round from the initial state."""

        def compute():
            output = self._process.next(self._state, self._data)
            return output.state, output.metrics

        _materialize(compute)


class Plain:
    """Child process that runs `plain_loop.py`."""

    def __init__(self):
        """Starts the process."""
        script = os.path.join(os.path.dirname(__file__), "plain_loop.py")
        self._process = subprocess.Popen(
            [sys.executable, script, f"--examples={_EXAMPLES.value}"],
            env={**os.environ, **worker_command.environment(worker_command.cores())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, **request):
        """Requests one measurement and returns the answer."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        """Stops the process."""
        self._process.stdin.close()
        self._process.wait()


def measured_tiers():
    """Returns the tiers that --tiers selects."""
    return TIERS[: _TIERS.value]


def _materialize(call):
    values = []

    # The coroutine returns nothing, since asyncio would format its result: 0.1 s for a state.
    async def wait():
        values.append(await tff.program.materialize_value(call()))

    asyncio.run(wait())
    return values[0]


def _seconds(call, *arguments):
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


class _In:
    """Wrapper that runs a function in a TFF context."""

    def __init__(self, context, call):
        self._context, self._call = context, call

    def __call__(self, *arguments):
        with tff.framework.get_context_stack().install(self._context):
            return self._call(*arguments)


def measure_rounds(plain):
    """Measures the rounds in turns, the first round, and rounds of subnets never drawn before."""
    ours = tff.framework.get_context_stack().current
    # The context of a program that uses TFF's own function to create one.
    default = tff.program.NativeFederatedContext(
        tff.backends.native.create_async_local_cpp_execution_context()
    )
    start = time.perf_counter()
    round_of_ours = OurRound()
    build = time.perf_counter() - start
    clients = cohort(_TIERS.value)
    first = _seconds(round_of_ours, clients)
    tiers = [tier.architecture for tier in measured_tiers()]
    owners = [[n for n, a in enumerate(clients) if a == tier] for tier in tiers]
    sides = {}
    for name, context in (("stock, TFF's default", default), ("stock, our context", ours)):
        built = _In(
            context, lambda: [StockRound(*pair) for pair in zip(tiers, owners, strict=True)]
        )()
        sides[name] = lambda c=context, rounds=built: sum(_seconds(_In(c, one)) for one in rounds)
    sides["ours"] = lambda: _seconds(round_of_ours, clients)
    sides["plain"] = lambda: plain(what="round", tiers=_TIERS.value)
    times = collections.defaultdict(list)
    for repetition in range(_REPETITIONS.value + 1):
        for name, measure in sides.items():
            seconds = measure()
            if repetition:
                times[name].append(seconds)
        print(f"rounds: {repetition} of {_REPETITIONS.value} repetitions", flush=True)
    medians = {name: statistics.median(values) for name, values in times.items()}
    rng = np.random.default_rng(1)
    fresh = [
        _seconds(round_of_ours, [SPACE.sample(rng) for _ in range(10)])
        for _ in range(_REPETITIONS.value)
    ]
    return {
        "saving": measure_saving(round_of_ours.state),
        "seconds": medians,
        "all_seconds": dict(times),
        "build_seconds": build,
        "first_round_seconds": first,
        "fresh_subnets_seconds": fresh,
        "stock_over_ours": medians["stock, TFF's default"] / medians["ours"],
        "stock_in_our_context_over_ours": medians["stock, our context"] / medians["ours"],
        "ours_over_plain": medians["ours"] / medians["plain"],
    }


def measure_saving(state):
    """Returns the median times of saving a state, measured in turns, and their ratio."""
    times = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        managers = {
            "ours": RunStateManager(os.path.join(folder, "ours"), print),
            "TFF's": tff.program.FileProgramStateManager(
                os.path.join(folder, "stock"), keep_total=2, keep_first=False
            ),
        }
        for version in range(_REPETITIONS.value + 1):
            for name, manager in managers.items():
                seconds = _seconds(asyncio.run, manager.save(state, version))
                if version:
                    times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"seconds": medians, "stock_over_ours": medians["TFF's"] / medians["ours"]}


def measure_steps(plain):
    """Measures each tier's step and the matrix products of its pointwise convolutions in turns."""
    result = {}
    for tier in measured_tiers():
        code = SPACE.encode(tier.architecture).tolist()
        macs = count_macs(SPACE, tier.architecture)
        steps, ceilings = [], []
        for repetition in range(_REPETITIONS.value + 1):
            step = plain(what="step", code=code, sandwich=1)
            ceiling = plain(what="ceiling", code=code)
            if repetition:
                steps.append(step)
                ceilings.append(ceiling)
        step, ceiling = statistics.median(steps), statistics.median(ceilings)
        gflops = 3 * 2 * macs * BATCH / step / 1e6
        result[tier.name] = {
            "step_ms": step,
            "step_gflops": gflops,
            "ceiling_gflops": ceiling,
            "share": gflops / ceiling,
        }
        print(f"step of {tier.name}: {step:.1f} ms", flush=True)
    return result


def measure_sandwich(plain):
    """Measures a step of the largest, the smallest and two random nets, and their own steps."""
    ends = [SPACE.encode(a).tolist() for a in (SPACE.largest(), SPACE.smallest())]
    drawn = plain(what="drawn")
    whole, alone = [], []
    for repetition in range(_REPETITIONS.value + 1):
        step = plain(what="step", code=ends[0], sandwich=4)
        own = [plain(what="step", code=code, sandwich=1) for code in ends]
        own += [2 * statistics.mean(plain(what="step", code=c, sandwich=1) for c in drawn)]
        if repetition:
            whole.append(step)
            alone.append(sum(own))
    step, nets = statistics.median(whole), statistics.median(alone)
    return {"step_ms": step, "own_steps_ms": nets, "ratio": step / nets}


def measure_evaluation():
    """Returns the seconds to evaluate each tier's subnet, after tracing."""
    supernet = Supernet(SPACE)
    accuracy = build_accuracy(supernet, PREPROCESSING)
    weights = supernet.values_by_name()
    images, labels = client_arrays(0, _TEST_IMAGES.value)
    accuracy(weights, TIERS[0].architecture, images[:50], labels[:50], 50)
    return {
        tier.name: _seconds(accuracy, weights, tier.architecture, images, labels, 50)
        for tier in measured_tiers()
    }


def draw(result, path):
    """Plots the seconds of a round and each step's percentage of the matrix products' speed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (rounds, steps) = pyplot.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    seconds = result["rounds"]["seconds"]
    bars = rounds.barh(list(seconds), list(seconds.values()), color="0.6")
    bars[list(seconds).index("ours")].set_color("tab:green")
    rounds.bar_label(bars, fmt="%.2f s", padding=3)
    rounds.set(title="a round", xlabel="seconds", xlim=(0, 1.2 * max(seconds.values())))
    shares = {name: 100 * step["share"] for name, step in result["steps"].items()}
    bars = steps.barh(list(shares), list(shares.values()), color="tab:green")
    steps.bar_label(bars, fmt="%.0f %%", padding=3)
    steps.set(title="a step, of its matrix products' speed", xlabel="%", xlim=(0, 100))
    for axes in (rounds, steps):
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=130))
    pyplot.close(figure)


def rows(result):
    """Yields the rows of the table."""
    rounds, sandwich = result["rounds"], result["sandwich"]
    for name, seconds in rounds["seconds"].items():
        yield f"round, {name}", f"{seconds:.2f} s"
    yield "stock / ours, TFF's default", f"{rounds['stock_over_ours']:.2f}"
    yield "stock / ours, our context", f"{rounds['stock_in_our_context_over_ours']:.2f}"
    yield "ours / plain", f"{rounds['ours_over_plain']:.2f}"
    saving = rounds["saving"]
    for name, seconds in saving["seconds"].items():
        yield f"saving a round's state, {name}", f"{1000 * seconds:.0f} ms"
    yield "saving a round's state, TFF's / ours", f"{saving['stock_over_ours']:.1f}"
    yield "building the process", f"{rounds['build_seconds']:.1f} s"
    yield "first round", f"{rounds['first_round_seconds']:.1f} s"
    fresh = rounds["fresh_subnets_seconds"]
    yield "rounds of fresh subnets, largest", f"{max(fresh):.2f} s"
    for name, step in result["steps"].items():
        told = (
            f"{step['step_ms']:.1f} ms, {100 * step['share']:.0f} % of {step['ceiling_gflops']:.0f}"
        )
        yield f"step of {name}", f"{told} GFLOP/s"
    yield "sandwich step of 4 / own steps", f"{sandwich['ratio']:.3f}"
    for name, seconds in result["evaluation_seconds"].items():
        yield f"evaluation of {name}", f"{seconds:.2f} s"


def main(argv):
    """Measures, prints the table and writes the results."""
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags alone, received {argv[1:]}.")
    logging.set_verbosity(logging.ERROR)
    plain = Plain()
    with local_execution():
        result = {"rounds": measure_rounds(plain)}
    result["steps"] = measure_steps(plain)
    result["sandwich"] = measure_sandwich(plain)
    plain.close()
    result["evaluation_seconds"] = measure_evaluation()
    result["machine"] = f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"
    print()
    print(format_table([("what", "measured"), *rows(result)]))
    os.makedirs(_OUT.value, exist_ok=True)
    write_json(os.path.join(_OUT.value, "round.json"), result)
    draw(result, os.path.join(_OUT.value, "round.png"))
    print(f"In {_OUT.value}: round.json, round.png")


if __name__ == "__main__":
    app.run(main)
