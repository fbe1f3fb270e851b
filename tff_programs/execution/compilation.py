"""Compiles computations, whole or in parts that run on subsets of the clients."""

import contextlib
import functools
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.environments.tensorflow_backend.graph_spec import GraphSpec
from tensorflow_federated.python.core.impl.types import type_serialization


class MergeableForm(NamedTuple):
    """Computation compiled in parts, as split by `tff.framework.MergeableCompForm`.

    Attributes:
      up_to_merge: Maps the argument, with some of the clients, to an accumulator at the server.
      merge: Merges two accumulators at the server.
      synchronize: Maps an accumulator at the server to a small number, whose arrival shows that the
        accumulator has been computed.
      after_merge: Maps the argument and the accumulator of all clients to the result.
      accumulator_type: Type of an accumulator.
    """

    up_to_merge: tff.Computation
    merge: tff.Computation
    synchronize: tff.Computation
    after_merge: tff.Computation
    accumulator_type: tff.FederatedType


@contextlib.contextmanager
def _types_read_once() -> Iterator[None]:
    """Makes TFF deserialize each type once, not once for every block that uses it.

    Types are immutable, and compiling a small net deserializes 150,000 of them, which takes a tenth
    of the time from the start of a training to its first round.
    """
    read, read_type = {}, type_serialization.deserialize_type

    def read_once(proto):
        key = proto.SerializeToString(deterministic=True)
        if key not in read:
            read[key] = read_type(proto)
        return read[key]

    type_serialization.deserialize_type = read_once
    try:
        yield
    finally:
        type_serialization.deserialize_type = read_type


@contextlib.contextmanager
def _graphs_not_imported() -> Iterator[None]:
    """Makes TFF pass graphs to the optimizer without importing them into Python before.

    TFF imports each graph to look up the types of its inputs, which its placeholders also tell, and
    of its outputs, which the optimizer does not need. This takes a third of the optimizer's time.
    """
    to_meta_graph_def = GraphSpec.to_meta_graph_def
    GraphSpec.to_meta_graph_def = _meta_graph_def
    try:
        yield
    finally:
        GraphSpec.to_meta_graph_def = to_meta_graph_def


def _meta_graph_def(graph: GraphSpec) -> tf.compat.v1.MetaGraphDef:
    """Returns what `GraphSpec.to_meta_graph_def` does, without the types of the outputs."""
    meta_graph = tf.compat.v1.MetaGraphDef(graph_def=graph.graph_def)
    if graph.init_op is not None:
        init_op = meta_graph.collection_def[tf.compat.v1.GraphKeys.INIT_OP]
        init_op.node_list.value.append(graph.init_op)
    signature = meta_graph.signature_def["FunctionSpec"]
    nodes = {node.name: node for node in graph.graph_def.node}
    for number, name in enumerate(graph.in_names):
        placeholder = nodes[name.partition(":")[0]]
        tensor = signature.inputs[f"arg_{number}"]
        tensor.name = name
        tensor.dtype = placeholder.attr["dtype"].type
        tensor.tensor_shape.CopyFrom(placeholder.attr["shape"].shape)
    for number, name in enumerate(graph.out_names):
        signature.outputs[f"output_{number}"].name = name
    return meta_graph


@functools.lru_cache
@_types_read_once()
@_graphs_not_imported()
def compile_whole(computation: tff.Computation) -> tff.Computation:
    """Compiles a whole computation for a worker.

    The result is that of `tff.backends.native.desugar_and_transform_to_native`, without the graph
    optimizations that change nothing in a training and take up to half of the optimizer's time.
    """
    block, _ = tff.tensorflow.replace_intrinsics_with_bodies(computation.to_building_block())
    return tff.backends.native.transform_to_native_form(
        tff.framework.ConcreteComputation.from_building_block(block),
        grappler_config=_graph_optimizations(),
    )


def _graph_optimizations() -> tf.compat.v1.ConfigProto:
    """Returns TFF's configuration of graph optimizations, without those that change nothing here.

    Those are optimizations for certain devices, which are not known when a computation is compiled,
    for inference, and for shapes and loops that the graphs do not have.
    """
    config = tf.compat.v1.ConfigProto()
    options = config.graph_options.rewrite_options
    options.constant_folding = options.AGGRESSIVE
    options.arithmetic_optimization = options.AGGRESSIVE
    options.function_optimization = options.AGGRESSIVE
    options.memory_optimization = options.NO_MEM_OPT
    options.layout_optimizer = options.OFF
    options.loop_optimization = options.OFF
    options.pin_to_host_optimization = options.OFF
    options.remapping = options.OFF
    options.shape_optimization = options.OFF
    return config


@functools.lru_cache
@_types_read_once()
def compile_in_parts(computation: tff.Computation) -> MergeableForm | ValueError:
    """Compiles a computation in parts; returns the error if it cannot be split."""
    try:
        form = tff.backends.native.compile_to_mergeable_comp_form(computation)
    except ValueError as error:
        return error
    accumulator_type = form.up_to_merge.type_signature.result

    @tff.federated_computation(accumulator_type, accumulator_type)
    def merge(first, second):
        return tff.federated_map(form.merge, tff.federated_zip((first, second)))

    @tff.tensorflow.computation(accumulator_type.member)
    def size(accumulator):
        parts = tff.structure.Struct.unnamed(accumulator)
        parts = tff.structure.flatten(tff.structure.from_container(parts, recursive=True))
        return sum((tf.size(part) for part in parts), tf.constant(0))

    @tff.federated_computation(accumulator_type)
    def synchronize(accumulator):
        return tff.federated_map(size, accumulator)

    return MergeableForm(
        *map(compile_whole, (form.up_to_merge, merge, synchronize, form.after_merge)),
        accumulator_type,
    )
