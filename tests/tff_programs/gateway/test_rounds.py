"""Rounds: closed at their goal or deadline, every accepted update counted exactly once."""

import pytest
from gateway import Served, update_bytes
from sqlalchemy import select

from tff_programs.gateway.rounds import current_round, share_out, staleness_factor
from tff_programs.gateway.tables import updates


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path) as served:
        yield served


def value(served):
    """The supernet of the open round."""
    with served.database.read() as connection:
        row = current_round(connection)
    return served.work.value(row)


def states(served):
    with served.database.read() as connection:
        return [row.state for row in connection.execute(select(updates)).all()]


def test_a_round_is_closed_at_its_goal(served):
    for number in range(3):
        served.take_part("small" if number % 2 else "large", value=number)
        served.step()
        assert value(served) == 0
    served.take_part("small", value=3)
    served.step()
    assert value(served) == 0 + 1 + 2 + 3
    assert states(served) == ["used"] * 4


@pytest.mark.parametrize(("total", "shares", "parts"), [(10, [1, 1], [5, 5]), (3, [1, 1], [2, 1])])
def test_a_goal_is_shared_out(total, shares, parts):
    assert share_out(total, shares) == parts


def test_late_updates_count_by_their_age(served):
    slow = [served.phone() for _ in range(2)]
    tasks = [phone.check_in("large")["task"] for phone in slow]
    data = [
        update_bytes(served.folder, phone.model(task["model"]), 10.0 + number)
        for number, (phone, task) in enumerate(zip(slow, tasks, strict=True))
    ]
    for _ in range(4):
        served.take_part("small" if _ else "large", value=0)
    served.step()
    assert slow[0].put(tasks[0]["task"], data[0])[0] == 201
    for _ in range(3):
        served.take_part("small", value=0)
    served.step()
    assert value(served) == pytest.approx(10 * staleness_factor(1))
