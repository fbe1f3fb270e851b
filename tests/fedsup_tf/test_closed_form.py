"""The classifier in closed form, held against a regression on all images at once."""

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf import closed_form
from fedsup_tf.closed_form import BIAS, KERNEL, SCALES, FeatureSums

CLASSES, FEATURES = 3, 5


def examples(count, noise=0.7, seed=0):
    """Features that tell classes apart, but for noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count).astype(np.int32)
    centers = rng.normal(size=(CLASSES, FEATURES))
    features = centers[labels] + noise * rng.normal(size=(count, FEATURES)) + 1
    return features.astype(np.float32), labels


def added(parts):
    return FeatureSums(*(np.sum(values, 0) for values in zip(*parts, strict=True)))


def test_sums_are_those_of_each_fold():
    features, labels = examples(7)
    sums = closed_form.feature_sums(tf.constant(features), tf.constant(labels), CLASSES)
    rows = np.concatenate([features, np.ones((7, 1))], 1)
    for fold in (0, 1):
        own, targets = rows[fold::2], np.eye(CLASSES)[labels[fold::2]]
        np.testing.assert_allclose(sums.products[fold], own.T @ own, rtol=1e-5)
        np.testing.assert_allclose(sums.by_class[fold], own.T @ targets, rtol=1e-5, atol=1e-6)


def test_batches_of_a_client_add_up_whatever_their_size():
    features, labels = examples(7)
    whole = closed_form.feature_sums(tf.constant(features), tf.constant(labels), CLASSES)
    parts = [
        closed_form.feature_sums(features[i : i + 3], tf.constant(labels[i : i + 3]), CLASSES, i)
        for i in (0, 3, 6)
    ]
    for one, other in zip(added(parts), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_classifier_is_the_ridge_regression_of_all_images():
    features, labels = examples(400)
    sums = closed_form.feature_sums(features, tf.constant(labels), CLASSES)
    penalty, _ = closed_form.fit_folds(sums)
    # The least loss is that of the third scale.
    losses = np.where(np.arange(len(SCALES)) == 2, 1.0, 2.0)
    found = closed_form.fit_classifier(sums, penalty, losses)
    ridge = penalty * np.trace(features.T @ features) / FEATURES
    rows = np.concatenate([features, np.ones((400, 1))], 1).astype(np.float64)
    # Penalized least squares as plain ones: a row for each penalized coefficient.
    below = np.sqrt(ridge) * np.eye(FEATURES, FEATURES + 1)
    targets = np.concatenate([np.eye(CLASSES)[labels], np.zeros((FEATURES, CLASSES))])
    expected, *_ = np.linalg.lstsq(np.concatenate([rows, below]), targets, rcond=None)
    expected = SCALES[2] * (expected - expected.mean(1, keepdims=True))
    np.testing.assert_allclose(found[KERNEL], expected[:-1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[BIAS], expected[-1], rtol=1e-4, atol=1e-4)
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}


def test_losses_are_of_the_other_folds_regression():
    features, labels = examples(9)
    of_folds = np.random.default_rng(1).normal(size=(2, FEATURES + 1, CLASSES)).astype(np.float32)
    # The second client image is the batch's first.
    found = closed_form.scaled_losses(features, tf.constant(labels), tf.constant(of_folds), 1)
    expected = np.zeros(len(SCALES))
    for number, (image, label) in enumerate(zip(features, labels, strict=True), 1):
        outputs = np.append(image, 1) @ of_folds[1 - number % 2]
        for place, scale in enumerate(SCALES):
            logits = scale * outputs
            expected[place] += np.log(np.exp(logits).sum()) - logits[label]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_penalty_is_the_one_that_predicts_the_other_fold_best():
    """Few images of noise need a large penalty, many clear ones a small one."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(12, FEATURES)).astype(np.float32)
    guesses = closed_form.feature_sums(noise, tf.range(12) % CLASSES, CLASSES)
    features, labels = examples(3000, noise=0.2)
    clear = closed_form.feature_sums(features, tf.constant(labels), CLASSES)
    assert closed_form.fit_folds(guesses)[0] == 1.0
    assert closed_form.fit_folds(clear)[0] <= 1e-3


def test_logits_are_scaled_to_the_certainty_that_the_features_give():
    predicted = {}
    for noise in (0.1, 1.5):
        features, labels = examples(2000, noise)
        head = closed_form.fit(features, labels, CLASSES)
        logits = features @ head[KERNEL] + head[BIAS]
        chances = tf.nn.softmax(logits).numpy()
        is_right = (chances.argmax(1) == labels).mean()
        predicted[noise] = chances.max(1).mean()
        assert abs(predicted[noise] - is_right) < 0.05
    assert predicted[0.1] > predicted[1.5] + 0.1


def test_dead_features_give_the_classes_shares():
    labels = np.array([0, 0, 0, 1, 1, 2] * 4, np.int32)
    head = closed_form.fit(np.zeros((24, FEATURES), np.float32), labels, CLASSES)
    assert np.isfinite(head[KERNEL]).all()
    assert head[BIAS].argsort().tolist() == [2, 1, 0]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_are_told(count):
    features, labels = examples(count)
    sums = closed_form.feature_sums(features, tf.constant(labels), CLASSES)
    with pytest.raises(ValueError, match=r"needs images in both folds, received .* and 0. Give"):
        closed_form.fit_folds(sums)
