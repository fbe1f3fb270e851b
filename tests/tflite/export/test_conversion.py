"""Tests of the conversion of functions to signatures."""

import tensorflow as tf

from tflite.export.conversion import convert, trace


@tf.custom_gradient
def same(x):
    return tf.identity(x), lambda gradient: gradient


def test_a_conversion_of_functions_with_gradients_of_their_own_warns_of_nothing(caplog):
    function = trace(lambda x: {"y": same(x)}, tf.TensorSpec([1], tf.float32, "x"))
    assert convert(tf.Module(), {"infer": function})
    assert not [record for record in caplog.records if "gradient" in record.getMessage()]
