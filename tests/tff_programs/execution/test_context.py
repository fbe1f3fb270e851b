"""Tests of subrounds: assignment of clients, equal results, a single compilation."""

import asyncio
import contextlib
import functools
import signal
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from spaces import SPACE

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators import clipping
from tff_programs.aggregators.overlap_mean import OverlapMeanFactory
from tff_programs.aggregators.robust import RobustOverlapMeanFactory
from tff_programs.execution import (
    compilation,
    load_balancing,
    local_worker,
    remote_worker,
    worker_stub,
)
from tff_programs.execution.context import SubroundContext
from tff_programs.execution.contexts import wait_for_local
from tff_programs.execution.streaming import DeferredData
from tff_programs.learning.training_process import build_fedsup_process
from tff_programs.simulation.clients import client_element

SUPERNET = Supernet(SPACE)


@functools.cache
def plain_process():
    """Returns E-FedSup with default settings, built once."""
    return build_fedsup_process(
        SPACE, LocalTraining(batch_size=4), Preprocessing((128.0,), (64.0,))
    )


def test_clients_spread_evenly_by_cost():
    rng = np.random.default_rng(0)
    costs = rng.uniform(1, 10, 50)
    spread = load_balancing.spread(costs, [1, 1, 1])
    assert sorted(client for share in spread for client in share) == list(range(50))
    loads = [costs[share].sum() for share in spread]
    assert max(loads) - min(loads) < 10 / 3


def test_two_clients_are_swapped_where_the_dearest_first_is_not_the_best():
    # Three against two of each would be 2 apart: 7 + 4 + 2 + 2 + 1 and 7 + 4 + 2 + 1 + 1.
    costs = [1, 1, 1, 2, 2, 2, 4, 4, 7, 7]
    spread = load_balancing.spread(costs, [1, 1])
    assert sorted(sum(costs[client] for client in share) for share in spread) == [15, 16]
    assert [len(share) for share in spread] == [5, 5]


def test_equal_costs_spread_by_number_and_capacity():
    assert [len(share) for share in load_balancing.spread([1.0] * 12, [1, 1])] == [6, 6]
    assert [len(share) for share in load_balancing.spread([1.0] * 12, [3, 1])] == [9, 3]
    assert load_balancing.spread([], [1, 1]) == [[], []]
    assert load_balancing.spread([5.0], [1, 1]) == [[0], []]


def test_ten_thousand_clients_spread_without_a_matrix_of_all_pairs():
    costs = np.random.default_rng(1).lognormal(size=10_000)
    tracemalloc.start()
    spread = load_balancing.spread(costs, [1, 1])
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 20e6
    assert [len(share) for share in spread] == [5000, 5000]
    loads = [costs[share].sum() for share in spread]
    assert max(loads) - min(loads) < 1e-3


def test_the_swap_that_is_chosen_is_the_best_of_all_pairs():
    rng = np.random.default_rng(2)
    for _ in range(50):
        costs = rng.integers(1, 9, 8).astype(float)
        spread = load_balancing.spread(costs, [1.0, 1.0])
        loads = [costs[share].sum() for share in spread]
        later = [
            max(loads[0] - costs[a] + costs[b], loads[1] + costs[a] - costs[b])
            for a in spread[0]
            for b in spread[1]
        ]
        assert min(later) >= max(loads) - 1e-9


@pytest.mark.parametrize(
    ("clients", "sizes"), [(10, [10]), (11, [5, 6]), (25, [8, 8, 9]), (0, [0])]
)
def test_subrounds_are_few_and_even(clients, sizes):
    cut = load_balancing.subrounds(range(clients), 10)
    assert [len(run) for run in cut] == sizes
    assert [client for run in cut for client in run] == list(range(clients))


def element(number, made):
    def make():
        made.append(number)
        rng = np.random.default_rng(number)
        return client_element(
            SPACE,
            rng.integers(0, 256, (9, 6, 6, 1)).astype(np.uint8),
            rng.integers(0, 3, 9).astype(np.int32),
            SPACE.sample(rng),
            number,
            (0, number),
        )

    return DeferredData(make)


def run_round(context, process, clients):
    """Runs a round; returns weights, metrics, and the order in which clients' data were made."""
    made = []

    async def compute():
        with tff.framework.get_context_stack().install(tff.program.NativeFederatedContext(context)):
            state = await tff.program.materialize_value(process.initialize())
            output = process.next(state, [element(number, made) for number in range(clients)])
            return await tff.program.materialize_value((output.state, output.metrics))

    state, metrics = asyncio.run(compute())
    return state, metrics["client_work"]["train"], made


@pytest.fixture
def contexts(execution):
    """Returns a factory of contexts on the session's worker, with subrounds of some clients."""
    del execution
    current = tff.framework.get_context_stack().current
    worker = current._context._workers[0]
    told = []
    make = lambda size: SubroundContext([worker], told.append, size)
    return SimpleNamespace(make=make, told=told)


@pytest.mark.parametrize("kind", ["adaptive", "robust"])
def test_subrounds_change_nothing_but_the_order_of_sums(contexts, kind):
    mean = OverlapMeanFactory(SUPERNET)
    aggregation = {
        "adaptive": clipping.ClippingFactory(clipping.adaptive_clipping_norm(), mean),
        "robust": RobustOverlapMeanFactory(SUPERNET, 0.2, 5),
    }[kind]
    process = build_fedsup_process(
        SPACE,
        LocalTraining(batch_size=4),
        Preprocessing((128.0,), (64.0,)),
        aggregation=aggregation,
    )
    whole, whole_metrics, made = run_round(contexts.make(100), process, 5)
    assert made == [0, 1, 2, 3, 4]
    # Subrounds of 2, 1 and 2 clients.
    parts, parts_metrics, made = run_round(contexts.make(2), process, 5)
    assert made == [0, 1, 2, 3, 4]
    assert parts_metrics["clients"] == whole_metrics["clients"] == 5
    assert parts_metrics["loss"] == pytest.approx(whole_metrics["loss"], rel=1e-5)
    for first, second in zip(tf.nest.flatten(parts), tf.nest.flatten(whole), strict=True):
        np.testing.assert_allclose(first, second, 0, 1e-6)


def test_a_computation_is_compiled_once(contexts):
    process, context = plain_process(), contexts.make(2)
    run_round(context, process, 5)
    before = compilation.compile_in_parts.cache_info().misses
    whole = compilation.compile_whole.cache_info().misses
    for clients in (3, 4, 7):
        run_round(context, process, clients)
    assert compilation.compile_in_parts.cache_info().misses == before
    assert compilation.compile_whole.cache_info().misses == whole


def test_fewer_graph_optimizations_than_tffs_change_no_bit(contexts, monkeypatch):
    ours, _, _ = run_round(contexts.make(2), plain_process(), 3)
    monkeypatch.setattr(
        compilation, "compile_whole", tff.backends.native.desugar_and_transform_to_native
    )
    tffs, _, _ = run_round(contexts.make(2), plain_process.__wrapped__(), 3)
    for first, second in zip(tf.nest.flatten(ours), tf.nest.flatten(tffs), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_a_frozen_worker_is_given_up_and_its_clients_computed_elsewhere(monkeypatch):
    monkeypatch.setattr(worker_stub, "PROBE_EVERY_SECONDS", 0.5)
    monkeypatch.setattr(worker_stub, "PROBE_SECONDS", 2.0)
    process = plain_process()
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(local_worker.start(None)) for _ in range(2)]
        workers = [
            remote_worker.RemoteWorker(worker.address, process=worker.process) for worker in started
        ]
        for worker in workers:
            stack.callback(worker.disconnect)
            wait_for_local(worker)
        expected, _, _ = run_round(SubroundContext(workers, print), process, 5)
        told = []
        context = SubroundContext(workers, told.append)
        workers[1].process.send_signal(signal.SIGSTOP)
        actual, metrics, _ = run_round(context, process, 5)
        assert [line for line in told if "is lost (no answer within 2 s)" in line] == told != []
        assert metrics["clients"] == 5
        for first, second in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
            np.testing.assert_allclose(first, second, 0, 1e-6)


def test_a_call_after_all_workers_are_lost_is_one_error():
    @tff.tensorflow.computation
    def one():
        return tf.constant(1)

    with pytest.raises(RuntimeError, match="Expected a worker, all are lost"):
        asyncio.run(SubroundContext([], print).invoke(one, None))
