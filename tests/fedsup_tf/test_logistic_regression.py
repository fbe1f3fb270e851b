"""Tests of the regression that fits classifiers: sums, fits, and choice of the penalty."""

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf import logistic_regression
from fedsup_tf.calibration import split_calibration
from fedsup_tf.logistic_regression import (
    BIAS,
    CHOSEN,
    INT8_TENSORS,
    KERNEL,
    PENALTIES,
    TENSORS,
    Regression,
    RegressionSums,
)

CLASSES, FEATURES = 3, 6
# Fits to all images, and all fits.
TO_ALL, FITS = len(PENALTIES), 2 * len(PENALTIES)
START = np.zeros((FEATURES, CLASSES), np.float32), np.zeros(CLASSES, np.float32)


def examples(count, noise=0.7, features=FEATURES, seed=0):
    """Returns noisy features that separate the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count).astype(np.int32)
    centers = np.random.default_rng(1).normal(size=(CLASSES, features))
    values = centers[labels] + noise * rng.normal(size=(count, features)) + 1
    return values.astype(np.float32), labels


def uneven_examples(count, noise, seed=0):
    """Returns features of different scales; only the smallest ones separate the classes."""
    values, labels = examples(count, noise, seed=seed)
    rng = np.random.default_rng(seed)
    values[:, 1::2] = 3 * rng.normal(size=values[:, 1::2].shape)
    return np.where(np.arange(FEATURES) % 2, 1, 0.03).astype(np.float32) * values, labels


def held_out_of(count):
    return logistic_regression.is_held_out(np.arange(count)).numpy()


def sums_of(features, labels, held_out, coefficients):
    return logistic_regression.regression_sums(
        *(tf.constant(value) for value in (features, labels, held_out, coefficients))
    )


def loss_of(features, labels, kernel, bias, penalty):
    """Returns the module's loss, and its gradients with respect to kernel and bias."""
    kernel, bias = tf.Variable(kernel, dtype=tf.float64), tf.Variable(bias, dtype=tf.float64)
    with tf.GradientTape() as tape:
        logits = tf.cast(features, tf.float64) @ kernel + bias
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        penalty *= np.mean(features.astype(np.float64) ** 2)
        loss = tf.reduce_mean(losses) + penalty / 2 * tf.reduce_sum(kernel**2)
    return float(loss), [part.numpy() for part in tape.gradient(loss, (kernel, bias))]


def steps_of(features, labels, passes=logistic_regression.PASSES, penalty=CHOSEN):
    """Returns a regression after some passes, and the mean losses of each pass by fit."""
    regression = Regression(*START, penalty)
    moments = logistic_regression.moments_of(tf.constant(features)).numpy()
    losses = []
    for number in range(passes):
        sums = sums_of(features, labels, held_out_of(len(labels)), regression.coefficients)
        regression.step(sums, moments if number == 0 else None)
        losses.append(sums.losses.numpy())
    return regression, np.stack(losses) / len(labels)


@pytest.mark.parametrize("penalty", [CHOSEN, 0.01])
def test_sums_are_gradients_and_counts_and_add_up(penalty):
    features, labels = uneven_examples(11, 1)
    held_out = held_out_of(11)
    shapes = logistic_regression.sum_shapes(FEATURES, CLASSES, penalty)
    fits = shapes["losses"][0]
    assert fits == (FITS if penalty == CHOSEN else 1)
    coefficients = np.random.default_rng(1).normal(size=shapes["gradients"]).astype(np.float32)
    found = sums_of(features, labels, held_out, coefficients)
    assert {name: list(value.shape) for name, value in found._asdict().items()} == shapes
    rows = np.concatenate([features, np.ones((11, 1), np.float32)], 1)
    for number in range(fits):
        counted = ~held_out if number >= TO_ALL else np.ones(11, bool)
        variable = tf.Variable(coefficients[:, number])
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, rows @ variable)
            loss = tf.reduce_sum(losses[counted])
        gradient = tape.gradient(loss, variable)
        np.testing.assert_allclose(found.gradients[:, number], gradient, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.losses[number], loss, rtol=1e-4)
        if number >= TO_ALL:
            rest = tf.reduce_sum(losses[held_out])
            np.testing.assert_allclose(found.held_out_losses[number - TO_ALL], rest, rtol=1e-4)
            guesses = (rows @ coefficients[:, number]).argmax(1)
            right = (guesses == labels)[held_out].sum()
            assert found.held_out_right[number - TO_ALL] == right
    assert found.held_out == 2
    parts = [
        sums_of(features[i : i + 4], labels[i : i + 4], held_out[i : i + 4], coefficients)
        for i in (0, 4, 8)
    ]
    for together, whole in zip(zip(*parts, strict=True), found, strict=True):
        np.testing.assert_allclose(np.sum(together, 0), whole, rtol=1e-3, atol=1e-4)
    moments = logistic_regression.moments_of(tf.constant(features))
    np.testing.assert_allclose(moments, rows.T @ rows, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [0.1, *PENALTIES[:3]])
def test_steps_lead_to_the_least_loss_of_the_given_penalty(penalty):
    features, labels = examples(400)
    losses = []
    for passes in (logistic_regression.PASSES, 100):
        regression, _ = steps_of(features, labels, passes, penalty)
        found = regression.classifiers(regression.choose())
        loss, gradient = loss_of(features, labels, found[KERNEL], found[BIAS], penalty)
        losses.append(loss)
    assert all(np.abs(part).max() < 1e-4 for part in gradient)
    # The number of passes in a calibration suffices for most of the improvement.
    start, _ = loss_of(features, labels, *START, penalty)
    assert losses[0] - losses[1] < 0.03 * (start - losses[1])
    assert found.keys() == set(TENSORS)
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
    assert split_calibration(found).penalty == penalty


def test_steps_lead_to_the_least_loss_and_most_of_the_way_in_the_passes_that_are_taken():
    features, labels = uneven_examples(400, 1)
    regression, losses = steps_of(features, labels, passes=60)
    for of_fit in losses[:, 1:TO_ALL].T:
        # Losses exclude the penalty; the smallest penalties have almost no weight.
        assert (np.diff(of_fit) < 1e-3).all()
        taken = of_fit[logistic_regression.PASSES - 1]
        assert taken - of_fit[-1] < 0.02 * (of_fit[0] - of_fit[-1])
    gradients = sums_of(features, labels, held_out_of(400), regression.coefficients).gradients
    # Fits with the smallest penalty, to all images and to those that are not held out.
    for number, count in ((TO_ALL - 1, 400), (FITS - 1, 320)):
        assert np.abs(gradients[:, number]).max() / count < 1e-3


def test_a_smaller_penalty_gives_a_larger_kernel():
    features, labels = examples(400)
    norms = [
        np.linalg.norm(logistic_regression.fit(features, labels, *START, penalty)[KERNEL])
        for penalty in (1.0, 0.1, 0.01)
    ]
    assert norms[0] < norms[1] < norms[2]


def test_many_images_choose_a_small_penalty_and_few_noisy_ones_a_larger():
    found = logistic_regression.fit(*uneven_examples(3000, 0.5), *START)
    assert split_calibration(found).penalty <= 1e-4
    rng = np.random.default_rng(2)
    labels = rng.integers(CLASSES, size=200).astype(np.int32)
    centers = 0.3 * rng.normal(size=(CLASSES, 60))
    noisy = (centers[labels] + rng.normal(size=(200, 60))).astype(np.float32)
    start = np.zeros((60, CLASSES), np.float32), START[1]
    found = logistic_regression.fit(noisy, labels, *start)
    assert split_calibration(found).penalty == PENALTIES[0]
    assert found.keys() == set(TENSORS)  # The same for 8 bits.


def test_the_chosen_classifier_is_more_accurate_than_that_of_a_large_penalty():
    features, labels = uneven_examples(3000, 0.5)
    heads = [
        logistic_regression.fit(features, labels, *START, penalty)
        for penalty in (CHOSEN, PENALTIES[0])
    ]
    features, labels = uneven_examples(3000, 0.5, seed=5)
    chosen, large = (
        ((features @ head[KERNEL] + head[BIAS]).argmax(1) == labels).mean() for head in heads
    )
    assert chosen > large + 0.1


def test_labels_of_images_that_are_held_out_do_not_change_the_second_fits():
    features, labels = uneven_examples(100, 1)
    other = np.where(held_out_of(100), (labels + 1) % CLASSES, labels).astype(np.int32)
    first, second = (steps_of(features, given)[0].coefficients for given in (labels, other))
    np.testing.assert_array_equal(first[:, TO_ALL:], second[:, TO_ALL:])
    assert np.abs(first[:, :TO_ALL] - second[:, :TO_ALL]).max() > 0.01


@pytest.mark.parametrize("count", [1, 147, 148])
def test_too_few_images_choose_the_largest_penalty(count):
    regression, _ = steps_of(*uneven_examples(count, 0.5))
    choice = regression.choose()
    assert choice.held_out == held_out_of(count).sum()
    assert choice.is_chosen == (count == 148)
    for penalty in (choice.penalty, choice.int8_penalty):
        assert (penalty < PENALTIES[0]) == choice.is_chosen
    same = logistic_regression.fit(*uneven_examples(count, 0.5), *START, choice.penalty)
    np.testing.assert_allclose(regression.classifiers(choice)[KERNEL], same[KERNEL], atol=1e-4)


def test_a_file_of_8_bits_gets_the_best_penalty_that_these_resolve():
    regression, _ = steps_of(*uneven_examples(3000, 0.5))
    choice = regression.choose()
    assert choice.penalty < logistic_regression.MIN_INT8_PENALTY
    assert choice.int8_penalty == logistic_regression.MIN_INT8_PENALTY
    found = regression.classifiers(choice)
    parts = split_calibration(found)
    assert parts.penalty == choice.penalty
    for penalty, classifier in (
        (choice.penalty, parts.classifier),
        (choice.int8_penalty, parts.int8_classifier),
    ):
        same = regression.classifiers(choice._replace(penalty=penalty, int8_penalty=penalty))
        assert not same.keys() & set(INT8_TENSORS)
        np.testing.assert_array_equal(classifier[KERNEL], same[KERNEL])


@pytest.mark.slow
def test_a_classifier_that_is_fitted_stays():
    features, labels = examples(400)
    fitted = dict(zip((KERNEL, BIAS), START, strict=True))
    for _ in range(40):
        fitted = logistic_regression.fit(features, labels, fitted[KERNEL], fitted[BIAS], 0.01)
    again = logistic_regression.fit(features, labels, fitted[KERNEL], fitted[BIAS], 0.01)
    for name in (KERNEL, BIAS):
        np.testing.assert_allclose(again[name], fitted[name], atol=1e-3)


def test_a_bias_towards_classes_is_undone():
    """Training on clients with few classes leaves such a bias."""
    features, labels = examples(2000, 0.4)
    biased = START[1] + np.array([0, 0, 5], np.float32)
    guesses = (features @ START[0] + biased).argmax(1)
    assert (guesses == labels).mean() < 0.4
    found = logistic_regression.fit(features, labels, START[0], biased)
    plain = logistic_regression.fit(features, labels, *START)
    shares = []
    for head in (found, plain):
        guesses = (features @ head[KERNEL] + head[BIAS]).argmax(1)
        shares.append((guesses == labels).mean())
    assert shares[0] > 0.95
    assert shares[0] > shares[1] - 0.01


def test_logits_are_as_certain_as_the_features_allow():
    predicted = {}
    for noise in (0.3, 1.5):
        features, labels = examples(2000, noise)
        head = logistic_regression.fit(features, labels, *START)
        logits = features @ head[KERNEL] + head[BIAS]
        chances = tf.nn.softmax(logits).numpy()
        is_right = (chances.argmax(1) == labels).mean()
        predicted[noise] = chances.max(1).mean()
        assert abs(predicted[noise] - is_right) < 0.1
    assert predicted[0.3] > predicted[1.5] + 0.1


def test_dead_features_give_the_classes_shares():
    labels = np.array([0, 0, 0, 1, 1, 2] * 20, np.int32)
    regression, _ = steps_of(np.zeros((120, FEATURES), np.float32), labels)
    for penalty in PENALTIES:
        head = regression.classifiers(regression.choose()._replace(penalty=penalty))
        assert np.isfinite(head[KERNEL]).all()
        np.testing.assert_allclose(tf.nn.softmax(head[BIAS]), [1 / 2, 1 / 3, 1 / 6], atol=0.02)


def test_features_of_a_net_that_diverged_leave_its_classifier():
    features, labels = uneven_examples(200, 0.5)
    features[3] = np.nan
    trained = np.random.default_rng(0).normal(size=START[0].shape)
    trained -= trained.mean(1, keepdims=True)
    found = logistic_regression.fit(features, labels, trained, START[1])
    np.testing.assert_allclose(found[KERNEL], trained, rtol=1e-6)


def test_a_step_that_raises_the_loss_is_halved_and_the_best_is_kept():
    regression = Regression(*START)
    features, labels = uneven_examples(100, 1)
    moments = logistic_regression.moments_of(tf.constant(features)).numpy()
    start = regression.coefficients
    sums = sums_of(features, labels, held_out_of(100), start)
    regression.step(sums, moments)
    ahead = regression.coefficients
    for change, expected in ((3, (start + ahead) / 2), (np.nan, (3 * start + ahead) / 4)):
        regression.step(RegressionSums(**{**sums._asdict(), "losses": sums.losses * change}))
        np.testing.assert_allclose(regression.coefficients, expected, atol=1e-6)
    head = regression.classifiers(regression.choose()._replace(penalty=1e-3))
    np.testing.assert_array_equal(head[KERNEL], START[0])


def test_no_image_is_told():
    shapes = logistic_regression.sum_shapes(FEATURES, CLASSES, CHOSEN)
    sums = RegressionSums(**{name: np.zeros(shape) for name, shape in shapes.items()})
    with pytest.raises(ValueError, match=r"fitted to clients' images, received none"):
        Regression(*START).step(sums, np.zeros((FEATURES + 1, FEATURES + 1)))
