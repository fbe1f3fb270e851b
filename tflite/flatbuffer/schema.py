"""Parses a model into objects of the flatbuffer schema and edits them."""

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema


def parse(model: bytes) -> schema.ModelT:
    """Parses the bytes of a model."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))


def builtin_of(model: schema.ModelT, operator: schema.OperatorT) -> int:
    """Returns the builtin code of an operator, a member of `schema.BuiltinOperator`."""
    return builtin_of_code(model.operatorCodes[operator.opcodeIndex])


def builtin_of_code(code: schema.OperatorCodeT) -> int:
    """Returns the member of `schema.BuiltinOperator` that an operator code stands for."""
    # Files from before 2020 store it in the deprecated field.
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def operator_code(model: schema.ModelT, builtin: int) -> int:
    """Returns the index of a builtin operator's code, adding the code if it is missing."""
    for number, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin:
            return number
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def add_constant(model: schema.ModelT, graph: schema.SubGraphT, value: np.ndarray) -> int:
    """Adds a float32, int32 or int64 constant to a graph and returns the index of its tensor."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(value.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.shape = list(value.shape)
    tensor.type = getattr(schema.TensorType, value.dtype.name.upper())
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1
