"""Graphs in the form in which the runtime's delegate of fast kernels, XNNPACK, helps most."""

import math

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from tflite.graph_edit import add_alike, add_constant, builtin_of, operator_code

# Tensors of more dimensions are none of the delegate's.
_DELEGATE_DIMENSIONS = 6
# From so many bytes on a copy costs more than the delegate's work in one piece is worth.
_LEAST_DETOUR_BYTES = 16_384


def prepare(model: schema.ModelT) -> None:
    """Rewrites the graphs; they compute what they did, bit for bit.

    * A sum of two tensors is an addition, which the delegate has, and the sum of many has not.
    * A large tensor's change of shape goes by way of a shape that the delegate refuses. It would
      copy, where the runtime's own operator leaves the data in place.
    """
    for graph in model.subgraphs:
        _add_pairs(model, graph)
        _keep_reshapes(model, graph)


def _add_pairs(model, graph) -> None:
    for operator in graph.operators:
        is_sum = builtin_of(model, operator) == schema.BuiltinOperator.ADD_N
        if is_sum and len(operator.inputs) == 2:
            operator.opcodeIndex = operator_code(model, schema.BuiltinOperator.ADD)
            operator.builtinOptionsType = schema.BuiltinOptions.AddOptions
            operator.builtinOptions = schema.AddOptionsT()


def _keep_reshapes(model, graph) -> None:
    operators = []
    for operator in graph.operators:
        if builtin_of(model, operator) == schema.BuiltinOperator.RESHAPE:
            ends = operator.inputs[0], operator.outputs[0]
            if all(_is_detourable(graph.tensors[end]) for end in ends):
                between, detour = _detour(model, graph, operator, ends[1])
                operators.append(detour)
                operator.inputs = [between, *operator.inputs[1:]]
        operators.append(operator)
    graph.operators = operators


def _detour(model, graph, operator, result):
    shape = list(graph.tensors[result].shape)
    shape = [1] * (_DELEGATE_DIMENSIONS + 1 - len(shape)) + shape
    between = add_alike(graph, result)
    graph.tensors[between].shape = shape
    detour = schema.OperatorT()
    detour.opcodeIndex = operator.opcodeIndex
    detour.inputs = [operator.inputs[0], add_constant(model, graph, np.array(shape, np.int32))]
    detour.outputs = [between]
    return between, detour


def _is_detourable(tensor) -> bool:
    return (
        tensor.type == schema.TensorType.FLOAT32
        and tensor.shapeSignature is None
        and len(tensor.shape) <= _DELEGATE_DIMENSIONS
        and 4 * math.prod(tensor.shape) >= _LEAST_DETOUR_BYTES
    )
