"""One TFF worker for all tests that need one."""

import asyncio

import pytest


@pytest.fixture(scope="session")
def execution():
    """Runs TFF computations; returns a function that waits for their results."""
    import tensorflow_federated as tff

    from tff_programs.runtime import local_execution

    def materialize(value):
        async def wait():
            return await tff.program.materialize_value(value())

        return asyncio.run(wait())

    with local_execution():
        yield materialize
