"""Compares the regression that fits classifiers with a minimizer of its loss on all images."""

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf import logistic_regression
from fedsup_tf.logistic_regression import BIAS, KERNEL, LogisticRegression, RegressionSums

CLASSES, FEATURES = 3, 5
START = np.zeros((FEATURES, CLASSES), np.float32), np.zeros(CLASSES, np.float32)


def examples(count, noise=0.7, seed=0):
    """Returns noisy features that separate the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count).astype(np.int32)
    centers = rng.normal(size=(CLASSES, FEATURES))
    features = centers[labels] + noise * rng.normal(size=(count, FEATURES)) + 1
    return features.astype(np.float32), labels


def sums_of(features, labels, coefficients):
    return logistic_regression.regression_sums(
        tf.constant(features), tf.constant(labels), tf.constant(coefficients), True
    )


def loss_of(features, labels, kernel, bias):
    """Returns the module's loss, and its gradients with respect to kernel and bias."""
    kernel, bias = tf.Variable(kernel, dtype=tf.float64), tf.Variable(bias, dtype=tf.float64)
    with tf.GradientTape() as tape:
        logits = tf.cast(features, tf.float64) @ kernel + bias
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        penalty = logistic_regression.PENALTY * np.mean(features.astype(np.float64) ** 2)
        loss = tf.reduce_mean(losses) + penalty / 2 * tf.reduce_sum(kernel**2)
    return float(loss), [part.numpy() for part in tape.gradient(loss, (kernel, bias))]


def test_sums_are_the_gradient_and_the_outer_products():
    features, labels = examples(7)
    coefficients = np.random.default_rng(1).normal(size=(FEATURES + 1, CLASSES))
    coefficients = coefficients.astype(np.float32)
    found = sums_of(features, labels, coefficients)
    rows = np.concatenate([features, np.ones((7, 1), np.float32)], 1)
    variable = tf.Variable(coefficients)
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, rows @ variable)
        loss = tf.reduce_sum(losses)
    np.testing.assert_allclose(found.gradient, tape.gradient(loss, variable), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.moments, rows.T @ rows, rtol=1e-5)
    parts = [sums_of(features[i : i + 3], labels[i : i + 3], coefficients) for i in (0, 3, 6)]
    for together, whole in zip(zip(*parts, strict=True), found, strict=True):
        np.testing.assert_allclose(np.sum(together, 0), whole, rtol=1e-4, atol=1e-4)


def test_steps_lead_to_the_least_loss():
    features, labels = examples(400)
    regression = LogisticRegression(*START)
    losses = []
    for _ in range(100):
        regression.step(sums_of(features, labels, regression.coefficients))
        found = regression.classifier()
        loss, gradient = loss_of(features, labels, found[KERNEL], found[BIAS])
        losses.append(loss)
    assert all(np.abs(part).max() < 1e-4 for part in gradient)
    # The number of passes in a calibration suffices for most of the improvement.
    start, _ = loss_of(features, labels, *START)
    assert losses[logistic_regression.PASSES - 1] - losses[-1] < 0.03 * (start - losses[-1])
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}


def test_a_classifier_that_is_fitted_stays():
    features, labels = examples(400)
    fitted = dict(zip((KERNEL, BIAS), START, strict=True))
    for _ in range(40):
        fitted = logistic_regression.fit(features, labels, fitted[KERNEL], fitted[BIAS])
    again = logistic_regression.fit(features, labels, fitted[KERNEL], fitted[BIAS])
    for name, value in fitted.items():
        np.testing.assert_allclose(again[name], value, atol=1e-3)


def test_a_smaller_penalty_gives_a_larger_kernel():
    features, labels = examples(400)
    norms = [
        np.linalg.norm(logistic_regression.fit(features, labels, *START, penalty)[KERNEL])
        for penalty in (1.0, 0.1, 0.01)
    ]
    assert norms[0] < norms[1] < norms[2]


def test_a_kernel_is_at_most_twice_the_trained_one():
    """Training from a larger one would diverge; the most likely class stays the same."""
    features, labels = examples(400)
    features *= 0.01
    start = np.random.default_rng(1).normal(size=START[0].shape).astype(np.float32)
    trained = np.linalg.norm(start - start.mean(1, keepdims=True), 2)
    free = logistic_regression.fit(features, labels, *START)
    found = logistic_regression.fit(features, labels, start, START[1])
    assert np.linalg.norm(free[KERNEL], 2) > 10 * trained
    np.testing.assert_allclose(np.linalg.norm(found[KERNEL], 2), 2 * trained, rtol=1e-5)
    guesses = [(features @ head[KERNEL] + head[BIAS]).argmax(1) for head in (free, found)]
    assert (guesses[0] == guesses[1]).mean() > 0.98


def test_a_bias_towards_classes_is_undone():
    """Training on clients with few classes leaves such a bias."""
    features, labels = examples(2000)
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
    labels = np.array([0, 0, 0, 1, 1, 2] * 4, np.int32)
    head = logistic_regression.fit(np.zeros((24, FEATURES), np.float32), labels, *START)
    assert np.isfinite(head[KERNEL]).all()
    np.testing.assert_allclose(tf.nn.softmax(head[BIAS]), [1 / 2, 1 / 3, 1 / 6], atol=0.02)


def test_no_image_is_told():
    sums = RegressionSums(np.zeros((FEATURES + 1, CLASSES)), np.zeros((FEATURES + 1, FEATURES + 1)))
    with pytest.raises(ValueError, match=r"fitted to clients' images, received none"):
        LogisticRegression(*START).step(sums)
