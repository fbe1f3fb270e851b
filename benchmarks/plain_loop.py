"""Worker process of `round.py` that measures a federated round without TFF.

Each input line is a JSON request: `{"what": "round", "tiers": N}` and `{"what": "step", "code":
[...], "sandwich": M}` for the seconds of a round of N tiers and the milliseconds of a step,
`{"what": "ceiling", "code": [...]}` for the GFLOP/s of the matrix products, or `{"what": "drawn"}`
for the codes of the random nets of a sandwich of four. Each output line is the answer in JSON.
TensorFlow uses one intra-op thread; a round uses one Python thread per core, each with its own
session, and sums in NumPy.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
os.environ["TF_NUM_INTEROP_THREADS"] = "2"

import concurrent.futures
import json
import queue
import sys
import time

import numpy as np
import tensorflow as tf
from round_data import BATCH, PREPROCESSING, SPACE, client_arrays, cohort

from fedsup_tf import slicing
from fedsup_tf.client_update import local_update
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.sandwich import random_subnet
from fedsup_tf.supernet import Supernet

_CORES = len(os.sched_getaffinity(0))


class PlainUpdate:
    """Session that runs `local_update` of any subnet in a graph that is built once."""

    def __init__(self, supernet, sandwich=1, threads=2):
        """Builds the graph, with `threads` inter-op threads."""
        v1 = tf.compat.v1
        shapes = supernet.elastic_shapes(sandwich > 1)
        with tf.Graph().as_default() as graph:
            self._weights = {n: v1.placeholder(tf.float32, s) for n, s in shapes.items()}
            self._code = v1.placeholder(tf.int32, [3 * len(SPACE.stages)])
            self._images = v1.placeholder(tf.uint8, [None, *SPACE.image_shape])
            self._labels = v1.placeholder(tf.int32, [None])
            self._seed = v1.placeholder(tf.int32, [2])
            update = local_update(
                supernet,
                self._weights,
                self._code,
                self._images,
                self._labels,
                self._seed,
                0.1,
                LocalTraining(epochs=1, batch_size=BATCH, sandwich=sandwich),
                PREPROCESSING,
            )
            self._fetches = (update.delta, update.loss)
            self._initialize = v1.global_variables_initializer()
            config = v1.ConfigProto(
                inter_op_parallelism_threads=threads,
                intra_op_parallelism_threads=1,
                use_per_session_threads=threads == 1,
            )
            self._session = v1.Session(graph=graph, config=config)

    def __call__(self, weights, code, images, labels, seed):
        """Returns the client's delta by tensor name, and its loss."""
        feed = {self._weights[name]: value for name, value in weights.items()}
        feed |= {
            self._code: code,
            self._images: images,
            self._labels: labels,
            self._seed: seed,
        }
        self._session.run(self._initialize, feed)
        return self._session.run(self._fetches, feed)


class PlainRound:
    """A round of E-FedSup: extracts subnets, trains them, and averages overlapping updates."""

    def __init__(self, supernet, examples):
        """Creates one session per core, for clients with `examples` images."""
        self._examples = examples
        self._supernet = supernet
        self._weights = supernet.values_by_name()
        self._sessions = queue.SimpleQueue()
        for _ in range(_CORES):
            self._sessions.put(PlainUpdate(supernet))
        self._pool = concurrent.futures.ThreadPoolExecutor(_CORES)

    def __call__(self, tiers):
        """Runs one round of the clients of some tiers from the initial weights."""

        def train(number, architecture):
            boxes = self._boxes(architecture)
            session = self._sessions.get()
            images, labels = client_arrays(number, self._examples)
            subnet = {name: self._weights[name][box] for name, box in boxes.items()}
            delta, _ = session(subnet, SPACE.encode(architecture), images, labels, (0, number))
            self._sessions.put(session)
            return boxes, delta, len(labels)

        total = {name: np.zeros_like(value) for name, value in self._weights.items()}
        coverage = {name: np.zeros_like(value) for name, value in self._weights.items()}
        clients = cohort(tiers)
        for boxes, delta, weight in self._pool.map(train, range(len(clients)), clients):
            for name, box in boxes.items():
                total[name][box] += weight * delta[name]
                coverage[name][box] += weight
        mean = {
            name: np.divide(part, coverage[name], where=coverage[name] > 0)
            for name, part in total.items()
        }
        return {name: self._weights[name] + mean[name] for name in mean}

    def _boxes(self, architecture):
        return {name: part.indices() for name, part in self._supernet.slices(architecture).items()}


def step_ms(supernet, update, code, nested):
    """Returns the milliseconds of one step on one thread, from clients of 1 and 17 batches."""
    architecture = SPACE.decode(code)
    slices = supernet.slices(architecture, nested=nested)
    values = supernet.values_by_name()
    weights = {n: v.numpy() for n, v in slicing.take(values, slices).items()}
    seconds = []
    for batches in (1, 17):
        images, labels = client_arrays(0, batches * BATCH)
        start = time.perf_counter()
        update(weights, code, images, labels, (0, 0))
        seconds.append(time.perf_counter() - start)
    return 1e3 * (seconds[1] - seconds[0]) / 16


def ceiling_gflops(code):
    """Returns the GFLOP/s of the matrix products of a step's pointwise convolutions alone."""
    architecture = SPACE.decode(code)
    shapes, side, width = [], SPACE.image_shape[0] // SPACE.stem_stride, SPACE.stem_width
    for stage, out, depth in zip(
        SPACE.stages, architecture.widths, architecture.depths, strict=True
    ):
        for number in range(depth):
            side //= stage.stride if number == 0 else 1
            shapes.append((BATCH * side * side, width, out))
            width = out
    pairs = []
    for rows, inputs, outputs in shapes:
        x, w, y = (
            tf.random.normal(shape)
            for shape in ((rows, inputs), (inputs, outputs), (rows, outputs))
        )
        pairs += [(x, w, False, False), (y, w, False, True), (x, y, True, False)]

    @tf.function
    def multiply():
        # Products run one after the other, since two at a time would use two threads.
        results = []
        for a, b, ta, tb in pairs:
            with tf.control_dependencies(results[-1:]):
                results.append(tf.reduce_sum(tf.matmul(a, b, ta, tb)[0]))
        return results

    multiply()
    start = time.perf_counter()
    for _ in range(3):
        multiply()
    operations = 3 * 3 * 2 * sum(rows * a * b for rows, a, b in shapes)
    return operations / (time.perf_counter() - start) / 1e9


def drawn_codes(supernet):
    """Returns the codes of the random nets of the 16 steps that `step_ms` measures."""
    codes = []
    seed = tf.random.experimental.stateless_fold_in([0, 0], 0)
    for step in range(1, 17):
        step_seed = tf.random.experimental.stateless_fold_in(seed, step * BATCH + 1)
        for number in range(1, 3):
            student_seed = tf.random.experimental.stateless_fold_in(step_seed, number)
            codes.append(random_subnet(supernet, SPACE.largest(), student_seed).numpy().tolist())
    return codes


def main():
    """Answers requests until the input ends."""
    supernet = Supernet(SPACE)
    updates, plain_round = {}, None
    examples = int(sys.argv[1].partition("=")[2])
    for line in sys.stdin:
        request = json.loads(line)
        if request["what"] == "round":
            plain_round = plain_round or PlainRound(supernet, examples)
            start = time.perf_counter()
            plain_round(request["tiers"])
            answer = time.perf_counter() - start
        elif request["what"] == "step":
            sandwich = request["sandwich"]
            if sandwich not in updates:
                updates[sandwich] = PlainUpdate(supernet, sandwich, threads=1)
            code = np.array(request["code"], np.int32)
            answer = step_ms(supernet, updates[sandwich], code, sandwich > 1)
        elif request["what"] == "drawn":
            answer = drawn_codes(supernet)
        else:
            answer = ceiling_gflops(np.array(request["code"], np.int32))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
