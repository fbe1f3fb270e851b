"""Tests of the lease: one process at a time closes rounds, and another one can take over."""

import threading

import pytest
from gateway import Served, SumRounds
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tff_programs.gateway import keeper
from tff_programs.gateway.database import Database, sqlite_url
from tff_programs.gateway.lease import Lease, LeaseKeeper, LeaseLostError
from tff_programs.gateway.round_records import current_round
from tff_programs.gateway.rounds import Rounds, RoundSettings


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_one_process_has_the_lease_until_it_ends(tmp_path, url, clock):
    with Served(tmp_path, url) as served:
        served.lease.give_back()
        first, second = (Lease(served.database, name, 30.0, clock) for name in ("first", "second"))
        assert first.take()
        assert not second.take()
        clock.now += 20
        assert first.take()
        clock.now += 20
        assert not second.take()
        clock.now += 20
        assert second.take()
        assert not first.take()
        second.give_back()
        assert first.take()


def test_who_lost_the_lease_writes_nothing(tmp_path, url, clock):
    with Served(tmp_path, url, goal=1) as served:
        served.lease.give_back()
        late = Lease(served.database, "late", 30.0, clock)
        assert late.take()
        rounds = Rounds(
            served.database,
            tmp_path,
            served.settings,
            served.work,
            late,
            clock,
            served.told.append,
        )
        served.take_part(value=5)
        # Another process takes over while this one still believes it holds the lease.
        clock.now += 100
        other = Lease(served.database, "other", 30.0, clock)
        assert other.take()
        clock.now -= 100
        with pytest.raises(LeaseLostError):
            rounds.step()
        with served.database.read() as connection:
            assert current_round(connection).number == 0


def test_a_database_or_a_disk_that_fails_is_waited_for(tmp_path, monkeypatch):
    database, told, tries = Database(sqlite_url(tmp_path)), [], []

    def step(rounds):
        tries.append(rounds)
        if len(tries) == 1:
            raise OperationalError("SELECT", {}, Exception("gone"))
        if len(tries) == 2:
            raise PoolTimeoutError("No connection")
        if len(tries) in (3, 4, 6):
            raise OSError("No room.")
        if len(tries) == 5:
            return True
        raise KeyboardInterrupt

    monkeypatch.setattr(Rounds, "step", step)
    monkeypatch.setattr(keeper, "TROUBLE_SECONDS", 0.01)
    with pytest.raises(KeyboardInterrupt):
        keeper.keep_rounds(database, tmp_path, RoundSettings(1), SumRounds(tmp_path), told.append)
    assert told == [
        "The database does not answer: gone. Trying again.",
        "The database does not answer: No connection. Trying again.",
        # Once for each time that the problem began.
        *["The round waits (No room). Nothing is lost; trying again."] * 2,
    ]
    database.close()


def test_a_lease_is_renewed_when_the_database_has_connections_again():
    renewed = threading.Event()

    class Busy:
        tries = 0

        def take(self):
            self.tries += 1
            if self.tries == 1:
                raise PoolTimeoutError("No connection")
            renewed.set()
            return True

    keeping = LeaseKeeper(Busy(), 0.01)
    assert renewed.wait(60)
    keeping.stop()
