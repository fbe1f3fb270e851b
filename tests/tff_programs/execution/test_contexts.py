"""Tests that a context ends with its block, and that the previous one is restored."""

import asyncio

import numpy as np
import pytest
import tensorflow_federated as tff

from tff_programs.execution.contexts import local_execution


@tff.tensorflow.computation(np.int32)
def add_one(number):
    return number + 1


@tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
def total(numbers):
    return tff.federated_sum(tff.federated_map(add_one, numbers))


def compute(numbers):
    async def wait():
        return await tff.program.materialize_value(total(numbers))

    return int(asyncio.run(wait()))


@pytest.mark.slow
def test_nested_blocks_end_with_the_context_before_them():
    stack = tff.framework.get_context_stack()
    before = stack.current
    with local_execution(1):
        outer = stack.current
        assert compute([1, 2]) == 5
        with local_execution(1):
            assert stack.current is not outer
            assert compute([3]) == 4
        # The inner block's workers are gone; those of the outer one continue.
        assert stack.current is outer
        assert compute([4, 5]) == 11
    assert stack.current is before
