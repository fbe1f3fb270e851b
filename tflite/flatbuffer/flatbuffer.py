"""Reads and rewrites the flatbuffer that the converter writes."""

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from tflite.flatbuffer import xnnpack_passes
from tflite.flatbuffer.schema import (
    add_constant,
    builtin_of,
    builtin_of_code,
    operator_code,
    parse,
)

_FILE_IDENTIFIER = b"TFL3"
# Minimum number of bytes of a constant of zeros that is replaced by an operator.
_MIN_ZEROS = 256
_NAMES = {
    number: name
    for name, number in vars(schema.BuiltinOperator).items()
    if not name.startswith("_")
}


def count_operators(model: bytes) -> Counter[str]:
    """Counts the operators of a model by name, such as `CONV_2D` or `custom:NAME`."""
    # Reads the operators alone; parsing the whole model takes fifteen times as long.
    root = schema.Model.GetRootAsModel(model, 0)
    codes = map(root.OperatorCodes, range(root.OperatorCodesLength()))
    names = [_operator_name(schema.OperatorCodeT.InitFromObj(code)) for code in codes]
    graphs = map(root.Subgraphs, range(root.SubgraphsLength()))
    return Counter(
        names[graph.Operators(n).OpcodeIndex()]
        for graph in graphs
        for n in range(graph.OperatorsLength())
    )


def check_builtin_only(model: bytes) -> None:
    """Checks that a model has only builtin operators.

    Raises:
      ValueError: If the model needs operators that the stock runtime lacks; the message names them.
    """
    foreign = sorted(name for name in count_operators(model) if name.startswith("custom:"))
    if foreign:
        raise ValueError(
            f"Expected TensorFlow Lite builtins alone, the model needs {', '.join(foreign)}. "
            "Report the search space with which this happens."
        )


def finish_model(model: bytes, names: Mapping[str, str], fill_zeros: bool = True) -> bytes:
    """Rewrites a converted model in ways that the converter has no options for.

    * Inputs and outputs of signatures, and variables, are renamed, since TensorFlow restricts their
      names.
    * Zeros, which the converter stores as constants, are produced by an operator, so that the
      momenta do not double the size of the file.
    * Tensor names, which take a third of a small file and are not used by the runtime, are removed;
      so are graph names, which depend on the number of functions traced before.
    * Graphs are rewritten for the XNNPACK delegate (`xnnpack_passes`).

    Args:
      model: Bytes that the converter returned.
      names: Maps TensorFlow's names to new names.
      fill_zeros: Whether to produce zeros by an operator. False for an inference-only file, whose
        weights the delegate needs as constants.

    Returns:
      The bytes of the rewritten model.
    """
    parsed = parse(model)
    for signature in parsed.signatureDefs:
        for tensor in [*(signature.inputs or []), *(signature.outputs or [])]:
            name = tensor.name.decode()
            tensor.name = names.get(name, name)
    for graph in parsed.subgraphs:
        graph.name = None
        for operator in graph.operators:
            if isinstance(operator.builtinOptions, schema.VarHandleOptionsT):
                name = operator.builtinOptions.sharedName.decode()
                operator.builtinOptions.sharedName = names.get(name, name)
        if fill_zeros:
            _fill_zeros(parsed, graph)
        for tensor in graph.tensors:
            tensor.name = None
            tensor.quantization = None if _is_empty(tensor.quantization) else tensor.quantization
    xnnpack_passes.prepare(parsed)
    _share_buffers(parsed)
    _drop_unused_buffers(parsed)
    return _pack(parsed, len(model))


def replace_variables(model: bytes, values: Mapping[str, np.ndarray]) -> bytes:
    """Returns the model with new initial values for some variables.

    Args:
      model: Model that `finish_model` returned.
      values: New values by variable name, each with the shape of the old value.

    Raises:
      ValueError: If a variable is missing in the model or has another shape.
    """
    parsed = parse(model)
    missing = set(values)
    for graph in parsed.subgraphs:
        constants = _filled(parsed, graph)
        constants |= {number for number, tensor in enumerate(graph.tensors) if tensor.buffer}
        handles, replaced = {}, set()
        for operator in graph.operators:
            builtin = builtin_of(parsed, operator)
            if builtin == schema.BuiltinOperator.VAR_HANDLE:
                handles[operator.outputs[0]] = operator.builtinOptions.sharedName.decode()
            elif builtin == schema.BuiltinOperator.ASSIGN_VARIABLE:
                handle, old = operator.inputs
                name = handles[handle]
                if name in values and old in constants:
                    # Several variables may share the old constant, so each gets a new one.
                    value = np.asarray(values[name], "<f4")
                    _check_shape(name, value, graph.tensors[old])
                    operator.inputs = [handle, add_constant(parsed, graph, value)]
                    replaced.add(old)
                    missing.discard(name)
        read = {tensor for operator in graph.operators for tensor in operator.inputs}
        for number in replaced - read:
            graph.tensors[number].buffer = 0
    _drop_unused_buffers(parsed)
    if missing:
        raise ValueError(
            f"The model has no variables {sorted(missing)[:5]}. Give values of the same "
            "architecture, or export the model again with this version."
        )
    return _pack(parsed, len(model))


def _check_shape(name: str, value: np.ndarray, tensor: schema.TensorT) -> None:
    if tuple(value.shape) != tuple(tensor.shape):
        raise ValueError(
            f"Variable {name!r}: expected shape {tuple(tensor.shape)}, received {value.shape}. "
            "Give values of the same architecture."
        )


def _filled(model: schema.ModelT, graph: schema.SubGraphT) -> set[int]:
    """Returns the indices of the tensors that `FILL` operators compute."""
    return {
        operator.outputs[0]
        for operator in graph.operators
        if builtin_of(model, operator) == schema.BuiltinOperator.FILL
    }


class _SharingBuilder(flatbuffers.Builder):
    """Builder that writes equal vectors once and aligns tensor values as the format requires."""

    def __init__(self, size: int):
        super().__init__(size)
        self._written = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802, the name of the base class.
        """Writes a vector with the values of the array `x` and returns its offset."""
        values = np.ascontiguousarray(x)
        key = (values.dtype.str, values.tobytes())
        if key not in self._written:
            alignment = 16 if values.dtype == np.uint8 else values.dtype.alignment
            self.StartVector(values.itemsize, values.size, alignment)
            self.head -= values.nbytes
            self.Bytes[self.head : self.head + values.nbytes] = key[1]
            self._written[key] = self.EndVector()
        return self._written[key]


class _Once:
    """Wrapper of a schema object that writes the object once for all references to it."""

    def __init__(self, value: Any):
        self._value = value
        self._offset = None

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802, the name in the schema's objects.
        """Writes the object on the first call and returns its offset."""
        if self._offset is None:
            self._offset = self._value.Pack(builder)
        return self._offset


def _pack(model: schema.ModelT, size: int) -> bytes:
    """Serializes a model; `size` is the expected number of bytes."""
    written = {}

    def once(value):
        return value and written.setdefault(_contents(value), _Once(value))

    # Duplicate tensor descriptions and operator options would take a quarter of a small file.
    model = copy.copy(model)
    model.subgraphs = [copy.copy(graph) for graph in model.subgraphs]
    for graph in model.subgraphs:
        graph.tensors = [once(tensor) for tensor in graph.tensors]
        graph.operators = [copy.copy(operator) for operator in graph.operators]
        for operator in graph.operators:
            operator.builtinOptions = once(operator.builtinOptions)
    builder = _SharingBuilder(size)
    builder.Finish(model.Pack(builder), _FILE_IDENTIFIER)
    return bytes(builder.Output())


def _contents(value: Any) -> Any:
    """Returns a hashable key that is equal for equal schema objects."""
    if hasattr(value, "Pack"):
        return type(value), *(_contents(field) for field in vars(value).values())
    if isinstance(value, list | np.ndarray):
        return tuple(map(_contents, value))
    return value


def _fill_zeros(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    """Replaces large constants of zeros in the graph with `FILL` operators."""
    added = []
    zero = None
    for number, tensor in enumerate(list(graph.tensors)):
        data = model.buffers[tensor.buffer].data
        is_float = tensor.type == schema.TensorType.FLOAT32
        if not is_float or data is None or len(data) < _MIN_ZEROS or np.any(data):
            continue
        if zero is None:
            zero = add_constant(model, graph, np.zeros([], np.float32))
        sides = add_constant(model, graph, np.asarray(tensor.shape, np.int32))
        tensor.buffer = 0  # Buffer 0 is empty, as for all computed tensors.
        fill = schema.OperatorT()
        fill.opcodeIndex = operator_code(model, schema.BuiltinOperator.FILL)
        fill.inputs, fill.outputs = [sides, zero], [number]
        added.append(fill)
    graph.operators = added + graph.operators


def _is_empty(quantization: schema.QuantizationParametersT | None) -> bool:
    return quantization is None or quantization.scale is None or not len(quantization.scale)


def _share_buffers(model: schema.ModelT) -> None:
    """Makes constants with equal bytes, such as shapes, share a buffer."""
    first = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data):
                tensor.buffer = first.setdefault(np.asarray(data).tobytes(), tensor.buffer)


def _drop_unused_buffers(model: schema.ModelT) -> None:
    """Removes unused and empty buffers, except for the first one."""
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or []}
    filled = [
        number
        for number, buffer in enumerate(model.buffers)
        if number in used and buffer.data is not None and len(buffer.data)
    ]
    # The format requires the first buffer to be empty; any tensor may refer to it.
    place = {number: new for new, number in enumerate(filled, start=1)}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = place.get(tensor.buffer, 0)
    for entry in model.metadata or []:
        entry.buffer = place[entry.buffer]
    model.buffers = [model.buffers[0], *(model.buffers[number] for number in filled)]


def _operator_name(code: schema.OperatorCodeT) -> str:
    name = _NAMES[builtin_of_code(code)]
    return f"custom:{code.customCode.decode()}" if name == "CUSTOM" else name
