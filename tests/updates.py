"""Client updates for tests of aggregators, and functions that aggregate them."""

import functools
from collections import OrderedDict

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from spaces import FEWER_CHOICES as SPACE

from fedsup_tf import slicing
from fedsup_tf.supernet import Supernet
from tff_programs.types import SubnetUpdate, tensors_type

SUPERNET = Supernet(SPACE)
SHAPES = SUPERNET.weight_shapes


class Update:
    """A client's update: random entries with standard deviation `size`."""

    def __init__(self, client, architecture, size=1.0, examples=10.0):
        rng = np.random.default_rng(client)
        self.client, self.architecture, self.examples = client, architecture, examples
        self.loss = 0.5 + client
        self.slices = SUPERNET.slices(architecture)
        self.delta = OrderedDict(
            (name, (size * rng.standard_normal(part.size)).astype(np.float32))
            for name, part in self.slices.items()
        )

    def norm(self):
        return np.sqrt(
            sum(np.sum(np.square(part, dtype=np.float64)) for part in self.delta.values())
        )

    def placed(self):
        placed = slicing.scatter(self.delta, self.slices, SHAPES)
        return {name: value.numpy() for name, value in placed.items()}

    def mask(self):
        ones = {name: np.ones_like(part) for name, part in self.delta.items()}
        placed = slicing.scatter(ones, self.slices, SHAPES)
        return {name: value.numpy() > 0 for name, value in placed.items()}


def cohort(count=4):
    """Returns updates of the smallest, the largest and random subnets."""
    rng = np.random.default_rng(0)
    ends = [SPACE.smallest(), SPACE.largest()]
    architectures = ends + [SPACE.sample(rng) for _ in range(count - 2)]
    return [Update(n, a, examples=10.0 + n) for n, a in enumerate(architectures[:count])]


def overlap_mean(updates, weights=None, divisor="coverage"):
    """Computes each entry's mean update in NumPy, and the entries that any client covers."""
    weights = [update.examples for update in updates] if weights is None else weights
    mean, covered = {}, {}
    placed = [update.placed() for update in updates]
    masks = [update.mask() for update in updates]
    for name in SHAPES:
        total = sum(w * p[name].astype(np.float64) for w, p in zip(weights, placed, strict=True))
        coverage = sum(w * m[name] for w, m in zip(weights, masks, strict=True))
        covered[name] = coverage > 0
        weight = sum(weights) if divisor == "diluted" else coverage
        mean[name] = np.where(covered[name], total / np.maximum(weight, 1e-30), 0.0)
    return mean, covered


_VALUE_TYPE = tff.SequenceType(
    OrderedDict(
        delta=tensors_type(SUPERNET.elastic_shapes(False)),
        architecture=np.int32,
        client=np.int32,
        examples=np.float32,
        loss=np.float32,
    )
)


def element(update):
    """Returns a client's update as the client data of a federated computation."""
    return tf.data.Dataset.from_tensors(
        OrderedDict(
            delta=tuple(update.delta.values()),
            architecture=np.int32(SPACE.index(update.architecture)),
            client=np.int32(update.client),
            examples=np.float32(update.examples),
            loss=np.float32(update.loss),
        )
    )


@functools.cache
def build(factory):
    """Returns the aggregator's `initialize` and a computation of one round, built only once."""

    @tff.tensorflow.computation(_VALUE_TYPE)
    def open_update(data):
        fields = data.get_single_element()
        delta = tuple(
            tf.ensure_shape(part, shape)
            for part, shape in zip(
                fields["delta"], SUPERNET.elastic_shapes(False).values(), strict=True
            )
        )
        return SubnetUpdate(**(fields | {"delta": delta}))

    @tff.tensorflow.computation(open_update.type_signature.result)
    def weigh(update):
        return update.examples

    process = factory.create(open_update.type_signature.result, tff.TensorType(np.float32))

    @tff.federated_computation(
        process.initialize.type_signature.result, tff.FederatedType(_VALUE_TYPE, tff.CLIENTS)
    )
    def aggregate(state, data):
        updates = tff.federated_map(open_update, data)
        output = process.next(state, updates, tff.federated_map(weigh, updates))
        return output.state, output.result, output.measurements

    return process.initialize, aggregate


class Result:
    """Result of a round: `delta` and `covered` by tensor name, measurements and the next state."""

    def __init__(self, state, mean, measurements):
        self.state = state
        self.delta = dict(zip(SHAPES, map(np.asarray, mean.delta), strict=True))
        self.covered = dict(zip(SHAPES, map(np.asarray, mean.covered), strict=True))
        self.measurements = measurements


def run(execution, factory, updates, rounds=1):
    """Aggregates the same updates for several rounds; returns the result of each round."""
    initialize, aggregate = build(factory)
    state = execution(initialize)
    results = []
    for _ in range(rounds):
        data = [element(update) for update in updates]
        state, mean, measurements = execution(lambda s=state, d=data: aggregate(s, d))
        results.append(Result(state, mean, measurements))
    return results


def assert_equal(delta, expected, tolerance=1e-5):
    """Asserts that every tensor is close to the expected one."""
    for name in SHAPES:
        np.testing.assert_allclose(delta[name], expected[name], 0, tolerance, err_msg=name)
