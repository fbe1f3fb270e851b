"""Tests of calls that share a transaction: if one raises, only that one fails."""

import asyncio
import threading

import pytest
import sqlalchemy

from tff_programs.gateway import tables
from tff_programs.gateway.database import Database
from tff_programs.gateway.grouped_calls import GroupedReads, GroupedWrites
from tff_programs.gateway.refusal import RefusalError

FACTS = sqlalchemy.select(tables.facts.c.name).order_by(tables.facts.c.name)


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'gateway.sqlite'}")
    yield database
    database.close()


def made_together(grouped, calls):
    """Returns the outcomes of calls that share a transaction, because the thread was busy."""
    free = threading.Event()

    async def run():
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(1 + len(calls))]
        for call, future in zip([lambda _: free.wait(), *calls], futures, strict=True):
            grouped.submit(call, future)
        free.set()
        return await asyncio.gather(*futures, return_exceptions=True)

    try:
        return asyncio.run(run())[1:]
    finally:
        grouped.close()


def raises(error):
    def call(connection):
        raise error

    return call


ERRORS = [RefusalError(409, "late", "It is late."), ValueError("a fault")]


@pytest.mark.parametrize("error", ERRORS)
def test_a_read_that_raises_fails_alone(database, error):
    def read(connection):
        return connection.execute(FACTS).scalars().all()

    found = made_together(GroupedReads(database), [read, raises(error), read])
    assert found == [["version"], error, ["version"]]


@pytest.mark.parametrize("error", ERRORS)
def test_a_change_that_raises_is_taken_back_alone(database, error):
    def change(name, error=None):
        def call(connection):
            connection.execute(tables.facts.insert().values(name=name, value="1"))
            if error is not None:
                raise error
            return name

        return call

    calls = [change("a"), change("b", error), change("c")]
    assert made_together(GroupedWrites(database), calls) == ["a", error, "c"]
    with database.read() as connection:
        assert connection.execute(FACTS).scalars().all() == ["a", "c", "version"]
