"""Law 2 (docs/laws.md): slices taken and placed back are the same; averages of overlaps."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf import slicing
from fedsup_tf.architecture import Architecture
from fedsup_tf.slicing import Grid, Overlap, Slice
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet

TINY = SearchSpace(
    "tiny",
    image_shape=(5, 4, 2),
    classes=3,
    stem_width=3,
    stem_stride=1,
    stages=(
        Stage("first", (2, 4), (1, 2), (1, 3)),
        Stage("second", (4, 6), (1, 2), (3, 7), 2),
    ),
)
SEEDS = range(5)


@pytest.fixture(scope="module")
def supernet():
    return Supernet(TINY)


def numbered(shapes):
    """Returns tensors of these shapes, all of whose entries differ."""
    tensors, first = {}, 1
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        tensors[name] = np.arange(first, first + size, dtype=np.float32).reshape(shape)
        first += size
    return tensors


def grids_of(shapes, *sent):
    """Returns grids of tensors of these shapes for the slices sent."""
    return {
        name: Grid.of(shape, [slices[name] for slices in sent]) for name, shape in shapes.items()
    }


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name, strict=True)


# ------------------------------------------------------------------- take and place


def test_take_cuts_each_box_out():
    weights = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array([1.0, 2.0])}
    slices = {"a": Slice((1, 0), (2, 3)), "b": Slice((0,), (0,))}
    taken = slicing.take(weights, slices)
    assert_equal(taken, {"a": weights["a"][1:3, :3], "b": weights["b"][:0]})


def test_place_puts_each_value_into_zeros():
    slices = {"a": Slice((1, 0), (1, 2)), "b": Slice((0,), (0,))}
    values = {"a": np.array([[5.0, 6.0]], np.float32), "b": np.zeros(0, np.float32)}
    scattered = slicing.scatter(values, slices, {"a": (3, 3), "b": (2,)})
    assert_equal(
        {name: value.numpy() for name, value in scattered.items()},
        {
            "a": np.array([[0, 0, 0], [5, 6, 0], [0, 0, 0]], np.float32),
            "b": np.zeros(2, np.float32),
        },
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_take_is_the_inverse_of_place(supernet, seed):
    slices = supernet.slices(TINY.sample(np.random.default_rng(seed)))
    delta = numbered({name: part.size for name, part in slices.items()})
    scattered = slicing.scatter(delta, slices, supernet.weight_shapes)
    assert {name: tuple(value.shape) for name, value in scattered.items()} == supernet.weight_shapes
    assert_equal(slicing.take(scattered, slices), delta)
    # Nothing but the delta was scattered.
    for name, value in scattered.items():
        assert np.count_nonzero(value) == delta[name].size


@pytest.mark.parametrize("seed", SEEDS)
def test_slices_nest_from_smallest_through_any_to_largest(supernet, seed):
    rng = np.random.default_rng(seed)
    middle = TINY.sample(rng)
    nested = [
        supernet.slices(architecture, nested=True)
        for architecture in (TINY.smallest(), middle, TINY.largest())
    ]
    for name in supernet.weight_shapes:
        for smaller, larger in itertools.pairwise(slices[name] for slices in nested):
            for axis in range(len(smaller.size) if 0 not in smaller.size else 0):
                assert larger.begin[axis] <= smaller.begin[axis]
                end = smaller.begin[axis] + smaller.size[axis]
                assert end <= larger.begin[axis] + larger.size[axis]


def test_the_largest_takes_everything(supernet):
    weights = numbered(supernet.weight_shapes)
    assert_equal(slicing.take(weights, supernet.slices(TINY.largest(), nested=True)), weights)


# ---------------------------------------------------------------------------- grids


def test_a_grid_has_the_slices_edges():
    grid = Grid.of((5, 4), [Slice((1, 0), (3, 4)), Slice((2, 0), (1, 2)), Slice((0, 3), (0, 1))])
    assert grid == Grid(((0, 1, 2, 3, 4, 5), (0, 2, 4)))
    assert (grid.shape, grid.cells) == ((5, 4), (5, 2))


def test_a_grid_without_slices_is_one_cell():
    assert Grid.of((3, 4), []).cells == (1, 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("nested", [False, True])
def test_cells_spread_to_exactly_what_a_slice_covers(supernet, seed, nested):
    architecture = TINY.sample(np.random.default_rng(seed))
    slices = supernet.slices(architecture, nested=nested)
    ones = {name: np.ones(part.size, np.float32) for name, part in slices.items()}
    expected = slicing.scatter(ones, slices, supernet.weight_shapes)
    for name, grid in supernet.grids.items():
        spread = grid.spread(grid.coverage_of(slices[name], tf.constant(1.0)))
        np.testing.assert_array_equal(spread, expected[name], name, strict=True)


def test_a_supernets_grids_are_coarse(supernet):
    shapes = supernet.weight_shapes
    assert {name: grid.shape for name, grid in supernet.grids.items()} == shapes
    cells = {name: grid.cells for name, grid in supernet.grids.items()}
    assert cells["stem/kernel"] == (1, 1, 1, 1)
    # Kernels of 3 within 7, widths of 2 or 4.
    assert cells["second_0/depthwise/kernel"] == (3, 3, 2, 1)
    assert cells["second_0/pointwise/kernel"] == (1, 1, 2, 2)
    assert cells["head/bias"] == (1,)


# ------------------------------------------------------------- averages of overlaps


def add(first, second):
    return tf.nest.map_structure(tf.add, first, second)


def test_overlap_weighs_an_update_where_it_covers():
    slices = {"a": Slice((0, 1), (2, 1))}
    update = {"a": np.array([[2.0], [-3.0]], np.float32)}
    grids = grids_of({"a": (2, 3)}, slices)
    made = slicing.overlap(update, slices, grids, 10)
    assert_equal(made.total, {"a": np.array([[0, 20, 0], [0, -30, 0]], np.float32)})
    assert_equal(made.coverage, {"a": np.array([[0, 10, 0]], np.float32)})


def test_average_is_over_those_that_cover_an_entry():
    shapes = {"a": (4,), "b": (2,)}
    # Three clients with weights 1, 3 and 0.5 send leading entries; the last one also half of b.
    sent = [
        ([1.0], [], 1.0),
        ([5.0, 7.0], [], 3.0),
        ([9.0, 1.0, 4.0], [8.0], 0.5),
    ]
    boxes = [
        {"a": Slice((0,), (len(first),)), "b": Slice((0,), (len(second),))}
        for first, second, _ in sent
    ]
    grids = grids_of(shapes, *boxes)
    overlaps = slicing.zero_overlap(grids)
    for (first, second, weight), slices in zip(sent, boxes, strict=True):
        update = {"a": np.array(first, np.float32), "b": np.array(second, np.float32)}
        overlaps = add(overlaps, slicing.overlap(update, slices, grids, weight))
    mean = slicing.average(slicing.expand_coverage(overlaps, grids))
    first = [(1 + 3 * 5 + 0.5 * 9) / 4.5, (3 * 7 + 0.5 * 1) / 3.5, 4.0, 0.0]
    np.testing.assert_allclose(mean["a"], first, rtol=1e-6)
    np.testing.assert_array_equal(mean["b"], [8, 0])


def test_average_of_a_centred_and_a_whole_kernel():
    shapes = {"kernel": (3, 3, 2, 1)}
    whole = np.arange(18, dtype=np.float32).reshape(shapes["kernel"])
    centre = np.full((1, 1, 1, 1), 100, np.float32)
    all_of_it = {"kernel": Slice((0,) * 4, whole.shape)}
    middle = {"kernel": Slice((1, 1, 0, 0), (1,) * 4)}
    grids = grids_of(shapes, all_of_it, middle)
    overlaps = add(
        slicing.overlap({"kernel": whole}, all_of_it, grids, 1),
        slicing.overlap({"kernel": centre}, middle, grids, 3),
    )
    expected = whole.copy()
    expected[1, 1, 0, 0] = (whole[1, 1, 0, 0] + 3 * 100) / 4
    np.testing.assert_array_equal(
        slicing.average(slicing.expand_coverage(overlaps, grids))["kernel"], expected
    )


def test_average_is_zero_where_none_covers_or_all_that_do_weigh_nothing():
    shapes = {"a": (3,)}
    slices = {"a": Slice((0,), (2,))}
    update = {"a": np.array([4.0, 5.0], np.float32)}
    grids = grids_of(shapes, slices)
    overlaps = slicing.overlap(update, slices, grids, 0.0)
    mean = slicing.average(slicing.expand_coverage(overlaps, grids))
    np.testing.assert_array_equal(mean["a"], np.zeros(3))
    covered_once = Overlap({"a": tf.constant([6.0, 8.0, 0.0])}, {"a": tf.constant([2.0, 0.0])})
    np.testing.assert_array_equal(
        slicing.average(slicing.expand_coverage(covered_once, grids))["a"], [3, 4, 0]
    )


def test_average_of_whole_updates_is_the_weighted_mean(supernet):
    rng = np.random.default_rng(0)
    slices = supernet.slices(TINY.largest())
    updates = [
        {name: rng.normal(size=n).astype(np.float32) for name, n in supernet.weight_shapes.items()}
        for _ in range(3)
    ]
    overlaps = [
        slicing.overlap(update, slices, supernet.grids, weight)
        for update, weight in zip(updates, (1, 2, 5), strict=True)
    ]
    total = add(add(*overlaps[:2]), overlaps[2])
    mean = slicing.average(slicing.expand_coverage(total, supernet.grids))
    for name in supernet.weight_shapes:
        stacked = [update[name] for update in updates]
        expected = np.average(stacked, axis=0, weights=(1, 2, 5))
        np.testing.assert_allclose(mean[name], expected, atol=1e-6)


# ------------------------------------------------------------- architectures in a graph


@pytest.mark.slow
def test_a_code_in_a_graph_moves_the_same_values_as_an_architecture(supernet):
    shapes = supernet.weight_shapes
    weights = numbered(shapes)

    @tf.function(input_signature=[tf.TensorSpec([6], tf.int32)])
    def there_and_back(code):
        slices = supernet.slices(code)
        taken = slicing.take(weights, slices)
        made = slicing.overlap(taken, slices, supernet.grids, 2.0)
        return taken, made.total, made.coverage

    architectures = [
        TINY.smallest(),
        Architecture((2, 6), (2, 1), (3, 3)),
        Architecture((4, 4), (1, 2), (1, 7)),
        TINY.largest(),
    ]
    for architecture in architectures:
        slices = supernet.slices(architecture)
        taken = slicing.take(weights, slices)
        expected = taken, *slicing.overlap(taken, slices, supernet.grids, 2.0)
        for actual, wanted in zip(there_and_back(TINY.encode(architecture)), expected, strict=True):
            assert_equal(actual, wanted)
