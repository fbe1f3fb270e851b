"""Tests of subnets with smaller images: space, costs, search, training and evaluation."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from local_updates import update_eagerly, update_in_graph
from spaces import FEWER_CHOICES

from fedsup_tf.accuracy import build_accuracy
from fedsup_tf.architecture import Architecture
from fedsup_tf.calibrated_accuracy import build_calibrated_accuracy
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.presets import camera_96, camera_224
from fedsup_tf.resizing import area_shares, resize_images, resize_in_graph
from fedsup_tf.search.budget import Budget, CostModel
from fedsup_tf.search.constraints import FeasibleSet, feasible_range, sample_within
from fedsup_tf.search.cost_parts import parts_of, parts_of_space
from fedsup_tf.search.costs import count_macs, count_parameters, map_size
from fedsup_tf.search.latency import Latency, LatencyTable, Measurement
from fedsup_tf.slicing import take
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet

PLAIN = dataclasses.replace(FEWER_CHOICES, image_shape=(12, 18, 1))
SPACE = dataclasses.replace(PLAIN, resolutions=(6, 8, 12))
PREPROCESSING = Preprocessing((128.0,), (64.0,))
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (20, 12, 18, 1), np.uint8)
LABELS = RANDOM.integers(0, 3, 20, np.int32)
SMALL = Architecture((16, 24), (1, 2), (3, 3), 8)
# For tests that trace one graph per resolution.
PLAIN_STAGE = dataclasses.replace(PLAIN, stages=PLAIN.stages[:1])
STAGE = dataclasses.replace(PLAIN_STAGE, resolutions=(8, 12))
SMALL_STAGE = Architecture((16,), (1,), (3,), 8)


def noisy(space):
    """Returns a supernet whose residual branches all have an effect."""
    supernet = Supernet(space)
    rng = np.random.default_rng(1)
    weights = supernet.values_by_name()
    noise = {n: rng.normal(0, 0.2, v.shape).astype(np.float32) for n, v in weights.items()}
    supernet.assign_weights({name: weights[name] + noise[name] for name in weights})
    return supernet


@pytest.fixture(scope="module")
def supernet():
    """Returns a supernet with all resolutions."""
    return noisy(SPACE)


@pytest.fixture(scope="module")
def accuracy(supernet):
    """Returns a function, traced once, that counts any subnet's correct answers."""
    return build_accuracy(supernet, PREPROCESSING)


# The space.


def test_every_architecture_has_a_resolution_and_a_number():
    assert SPACE.size == 3 * PLAIN.size
    assert (SPACE.smallest().resolution, SPACE.largest().resolution) == (6, 12)
    for index in range(SPACE.size):
        architecture = SPACE.at(index)
        assert SPACE.index(architecture) == index
        assert SPACE.decode(SPACE.encode(architecture)) == architecture
        assert Architecture.from_json(architecture.to_json()) == architecture
    assert {SPACE.sample(RANDOM).resolution for _ in range(50)} == {6, 8, 12}
    moved = {SPACE.mutate(SPACE.smallest(), RANDOM, 1.0).resolution for _ in range(50)}
    assert moved == {8, 12}
    assert str(SMALL) == "16x1k3 24x2k3 @8"


def test_a_space_without_resolutions_is_written_as_before():
    fields = json.loads(PLAIN.to_json())
    assert "resolutions" not in fields
    assert SearchSpace.from_json(PLAIN.to_json()) == PLAIN
    assert SearchSpace.from_json(SPACE.to_json()) == SPACE
    assert json.loads(PLAIN.largest().to_json()).keys() == {"widths", "depths", "kernels"}


@pytest.mark.parametrize(
    ("resolutions", "told"),
    [
        ((6, 8), "the height of its images, 12"),
        ((8, 6, 12), "rising"),
        ((6, 6, 12), "rising"),
        ((0, 12), "rising"),
        ((5, 12), r"keep their proportions, received \[5\]"),
        ((6.0, 12), "whole numbers"),
        ("12", "whole numbers"),
    ],
)
def test_resolutions_that_cannot_be_are_refused(resolutions, told):
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(PLAIN, resolutions=resolutions)


@pytest.mark.parametrize(("space", "resolution"), [(SPACE, None), (SPACE, 7), (PLAIN, 12)])
def test_an_architecture_of_another_resolution_is_refused(space, resolution):
    with pytest.raises(ValueError, match="resolution"):
        space.check(dataclasses.replace(SMALL, resolution=resolution))


def test_the_space_of_one_subnet_has_its_pictures():
    space = SPACE.fixed_architecture(SMALL)
    assert space.image_shape == (8, 12, 1)
    assert space.smallest() == space.largest() == SMALL


@pytest.mark.parametrize("make", [camera_96, camera_224])
def test_camera_spaces_hold_nets_of_up_to_four_million_parameters(make):
    space = make(classes=100)
    assert space.size == 165_888
    assert 400_000 < count_parameters(space, space.smallest()) < 600_000
    assert 3_000_000 < count_parameters(space, space.largest()) < 4_000_000
    for resolution in space.resolutions:
        assert min(map_size(space, len(space.stages), resolution)) >= 2
    assert SearchSpace.from_json(space.to_json()) == space
    make(normalization="group")


# Costs and search.


def test_costs_are_those_of_a_space_of_that_image_shape():
    own = dataclasses.replace(PLAIN, image_shape=(8, 12, 1))
    plain = dataclasses.replace(SMALL, resolution=None)
    assert CostModel(SPACE).costs(SMALL) == CostModel(own).costs(plain)
    largest = dataclasses.replace(SMALL, resolution=12)
    assert CostModel(SPACE).costs(largest) == CostModel(PLAIN).costs(plain)
    assert count_macs(SPACE, SMALL) < count_macs(SPACE, largest)
    assert count_parameters(SPACE, SMALL) == count_parameters(SPACE, largest)


def test_limits_are_met_by_smaller_pictures():
    nets = [SPACE.at(index) for index in range(SPACE.size)]
    macs = sorted(count_macs(SPACE, net) for net in nets)
    assert feasible_range(SPACE, "macs") == (macs[0], macs[-1])
    limit = macs[1]
    feasible = FeasibleSet(CostModel(SPACE), Budget(macs=limit))
    found = set()
    while (net := feasible.draw(np.random.default_rng(3), found)) is not None:
        found.add(net)
    assert found == {net for net in nets if count_macs(SPACE, net) <= limit}
    assert {net.resolution for net in found} == {6}
    # So rare that only a random walk finds it.
    wide = dataclasses.replace(
        SPACE, stages=tuple(Stage(f"s{n}", (8, 16, 24), (1, 2, 3), (3, 5)) for n in range(6))
    )
    low, _ = feasible_range(wide, "macs")
    assert sample_within(wide, np.random.default_rng(0), "macs", 0, low) == wide.smallest()


def test_a_latency_table_has_a_row_for_each_resolution(tmp_path):
    parts = parts_of_space(SPACE)
    assert len(parts) == 3 * len(parts_of_space(PLAIN))
    rows = {part: Latency(number, 2 * number) for number, part in enumerate(parts)}
    how = Measurement(1, 1, 0, 0.0, 0.0)
    table = LatencyTable(SPACE, rows, "a machine", how, how)
    table.save(tmp_path / "table.json")
    loaded = LatencyTable.load(tmp_path / "table.json")
    assert loaded.rows == table.rows
    expected = sum(rows[part].infer_ms for part in parts_of(SPACE, SMALL))
    assert loaded.latency(SMALL).infer_ms == expected
    assert CostModel(SPACE, loaded).costs(SMALL)["infer_latency_ms"] == expected


# Pictures.


def test_a_pixel_is_the_mean_of_its_area():
    images = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    expected = images.reshape(2, 2, 2, 3, 2, 3).mean((2, 4), dtype=np.float64)
    np.testing.assert_array_equal(resize_images(images, 2, 3), np.floor(expected + 0.5))
    assert resize_images(images, 4, 6) is images
    np.testing.assert_allclose(area_shares(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], rtol=1e-6)
    for new in (5, 7, 12):
        np.testing.assert_allclose(area_shares(12, new).sum(1), 1, rtol=1e-6)
    white = np.full((1, 12, 18, 1), 255, np.uint8)
    assert (resize_images(white, 8, 12) == 255).all()


def test_a_graph_resizes_as_a_device_does():
    found = tf.function(lambda images: resize_in_graph(images, 8, 12))(tf.constant(IMAGES))
    np.testing.assert_array_equal(found, resize_images(IMAGES, 8, 12))


# Computation.


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [SMALL, SPACE.smallest(), SPACE.largest()])
def test_one_graph_counts_and_a_subnet_alone_counts_the_same(supernet, accuracy, architecture):
    found = accuracy(supernet.values_by_name(), architecture, IMAGES, LABELS, 7)
    subnet = supernet.extract(architecture)
    resized = resize_images(IMAGES, *subnet.space.image_shape[:2])
    right = 0
    for begin in range(0, 20, 7):
        logits = subnet(PREPROCESSING.normalize(resized[begin : begin + 7])).numpy()
        right += int((logits.argmax(1) == LABELS[begin : begin + 7]).sum())
    assert found == right / 20


@pytest.mark.slow
def test_a_calibrated_subnet_is_that_of_the_space_of_its_pictures():
    supernet = noisy(STAGE)
    weights = supernet.values_by_name()
    found = build_calibrated_accuracy(supernet, PREPROCESSING, IMAGES, LABELS)(
        weights, SMALL_STAGE, IMAGES, LABELS
    )
    resized = resize_images(IMAGES, 8, 12)
    plain = Supernet(dataclasses.replace(PLAIN_STAGE, image_shape=(8, 12, 1)))
    net = dataclasses.replace(SMALL_STAGE, resolution=None)
    expected = build_calibrated_accuracy(plain, PREPROCESSING, resized, LABELS)
    assert found == expected(weights, net, resized, LABELS)


@pytest.mark.slow
def test_clients_train_on_pictures_of_their_nets_resolution():
    supernet, training = noisy(STAGE), LocalTraining(epochs=2, batch_size=8)
    inputs = (LABELS, np.array([3, 4], np.int32), 0.1)
    run = update_in_graph(supernet, training, PREPROCESSING)
    for architecture in (SMALL_STAGE, STAGE.largest()):
        weights = take(supernet.values_by_name(), supernet.slices(architecture, nested=True))
        weights = {name: np.asarray(value) for name, value in weights.items()}
        found = run(weights, IMAGES, *inputs, architecture)
        # A supernet that has only the resolution of the resized images.
        shape = STAGE.image_shape_of(architecture)
        plain = Supernet(dataclasses.replace(PLAIN_STAGE, image_shape=shape))
        net = dataclasses.replace(architecture, resolution=None)
        images = resize_images(IMAGES, *shape[:2])
        expected = update_eagerly(plain, weights, net, images, *inputs, training, PREPROCESSING)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        for name, value in expected.delta.items():
            np.testing.assert_allclose(found.delta[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
        assert max(np.abs(value).max() for value in found.delta.values() if value.size) > 1e-3


def test_a_sandwich_trains_within_the_resolution():
    supernet, training = Supernet(STAGE), LocalTraining(batch_size=8, sandwich=3)
    weights = take(supernet.values_by_name(), supernet.slices(SMALL_STAGE, nested=True))
    weights = {name: np.asarray(value) for name, value in weights.items()}
    code, seed = tf.constant(STAGE.encode(SMALL_STAGE)), np.array([3, 4], np.int32)
    inputs = (IMAGES, LABELS, seed, 0.1, training, PREPROCESSING)
    update = update_eagerly(supernet, weights, code, *inputs)
    assert np.isfinite(update.loss)
    assert all(np.isfinite(value).all() for value in update.delta.values())
