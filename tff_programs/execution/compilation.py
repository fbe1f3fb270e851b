"""A compiled computation, whole or in parts that run on some of its clients each."""

import functools
from typing import NamedTuple

import tensorflow as tf
import tensorflow_federated as tff


class Form(NamedTuple):
    """A compiled computation in parts, see `tff.framework.MergeableCompForm`.

    Attributes:
      up_to_merge: From the argument, of some of the clients, to an accumulator at the server.
      merge: Two accumulators at the server to one.
      is_done: An accumulator at the server to a number, once it is there.
      after_merge: From the argument and the accumulator of all to the result.
      accumulator_type: The accumulator's.
    """

    up_to_merge: tff.Computation
    merge: tff.Computation
    is_done: tff.Computation
    after_merge: tff.Computation
    accumulator_type: tff.FederatedType


compile_whole = functools.lru_cache(tff.backends.native.desugar_and_transform_to_native)


@functools.lru_cache
def compile_in_parts(computation) -> Form | ValueError:
    """The form, or why there is none."""
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
    def is_done(accumulator):
        return tff.federated_map(size, accumulator)

    return Form(
        *map(compile_whole, (form.up_to_merge, merge, is_done, form.after_merge)),
        accumulator_type,
    )
