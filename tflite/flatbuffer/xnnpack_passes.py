"""Rewrites graphs to make the most of XNNPACK, the runtime's delegate for fast kernels."""

import math

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from tflite.flatbuffer.schema import add_constant, builtin_of, operator_code

# Minimum tensor size at which a copy costs more than an unbroken partition of the delegate gains.
_MIN_BYTES = 16_384


def prepare(model: schema.ModelT) -> None:
    """Rewrites the graphs of a model; results stay bitwise the same.

    * ADD_N of two tensors, which the delegate does not support, becomes ADD, which it does.
    * RESHAPE of a large tensor gets a form that the delegate rejects: the shape as an option, and a
      shape tensor that is not int32. The delegate would copy the data, whereas the runtime's own
      operator leaves it in place.
    """
    for graph in model.subgraphs:
        _add_pairs(model, graph)
        _keep_reshapes(model, graph)


def _add_pairs(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    for operator in graph.operators:
        is_sum = builtin_of(model, operator) == schema.BuiltinOperator.ADD_N
        if is_sum and len(operator.inputs) == 2:
            operator.opcodeIndex = operator_code(model, schema.BuiltinOperator.ADD)
            operator.builtinOptionsType = schema.BuiltinOptions.AddOptions
            operator.builtinOptions = schema.AddOptionsT()


def _keep_reshapes(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    elsewhere = None
    for operator in graph.operators:
        if builtin_of(model, operator) != schema.BuiltinOperator.RESHAPE:
            continue
        (result,) = operator.outputs
        if not all(_is_large(graph.tensors[end]) for end in (operator.inputs[0], result)):
            continue
        if elsewhere is None:
            elsewhere = add_constant(model, graph, np.zeros(1, np.int64))
        operator.inputs = [operator.inputs[0], elsewhere]
        operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
        operator.builtinOptions = schema.ReshapeOptionsT()
        operator.builtinOptions.newShape = np.array(graph.tensors[result].shape, np.int32)


def _is_large(tensor: schema.TensorT) -> bool:
    return (
        tensor.type == schema.TensorType.FLOAT32
        and tensor.shapeSignature is None
        and 4 * math.prod(tensor.shape) >= _MIN_BYTES
    )
