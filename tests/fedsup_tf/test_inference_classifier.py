"""Tests of the classifier of inference-only files: sums, fits, and choice of the penalty."""

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf import inference_classifier, logistic_regression
from fedsup_tf.calibration import split_calibration
from fedsup_tf.inference_classifier import (
    PENALTIES,
    SMALL_PENALTIES,
    CandidateSums,
    InferenceClassifiers,
)
from fedsup_tf.logistic_regression import BIAS, KERNEL

CLASSES, FEATURES = 3, 6
# Fits to all images, and all fits.
TO_ALL, FITS = len(SMALL_PENALTIES), len(SMALL_PENALTIES) + len(PENALTIES)
START = np.zeros((FEATURES, CLASSES), np.float32), np.zeros(CLASSES, np.float32)


def examples(count, noise, features=FEATURES, seed=0):
    """Returns noisy features of different scales; only the smallest ones separate the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count).astype(np.int32)
    centers = np.random.default_rng(1).normal(size=(CLASSES, features))
    values = centers[labels] + noise * rng.normal(size=(count, features))
    sizes = np.where(np.arange(features) % 2, 1, 0.03)
    values[:, 1::2] = 3 * rng.normal(size=values[:, 1::2].shape)
    return (sizes * values).astype(np.float32), labels


def held_out_of(count):
    return inference_classifier.is_held_out(np.arange(count)).numpy()


def sums_of(features, labels, held_out, coefficients):
    return inference_classifier.candidate_sums(
        *(tf.constant(value) for value in (features, labels, held_out, coefficients))
    )


def test_sums_are_gradients_and_counts_and_add_up():
    features, labels = examples(11, 1)
    held_out = held_out_of(11)
    shapes = inference_classifier.candidate_shapes(FEATURES, CLASSES)
    coefficients = np.random.default_rng(1).normal(size=shapes["gradients"]).astype(np.float32)
    found = sums_of(features, labels, held_out, coefficients)
    assert {name: list(value.shape) for name, value in found._asdict().items()} == shapes
    rows = np.concatenate([features, np.ones((11, 1), np.float32)], 1)
    for number in range(FITS):
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


def fits_of(features, labels, passes=inference_classifier.PASSES):
    fits = InferenceClassifiers(*START)
    moments = logistic_regression.moments_of(tf.constant(features)).numpy()
    losses = []
    for number in range(passes):
        sums = sums_of(features, labels, held_out_of(len(labels)), fits.coefficients)
        fits.step(sums, moments if number == 0 else None)
        losses.append(sums.losses.numpy())
    return fits, np.stack(losses) / max(1, len(labels))


def test_steps_lead_to_the_least_loss_and_most_of_the_way_in_the_passes_that_are_taken():
    fits, losses = fits_of(*examples(400, 1), passes=60)
    for of_fit in losses[:, 1:TO_ALL].T:
        # Losses exclude the penalty; the smallest penalties have almost no weight.
        assert (np.diff(of_fit) < 1e-3).all()
        taken = of_fit[inference_classifier.PASSES - 1]
        assert taken - of_fit[-1] < 0.02 * (of_fit[0] - of_fit[-1])
    gradients = sums_of(*examples(400, 1), held_out_of(400), fits.coefficients).gradients
    # Fits with the smallest penalty, to all images and to those that are not held out.
    for number, count in ((TO_ALL - 1, 400), (FITS - 1, 320)):
        assert np.abs(gradients[:, number]).max() / count < 1e-3


def test_the_penalty_of_files_that_train_is_fitted_as_these_are():
    features, labels = examples(400, 1)
    held_out = held_out_of(400)
    fits, _ = fits_of(features, labels, passes=inference_classifier.PASSES - 1)
    regression = logistic_regression.LogisticRegression(*START)
    moments = logistic_regression.moments_of(tf.constant(features))
    rest = tf.constant(features[~held_out]), tf.constant(labels[~held_out])
    for _ in range(logistic_regression.PASSES):
        sums = logistic_regression.regression_sums(
            *rest, tf.constant(regression.coefficients), with_moments=False
        )
        regression.step(sums._replace(moments=moments), examples=320)
    found = fits.coefficients[:, TO_ALL]
    np.testing.assert_allclose(found, regression.fitted, rtol=1e-3, atol=1e-4)


def test_many_images_choose_a_small_penalty_and_few_noisy_ones_a_larger():
    found = inference_classifier.fit(*examples(3000, 0.5), held_out_of(3000), START)
    assert split_calibration(found).penalty <= 1.001e-4
    rng = np.random.default_rng(2)
    labels = rng.integers(CLASSES, size=200).astype(np.int32)
    centers = 0.3 * rng.normal(size=(CLASSES, 60))
    noisy = (centers[labels] + rng.normal(size=(200, 60))).astype(np.float32)
    start = np.zeros((60, CLASSES), np.float32), START[1]
    # Chooses the penalty of files that train, and therefore keeps their classifier.
    assert inference_classifier.fit(noisy, labels, held_out_of(200), start) == {}


def test_the_chosen_classifier_is_more_accurate_than_that_of_a_file_that_trains():
    features, labels = examples(3000, 0.5)
    found = split_calibration(
        inference_classifier.fit(features, labels, held_out_of(3000), START)
    ).inference_classifier
    trains = logistic_regression.fit(features, labels, *START)
    features, labels = examples(3000, 0.5, seed=5)
    shares = [
        ((features @ head[KERNEL] + head[BIAS]).argmax(1) == labels).mean()
        for head in (found, trains)
    ]
    assert shares[0] > shares[1] + 0.1
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}


def test_labels_of_images_that_are_held_out_do_not_change_the_second_fits():
    features, labels = examples(100, 1)
    other = np.where(held_out_of(100), (labels + 1) % CLASSES, labels).astype(np.int32)
    first, second = (fits_of(features, given)[0].coefficients for given in (labels, other))
    np.testing.assert_array_equal(first[:, TO_ALL:], second[:, TO_ALL:])
    assert np.abs(first[:, :TO_ALL] - second[:, :TO_ALL]).max() > 0.01


@pytest.mark.parametrize("count", [0, 1, 147, 148])
def test_too_few_images_choose_nothing(count):
    fits, _ = fits_of(*examples(count, 0.5))
    choice = fits.choose()
    assert choice.held_out == held_out_of(count).sum()
    assert choice.is_chosen == (count == 148)
    for penalty in (choice.penalty, choice.int8_penalty):
        assert (penalty in SMALL_PENALTIES) == choice.is_chosen
    assert bool(fits.classifiers(choice)) == choice.is_chosen


def test_a_file_of_8_bits_gets_the_best_penalty_that_these_resolve():
    fits, _ = fits_of(*examples(3000, 0.5))
    choice = fits.choose()
    assert choice.penalty < inference_classifier.MIN_INT8_PENALTY
    assert choice.int8_penalty == inference_classifier.MIN_INT8_PENALTY
    parts = split_calibration(fits.classifiers(choice))
    for penalty, found in (
        (choice.penalty, parts.inference_classifier),
        (choice.int8_penalty, parts.int8_classifier),
    ):
        same = fits.classifiers(choice._replace(penalty=penalty))
        np.testing.assert_array_equal(found[KERNEL], same["inference_head/kernel"])


def test_dead_features_give_the_classes_shares():
    labels = np.array([0, 0, 0, 1, 1, 2] * 20, np.int32)
    fits, _ = fits_of(np.zeros((120, FEATURES), np.float32), labels)
    for penalty in SMALL_PENALTIES:
        choice = fits.choose()._replace(penalty=penalty)
        head = split_calibration(fits.classifiers(choice)).inference_classifier
        assert np.isfinite(head[KERNEL]).all()
        np.testing.assert_allclose(tf.nn.softmax(head[BIAS]), [1 / 2, 1 / 3, 1 / 6], atol=0.02)


def test_features_of_a_net_that_diverged_leave_the_classifier_of_files_that_train():
    features, labels = examples(200, 0.5)
    features[3] = np.nan
    assert inference_classifier.fit(features, labels, held_out_of(200), START) == {}


def test_a_step_that_raises_the_loss_is_halved_and_the_best_is_kept():
    fits = InferenceClassifiers(*START)
    features, labels = examples(100, 1)
    moments = logistic_regression.moments_of(tf.constant(features)).numpy()
    start = fits.coefficients
    sums = sums_of(features, labels, held_out_of(100), start)
    fits.step(sums, moments)
    ahead = fits.coefficients
    for change, expected in ((3, (start + ahead) / 2), (np.nan, (3 * start + ahead) / 4)):
        fits.step(CandidateSums(**{**sums._asdict(), "losses": sums.losses * change}))
        found = np.delete(fits.coefficients, TO_ALL, 1)
        np.testing.assert_allclose(found, np.delete(expected, TO_ALL, 1), atol=1e-6)
    choice = fits.choose()._replace(penalty=1e-3)
    head = split_calibration(fits.classifiers(choice)).inference_classifier
    np.testing.assert_array_equal(head[KERNEL], START[0])
