"""Tests that SGD with Nesterov momentum equals Keras' own."""

import numpy as np
import pytest
import tensorflow as tf

from tff_programs.learning.nesterov import build_nesterov


def test_steps_equal_those_of_keras():
    rng = np.random.default_rng(0)
    weights = (tf.constant(rng.normal(size=(3, 2)), tf.float32), tf.constant([1.0, -2.0]))
    variables = [tf.Variable(value) for value in weights]
    keras = tf.keras.optimizers.SGD(0.3, momentum=0.9, nesterov=True)
    optimizer = build_nesterov(0.3, 0.9)
    state = optimizer.initialize(tuple(tf.TensorSpec(value.shape) for value in weights))
    for _ in range(4):
        gradients = tuple(tf.constant(rng.normal(size=w.shape), tf.float32) for w in weights)
        keras.apply_gradients(zip(gradients, variables, strict=True))
        state, weights = optimizer.next(state, weights, gradients)
    for value, variable in zip(weights, variables, strict=True):
        np.testing.assert_allclose(value, variable, rtol=1e-5)


@pytest.mark.parametrize(
    "values", [(0.0, 0.9), (-1.0, 0.9), (float("nan"), 0.9), (float("inf"), 0.9), (0.3, 1.0)]
)
def test_values_outside_their_range_are_refused(values):
    with pytest.raises(ValueError, match="Nesterov momentum: expected"):
        build_nesterov(*values)
