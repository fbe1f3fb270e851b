"""Tests of frozen mean squares: folding, convergence, and files."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf import calibration, logistic_regression
from fedsup_tf.architecture import Architecture
from fedsup_tf.calibrated_accuracy import build_calibrated_accuracy
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet
from tff_programs.learning import calibration as federated_calibration
from tff_programs.programs.calibration_files import read_calibration, write_calibration
from tff_programs.simulation.clients import client_element

SPACE = SearchSpace(
    name="tiny",
    image_shape=(8, 8, 1),
    classes=4,
    stem_width=8,
    stem_stride=1,
    stages=(Stage("a", (8, 16), (1, 2), (3, 5), 2),),
)
PREPROCESSING = Preprocessing((100.0,), (60.0,))
# Normalizations in the largest net: the stem's, and two per block.
LAYERS = 5


def random_net(space=SPACE, seed=0):
    """Returns a net whose normalizations all differ from their initial values."""
    net = Supernet(space, seed)
    rng = np.random.default_rng(seed)
    net.assign_weights(
        {
            name: (variable + rng.normal(0, 0.3, variable.shape)).numpy()
            for name, variable in net.weights_by_name().items()
        }
    )
    return net


NET = random_net()
WEIGHTS = {name: tf.constant(value.numpy()) for name, value in NET.weights_by_name().items()}
SHAPES = calibration.mean_square_shapes({name: value.shape for name, value in WEIGHTS.items()})
IMAGES = np.random.default_rng(1).integers(0, 256, (23, 8, 8, 1), np.uint8)
LABELS = np.arange(23, dtype=np.int32) % 4
ANY = {
    name: np.random.default_rng(2).uniform(0.5, 2, shape).astype(np.float32)
    for name, shape in SHAPES.items()
}


@tf.function(autograph=False)
def traced_sums(weights, images, batch_size):
    return calibration.sum_mean_squares(NET, weights, images, batch_size, PREPROCESSING)


def measured(frozen=None, batch_size=23, images=IMAGES):
    """Measures mean squares over the images, in the net with `frozen` mean squares if given."""
    weights = {**WEIGHTS, **{name: tf.constant(value) for name, value in (frozen or {}).items()}}
    sums = traced_sums(weights, tf.constant(images), tf.constant(batch_size))
    return {name: value.numpy() / np.float32(len(images)) for name, value in sums.items()}


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max(np.abs(first[name] / second[name] - 1).max() for name in first)


# The frozen net.


def test_a_folded_net_computes_what_the_frozen_one_does():
    images = PREPROCESSING.normalize(IMAGES)
    frozen = NET.forward({**WEIGHTS, **ANY}, images).numpy()
    folded_weights = calibration.fold(WEIGHTS, ANY)
    folded = NET.forward(folded_weights, images).numpy()
    np.testing.assert_allclose(folded, frozen, rtol=1e-5, atol=1e-5)
    assert np.abs(frozen - NET.forward(WEIGHTS, images).numpy()).max() > 0.01
    # Only the bias remains of a normalization.
    vectors = {name.rpartition("/")[2] for name in folded_weights if "_norm/" in name}
    assert vectors == {"bias"}


def test_frozen_logits_of_an_image_do_not_depend_on_the_images_beside_it():
    images = PREPROCESSING.normalize(IMAGES)
    for weights in ({**WEIGHTS, **ANY}, calibration.fold(WEIGHTS, ANY)):
        together = NET.forward(weights, images).numpy()
        for begin, end in ((0, 1), (22, 23), (3, 10)):
            alone = NET.forward(weights, images[begin:end]).numpy()
            # Matrix products of other sizes are summed in another order.
            np.testing.assert_allclose(alone, together[begin:end], rtol=1e-5, atol=2e-6)
        # In batches of equal size, results are identical to the bit.
        other = tf.concat([images[:5], tf.zeros_like(images[5:])], 0)
        np.testing.assert_array_equal(NET.forward(weights, other)[:5], together[:5])
    # The net as trained depends on the other images in the batch.
    together = NET.forward(WEIGHTS, images).numpy()
    assert np.abs(NET.forward(WEIGHTS, images[:1]).numpy() - together[:1]).max() > 0.01


# Mean squares.


@pytest.mark.parametrize("batch_size", [1, 4, 7, 22, 50])
def test_frozen_mean_squares_are_the_populations_whatever_the_batch(batch_size):
    assert largest_difference(measured(ANY, batch_size), measured(ANY)) < 1e-5


def test_without_frozen_ones_they_depend_on_the_batch():
    difference = {name: value for name, value in measured(None, 4).items()}
    assert largest_difference(difference, measured(None, 23)) > 1e-3
    # The stem precedes all normalizations.
    name = "stem_norm/mean_square"
    np.testing.assert_allclose(difference[name], measured(None)[name], rtol=1e-5)


def test_the_stems_is_the_mean_of_squares_by_hand():
    maps = tf.nn.conv2d(PREPROCESSING.normalize(IMAGES), WEIGHTS["stem/kernel"], 1, "SAME").numpy()
    expected = np.square(maps - WEIGHTS["stem_norm/alpha"].numpy()).mean((0, 1, 2))
    np.testing.assert_allclose(measured(ANY)["stem_norm/mean_square"], expected, rtol=1e-5)


def test_repeated_passes_converge_layer_by_layer_from_anywhere():
    assert len(SHAPES) == LAYERS
    found, changes = ANY, []
    for _ in range(LAYERS + 1):
        before, found = found, measured(found, 8)
        changes.append(largest_difference(found, before))
    # After one pass per layer, only rounding errors remain.
    assert min(changes[:-2]) > 1e-4
    assert changes[-1] < 1e-5
    # Starting from a batch's own mean squares, the result is the same.
    other = measured(None, 4)
    for _ in range(LAYERS):
        other = measured(other, 23)
    assert largest_difference(other, found) < 1e-5


def test_only_blocks_that_are_there_have_mean_squares():
    slices = NET.slices(SPACE.smallest())
    shapes = calibration.mean_square_shapes({name: part.size for name, part in slices.items()})
    assert shapes == {
        "stem_norm/mean_square": (8,),
        "a_0/depthwise_norm/mean_square": (8,),
        "a_0/pointwise_norm/mean_square": (8,),
    }


def test_group_normalization_has_none():
    space = SearchSpace("group", (8, 8, 1), 4, 8, 1, SPACE.stages, "group")
    net = Supernet(space)
    weights = net.weights_by_name()
    assert calibration.mean_square_shapes(net.weight_shapes) == {}
    sums = calibration.sum_mean_squares(net, weights, tf.constant(IMAGES), 8, PREPROCESSING)
    assert sums == {}
    assert calibration.fold(weights, {}) == weights
    told = []
    found = federated_calibration.calibrate_federated(
        net, space.largest(), PREPROCESSING, [], on_pass=told.append
    )
    assert (found, told) == ({}, [])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stem_norm/mean_square": None}, r"missing are \['stem_norm/mean_square'\]"),
        ({"b_0/mean_square": np.ones(8)}, r"unknown are \['b_0/mean_square'\]"),
        ({"stem_norm/mean_square": np.ones(7)}, r"of shape \(8,\), received \(7,\)"),
        ({"stem_norm/mean_square": np.ones((1, 8))}, r"received \(1, 8\)"),
        ({"stem_norm/mean_square": np.full(8, np.nan)}, "finite values from 0"),
        ({"stem_norm/mean_square": np.full(8, np.inf)}, "finite values from 0"),
        ({"stem_norm/mean_square": -np.ones(8)}, "finite values from 0"),
    ],
)
def test_mean_squares_that_are_not_the_subnets_are_refused(change, told):
    calibration.check_mean_squares(ANY, SHAPES)
    changed = {name: value for name, value in {**ANY, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=told) as error:
        calibration.check_mean_squares(changed, SHAPES)
    assert str(error.value).endswith("Calibrate the same architecture.")


# Clients.


# `execution` sets the worker that runs the passes.
@pytest.mark.usefixtures("execution")
def test_clients_together_find_what_one_finds_with_all_their_images():
    bounds = [(0, 9), (9, 9), (9, 20), (20, 23)]  # One has no images.
    data = [
        client_element(
            SPACE, IMAGES[begin:end], LABELS[begin:end], SPACE.largest(), number, np.zeros(2)
        )
        for number, (begin, end) in enumerate(bounds)
    ]
    told = []
    found = federated_calibration.calibrate_federated(
        NET,
        SPACE.largest(),
        PREPROCESSING,
        data,
        batch_size=5,
        tolerance=1e-3,
        on_pass=told.append,
    )

    def plain_pass(frozen):
        sums = [
            {name: value * (end - begin) for name, value in part.items()}
            for begin, end in bounds
            if end > begin
            for part in [measured(frozen, 5, IMAGES[begin:end])]
        ]
        return {name: sum(part[name] for part in sums) / 23 for name in SHAPES}

    expected = None
    for _ in told:
        expected = plain_pass(expected)
    assert largest_difference(found, expected) < 1e-5
    assert [(done.number, done.examples) for done in told] == [
        (number, 23) for number in range(1, len(told) + 1)
    ]
    assert told[0].change == float("inf")
    assert min(done.change for done in told[:-1]) >= 1e-3 > told[-1].change
    assert len(told) > 2


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize("normalization", ["parametric", "group"])
def test_classifiers_are_those_of_all_images_together_however_they_are_spread(normalization):
    space = dataclasses.replace(SPACE, normalization=normalization)
    net = random_net(space)
    bounds = [(0, 8), (8, 8), (8, 160)]
    images = np.random.default_rng(3).integers(0, 256, (160, 8, 8, 1), np.uint8)
    labels = (images.mean((1, 2, 3)) > 127) + 2 * (images[:, 0, 0, 0] > 127).astype(np.int32)
    data = [
        client_element(
            space, images[begin:end], labels[begin:end], SPACE.largest(), number, np.zeros(2)
        )
        for number, (begin, end) in enumerate(bounds)
    ]

    def calibrate(on_pass, **options):
        return federated_calibration.calibrate_federated(
            net,
            space.largest(),
            PREPROCESSING,
            data,
            classifier_data=data,
            batch_size=5,
            on_pass=on_pass,
            **options,
        )

    told = []
    found = calibrate(told.append)
    classifier, int8, penalty, mean_squares = calibration.split_calibration(found)
    assert classifier.keys() == set(calibration.CLASSIFIER)
    assert bool(mean_squares) == (normalization == "parametric")
    classifier_passes = [done for done in told if done.change is None]
    assert len(classifier_passes) == logistic_regression.PASSES
    assert [done.number for done in told] == list(range(1, len(told) + 1))
    assert {done.examples for done in classifier_passes} == {160}
    choices = [done.choice for done in classifier_passes]
    assert choices[:-1] == [None] * (len(choices) - 1)
    assert choices[-1].held_out == 32
    assert choices[-1].penalty == penalty
    # The same fit as if its penalty were given; nothing is chosen then.
    told = []
    only = calibrate(told.append, classifier_penalty=penalty)
    assert {done.choice for done in told} == {None}
    for name, value in classifier.items():
        np.testing.assert_allclose(only[name], value, rtol=0.02, atol=0.02)
    weights = {name: tf.constant(value) for name, value in net.values_by_name().items()}
    features, _ = net.features_with_statistics(
        {**weights, **mean_squares}, PREPROCESSING.normalize(images)
    )
    weights = net.values_by_name()
    start = tuple(weights[name] for name in calibration.CLASSIFIER)
    positions = np.concatenate([np.arange(end - begin) for begin, end in bounds])
    held_out = logistic_regression.is_held_out(positions).numpy()
    expected = calibration.split_calibration(
        logistic_regression.fit(features, labels, *start, held_out=held_out)
    )
    assert expected.penalty == penalty
    for one, other in ((classifier, expected.classifier), (int8, expected.int8_classifier)):
        logits = [features @ head["head/kernel"] + head["head/bias"] for head in (one, other)]
        np.testing.assert_allclose(*logits, rtol=0.02, atol=0.02 * np.abs(logits[0]).max())
    # The accuracy, computed in one process.
    accuracy = build_calibrated_accuracy(net, PREPROCESSING, images, labels, held_out=held_out)
    logits = features @ classifier["head/kernel"] + classifier["head/bias"]
    right = (logits.numpy().argmax(1) == labels).mean()
    assert accuracy(weights, SPACE.largest(), images, labels) == pytest.approx(right, abs=0.02)
    kept = features @ start[0] + start[1]
    assert right > (kept.numpy().argmax(1) == labels).mean() + 0.03


@pytest.mark.slow
def test_in_one_process_every_subnet_is_calibrated_as_by_its_clients():
    """Compares logits; mean squares converge both ways, but are not identical to the bit."""
    accuracy = build_calibrated_accuracy(NET, PREPROCESSING, IMAGES[:22], LABELS[:22])
    weights = NET.values_by_name()
    for architecture in (SPACE.largest(), SPACE.smallest()):
        subnet = NET.extract(architecture)
        own = {name: tf.constant(value) for name, value in subnet.values_by_name().items()}
        frozen = {}
        for _ in range(3):
            sums = calibration.sum_mean_squares(
                subnet, {**own, **frozen}, tf.constant(IMAGES[:22]), 50, PREPROCESSING
            )
            frozen = {name: total / 22 for name, total in sums.items()}
        used = {**own, **frozen}
        features, _ = subnet.features_with_statistics(used, PREPROCESSING.normalize(IMAGES[:22]))
        start = [own[name] for name in calibration.CLASSIFIER]
        used.update(logistic_regression.fit(features, LABELS[:22], *start))
        logits = subnet.forward(used, PREPROCESSING.normalize(IMAGES)).numpy()
        expected = (logits.argmax(1) == LABELS).mean()
        assert accuracy(weights, architecture, IMAGES, LABELS) == pytest.approx(expected)
    # Without a new classifier, the supernet's is used.
    kept = build_calibrated_accuracy(NET, PREPROCESSING, IMAGES[:22], LABELS[:22], None)
    used = {**own, **frozen}
    logits = subnet.forward(used, PREPROCESSING.normalize(IMAGES)).numpy()
    expected = (logits.argmax(1) == LABELS).mean()
    assert kept(weights, SPACE.smallest(), IMAGES, LABELS) == pytest.approx(expected)


def test_the_change_of_a_layer_that_is_dead_is_a_number():
    dead, alive = {"a": np.zeros(3), "b": np.ones(2)}, {"a": np.zeros(3), "b": np.full(2, 1.21)}
    assert federated_calibration.largest_change(dead, dead) == 0
    assert federated_calibration.largest_change(dead, alive) == pytest.approx(0.1 / 1.1)


# Files.

ANY_BIAS = np.arange(4, dtype=np.float32)


# Group normalization has no mean squares.
@pytest.mark.parametrize("mean_squares", [ANY, {}])
def test_a_file_gives_back_what_was_written(tmp_path, mean_squares):
    path = tmp_path / "calibration"
    write_calibration(path, mean_squares, SPACE.largest(), "ab" * 32)
    found = read_calibration(path, SPACE.largest(), "ab" * 32)
    assert found.keys() == mean_squares.keys()
    for name, value in mean_squares.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == np.float32


HEAD = dict(zip(calibration.CLASSIFIER, (np.ones((16, 4), np.float32), ANY_BIAS), strict=True))


def classifier_tensors(names, factor):
    """Returns a classifier and its penalty by the given names."""
    values = (factor * np.ones((16, 4)), factor * ANY_BIAS, np.array([1e-5 * factor]))
    return {name: value.astype(np.float32) for name, value in zip(names, values, strict=True)}


FITTED = classifier_tensors(logistic_regression.TENSORS, 1)
INT8 = classifier_tensors(logistic_regression.INT8_TENSORS, 3)
EARLIER = classifier_tensors(calibration.EARLIER_TENSORS, 2)


@pytest.mark.parametrize(
    ("tensors", "classifier", "int8", "penalty"),
    [
        ({}, None, None, None),
        (FITTED, 1, 1, 1e-5),
        ({**FITTED, **INT8}, 1, 3, 1e-5),
        # Calibrations of earlier versions: one classifier of all files, or one for each kind.
        (HEAD, 1, 1, None),
        ({**HEAD, **EARLIER, **INT8}, 2, 3, 2e-5),
    ],
)
def test_a_file_has_a_classifier_for_each_kind(tmp_path, tensors, classifier, int8, penalty):
    path = tmp_path / "calibration"
    write_calibration(path, {**ANY, **tensors}, SPACE.largest(), "ab" * 32)
    parts = calibration.split_calibration(read_calibration(path, SPACE.largest(), "ab" * 32))
    assert parts.penalty == penalty
    for found, factor in ((parts.classifier, classifier), (parts.int8_classifier, int8)):
        assert found.keys() == ({} if factor is None else HEAD).keys()
        for name, value in found.items():
            np.testing.assert_array_equal(value, factor * HEAD[name])
    assert parts.mean_squares.keys() == ANY.keys()


@pytest.mark.parametrize("missing", ["head/bias", "int8_head/bias", "inference_head/penalty"])
def test_a_file_with_a_part_of_a_classifier_is_refused(tmp_path, missing):
    path = tmp_path / "calibration"
    kept = {**ANY, **HEAD, **EARLIER, **INT8}
    del kept[missing]
    write_calibration(path, kept, SPACE.largest(), "ab" * 32)
    with pytest.raises(ValueError, match=rf"missing are \['{missing}'\]. Calibrate anew"):
        read_calibration(path, SPACE.largest(), "ab" * 32)


@pytest.mark.parametrize(
    ("architecture", "supernet_hash"),
    [(SPACE.smallest(), "ab" * 32), (SPACE.largest(), "cd" * 32)],
)
def test_a_file_of_another_subnet_or_supernet_is_refused(tmp_path, architecture, supernet_hash):
    path = tmp_path / "calibration"
    write_calibration(path, ANY, SPACE.largest(), "ab" * 32)
    told = f"expected the calibration of {architecture} .* that of 16x2k5 of supernet abababababab"
    with pytest.raises(ValueError, match=told):
        read_calibration(path, architecture, supernet_hash)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "calibration"
    write_calibration(path, ANY, Architecture((16,), (2,), (5,)), "ab" * 32)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="expected a whole safetensors file"):
        read_calibration(path, SPACE.largest(), "ab" * 32)
