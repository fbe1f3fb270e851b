"""Tests that graphs rewritten for the XNNPACK delegate compute the same as before."""

import numpy as np
import tensorflow as tf
import tflite_runtime.interpreter as runtime
from tensorflow.lite.python import schema_py_generated as schema

from tflite.flatbuffer import flatbuffer
from tflite.flatbuffer.schema import builtin_of, parse

FEW, MANY = (3, 4), (64, 128)


def convert(shape):
    """Converts a model with a matrix product reshaped twice, and sums of two and three tensors."""

    def function(first, second):
        product = tf.matmul(first[tf.newaxis], second[tf.newaxis])
        turned = tf.transpose(tf.reshape(product, [-1, shape[0], 1]), [2, 1, 0])
        pair = tf.raw_ops.AddN(inputs=[first, tf.nn.relu(first)])
        three = tf.raw_ops.AddN(inputs=[first, tf.nn.relu(first), first])
        return {"product": tf.reshape(turned, [-1]), "pair": pair, "three": three}

    specs = [tf.TensorSpec(shape), tf.TensorSpec(shape[::-1])]
    traced = tf.function(function, input_signature=specs).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([traced], tf.Module()).convert()


def run(model):
    interpreter = runtime.Interpreter(model_content=model)
    interpreter.allocate_tensors()
    random = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        value = random.normal(size=detail["shape"]).astype(np.float32)
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def refused_reshapes(model):
    """Counts the reshapes that the delegate leaves to the runtime, and all reshapes."""
    parsed = parse(model)
    (graph,) = parsed.subgraphs
    told = [
        graph.tensors[operator.inputs[1]].type
        for operator in graph.operators
        if builtin_of(parsed, operator) == schema.BuiltinOperator.RESHAPE
    ]
    return told.count(schema.TensorType.INT64), len(told)


def test_rewritten_graphs_compute_the_same_bits():
    for shape in (FEW, MANY):
        model = convert(shape)
        mended = flatbuffer.finish_model(model, {})
        for expected, found in zip(run(model), run(mended), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_sum_of_two_is_an_addition():
    model = convert(FEW)
    before = flatbuffer.count_operators(model)
    after = flatbuffer.count_operators(flatbuffer.finish_model(model, {}))
    assert (before["ADD_N"], after["ADD_N"], after["ADD"] - before["ADD"]) == (2, 1, 1)


def test_what_is_large_changes_its_shape_where_the_delegate_does_not_copy():
    model = convert(MANY)
    mended = flatbuffer.finish_model(model, {})
    refused, count = refused_reshapes(model)
    assert refused == 0
    assert count >= 2
    assert refused_reshapes(mended) == (count, count)
    assert len(mended) < len(model)
    assert refused_reshapes(flatbuffer.finish_model(mended, {})) == (count, count)
    few = flatbuffer.finish_model(convert(FEW), {})
    assert refused_reshapes(few)[0] == 0
    assert refused_reshapes(few)[1] >= 2
