"""Tests of mended flatbuffers: same results as the converter's, and variables can be set."""

from collections import Counter

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
import tflite_runtime.interpreter as runtime
from tensorflow.lite.python import schema_py_generated as schema

from tflite.export import conversion
from tflite.flatbuffer import flatbuffer
from tflite.flatbuffer.schema import parse

SHAPE = (8, 10)
RANDOM = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
INITIAL = {
    "a/zeros": np.zeros(SHAPE, np.float32),
    "b/zeros": np.zeros(SHAPE, np.float32),
    "a/ones": np.ones(SHAPE, np.float32),
    "b/ones": np.ones(SHAPE, np.float32),
    "a/random": RANDOM,
    "b/random": RANDOM,
    "few/zeros": np.zeros(3, np.float32),
}
NAMES = {f"variable_{number}": name for number, name in enumerate(INITIAL)}


class Toy(tf.Module):
    """Variables, many with equal initial values; one signature changes them, another reads them."""

    def __init__(self):
        super().__init__()
        self._variables = {
            name: tf.Variable(value, name=python_name)
            for (name, value), python_name in zip(INITIAL.items(), NAMES, strict=True)
        }

    def read(self, dummy):
        del dummy
        values = self._variables.values()
        return {name: value.read_value() for name, value in zip(NAMES, values, strict=True)}

    def move(self, inputs):
        values = {name: value.read_value() for name, value in self._variables.items()}

        change = tf.abs(inputs + values["a/zeros"]) + RANDOM
        for number, name in enumerate(list(INITIAL)[:-1]):
            self._variables[name].assign(values[name] + float(number + 1) * change)
        self._variables["few/zeros"].assign(values["few/zeros"] + tf.reduce_sum(change))
        return {"change": change}


@pytest.fixture(scope="module")
def models():
    """Returns the toy model as converted, and mended."""
    toy = Toy()
    functions = {
        "read": conversion.trace(toy.read, tf.TensorSpec([], tf.float32, "dummy")),
        "move": conversion.trace(toy.move, tf.TensorSpec(SHAPE, tf.float32, "inputs")),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flatbuffer, "finish_model", lambda model, names: model)
        raw = conversion.convert(toy, functions)
    return raw, flatbuffer.finish_model(raw, NAMES)


@pytest.fixture(scope="module")
def finished(models):
    return models[1]


def run(model, names=None):
    """Returns the variables before some calls, what the calls return, and the variables after."""
    interpreter = runtime.Interpreter(model_content=model)
    interpreter.allocate_tensors()
    read, move = (interpreter.get_signature_runner(name) for name in ("read", "move"))

    def variables():
        values = read(dummy=np.float32(0))
        return {(names or {}).get(name, name): value.copy() for name, value in values.items()}

    before = variables()
    inputs = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)
    returned = [move(inputs=value)["change"].copy() for value in inputs]
    return before, returned, variables()


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def constants(model):
    return [bytes(buffer.data) for buffer in parse(model).buffers if buffer.data is not None]


# What is in a model.


def convert_plain(function, operators, *shapes):
    traced = tf.function(function, input_signature=[tf.TensorSpec(shape) for shape in shapes])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [traced.get_concrete_function()], tf.Module()
    )
    converter.target_spec.supported_ops = operators
    return converter.convert()


def test_operators_are_counted_in_all_graphs(models):
    model = convert_plain(lambda x: tf.tanh(tf.tanh(x) + 1), [tf.lite.OpsSet.TFLITE_BUILTINS], [2])
    assert flatbuffer.count_operators(model) == Counter(TANH=2, ADD=1)
    raw, mended = (flatbuffer.count_operators(model) for model in models)
    assert raw["ABS"] == 1
    assert raw["ASSIGN_VARIABLE"] == 2 * len(INITIAL)
    assert mended - raw == Counter(FILL=mended["FILL"] - raw["FILL"])
    assert not raw - mended


def test_operators_that_are_no_builtins_are_named(finished):
    flatbuffer.check_builtin_only(finished)
    model = convert_plain(
        lambda x: tf.raw_ops.ReluGrad(gradients=x, features=x) + tf.linalg.det(x),
        [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS],
        [2, 2],
    )
    assert flatbuffer.count_operators(model)["custom:FlexReluGrad"] == 1
    told = "builtins alone, the model needs custom:FlexMatrixDeterminant, custom:FlexReluGrad"
    with pytest.raises(ValueError, match=told):
        flatbuffer.check_builtin_only(model)


# Mending.


def test_a_mended_model_computes_what_it_did(models):
    raw, finished = models
    expected, found = run(raw, NAMES), run(finished)
    assert_same(found[0], INITIAL)
    for first, second in zip(expected, found, strict=True):
        if isinstance(first, dict):
            assert_same(first, second)
        else:
            np.testing.assert_array_equal(first, second)
    assert all(np.any(found[2][name] != INITIAL[name]) for name in INITIAL)


def test_signatures_and_variables_have_the_names_that_were_given(finished):
    signatures = {signature.signatureKey: signature for signature in parse(finished).signatureDefs}
    assert signatures.keys() == {b"read", b"move"}
    outputs = {tensor.name.decode() for tensor in signatures[b"read"].outputs}
    assert outputs == set(INITIAL)
    assert [tensor.name for tensor in signatures[b"move"].inputs] == [b"inputs"]
    handles = {
        operator.builtinOptions.sharedName.decode()
        for graph in parse(finished).subgraphs
        for operator in graph.operators
        if isinstance(operator.builtinOptions, schema.VarHandleOptionsT)
    }
    assert handles == set(INITIAL)


def test_many_zeros_are_filled_in_and_not_stored(models):
    raw, finished = models
    zeros = bytes(4 * RANDOM.size)
    assert zeros in constants(raw)
    assert zeros not in constants(finished)
    assert any(value == bytes(12) for value in constants(finished))  # Small ones are kept.


def test_nothing_is_named_that_the_runtime_does_not_ask_for(finished):
    for graph in parse(finished).subgraphs:
        assert graph.name is None
        assert all(tensor.name is None for tensor in graph.tensors)


def test_equal_vectors_are_written_once(models):
    raw, finished = models
    assert len(finished) < 0.7 * len(raw)
    parsed = parse(finished)
    builder = flatbuffers.Builder(len(finished))
    builder.Finish(parsed.Pack(builder), b"TFL3")
    plain = bytes(builder.Output())
    assert len(finished) < 0.9 * len(plain)
    for first, second in zip(run(plain), run(finished), strict=True):
        np.testing.assert_equal(first, second)


def test_values_lie_where_the_format_wants_them(finished):
    start = np.frombuffer(finished, np.uint8).ctypes.data
    model = schema.Model.GetRootAsModel(finished, 0)
    found = 0
    for number in range(model.BuffersLength()):
        values = model.Buffers(number).DataAsNumpy()
        if isinstance(values, np.ndarray):
            assert (values.ctypes.data - start) % 16 == 0
            found += 1
    assert found > 3


def test_mending_again_changes_nothing_that_is_computed(finished):
    again = flatbuffer.finish_model(finished, {})
    for first, second in zip(run(again), run(finished), strict=True):
        np.testing.assert_equal(first, second)
    assert len(again) <= len(finished)


# Other values.


@pytest.mark.parametrize("name", INITIAL)
def test_a_variable_is_set_alone_though_others_begin_alike(finished, name):
    value = np.random.default_rng(2).normal(size=INITIAL[name].shape).astype(np.float32)
    model = flatbuffer.replace_variables(finished, {name: value})
    assert_same(run(model)[0], {**INITIAL, name: value})


def test_all_variables_are_set_and_set_again(finished):
    rng = np.random.default_rng(3)
    values = {name: rng.normal(size=value.shape) for name, value in INITIAL.items()}
    values = {name: value.astype(np.float32) for name, value in values.items()}
    model = flatbuffer.replace_variables(finished, values)
    before, returned, _ = run(model)
    assert_same(before, values)
    expected = np.abs(first_inputs() + values["a/zeros"]) + RANDOM
    np.testing.assert_array_equal(returned[0], expected)
    back = flatbuffer.replace_variables(model, INITIAL)
    for first, second in zip(run(back), run(finished), strict=True):
        np.testing.assert_equal(first, second)
    # The previous values are gone.
    assert all(value.tobytes() not in constants(back) for value in values.values())
    assert constants(back).count(bytes(4 * RANDOM.size)) <= 2


def first_inputs():
    return np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)[0]


def test_no_values_change_nothing(finished):
    model = flatbuffer.replace_variables(finished, {})
    assert_same(run(model)[0], INITIAL)


def test_values_that_are_not_the_models_are_refused(finished):
    with pytest.raises(ValueError, match=r"no variables \['c/ones'\].* same architecture"):
        flatbuffer.replace_variables(finished, {"c/ones": RANDOM, "a/ones": RANDOM})
    told = r"Variable 'b/ones': expected shape \(8, 10\), received \(10, 8\)"
    with pytest.raises(ValueError, match=told):
        flatbuffer.replace_variables(finished, {"b/ones": RANDOM.T})
