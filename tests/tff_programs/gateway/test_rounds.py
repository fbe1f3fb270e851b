"""Tests of rounds: closed at goal or deadline, with each accepted update counted once."""

import time

import pytest
import sqlalchemy
from gateway import SHAPES, Served, SumRounds, update_bytes
from spaces import SPACE
from sqlalchemy import select, update

from tff_programs.gateway import overview as gateway_overview
from tff_programs.gateway.left_over_updates import remove_left_over_updates
from tff_programs.gateway.overview import gauges, overview
from tff_programs.gateway.rollback import roll_back
from tff_programs.gateway.round_records import current_round, share_out
from tff_programs.gateway.round_work import Merged, Outcome
from tff_programs.gateway.rounds import staleness_factor
from tff_programs.gateway.tables import rounds, tasks, updates
from tflite.format.update_file import read_update


@pytest.fixture
def served(tmp_path, url):
    with Served(tmp_path, url) as served:
        yield served


def value(served):
    """Returns the supernet of the open round."""
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


def numbers(served):
    with served.database.read() as connection:
        return [(row.number, row.state) for row in connection.execute(select(rounds)).all()]


def test_a_round_is_closed_at_its_deadline_if_there_is_an_update(tmp_path):
    now = [time.time()]
    with Served(tmp_path, clock=lambda: now[0], deadline_seconds=100.0) as served:
        now[0] += 101
        served.step()
        assert numbers(served) == [(0, "open")]
        served.take_part(value=2)
        served.step()
        assert value(served) == 0
        now[0] += 101
        served.step()
        assert value(served) == 2


def test_each_tier_is_asked_for_its_share(served):
    def tiers(wanted, count):
        given = []
        for _ in range(count):
            task = served.phone().check_in(wanted).get("task")
            given.append(task and task["tier"])
        return given

    # With a goal of 4, each tier needs 2 updates, and 30 % more devices are asked.
    assert tiers("small", 4) == ["small"] * 3 + [None]
    # A device of the large tier could train the small subnet, but there are enough of these.
    assert tiers("large", 4) == ["large"] * 3 + [None]


def test_a_large_device_trains_a_small_subnet_where_that_lacks(served):
    given = [served.phone().check_in("large")["task"]["tier"] for _ in range(6)]
    assert given == ["large"] * 3 + ["small"] * 3


def test_another_device_is_asked_in_place_of_one_that_vanished(tmp_path):
    with Served(tmp_path) as served:
        for _ in range(3):
            served.phone().check_in("small")
        assert "task" not in served.phone().check_in("small")
        with served.database.write() as connection:
            connection.execute(update(tasks).values(given=tasks.c.given - 601))
        assert "task" in served.phone().check_in("small")


def test_an_update_that_is_too_old_is_refused(tmp_path):
    with Served(tmp_path, goal=1, max_staleness=1) as served:
        slow = served.phone()
        task = slow.check_in("large")["task"]
        data = update_bytes(served.folder, slow.model(task["model"]))
        for _ in range(2):
            served.take_part()
            served.step()
        status, answer = slow.put(task["task"], data)
        assert (status, answer["code"]) == (410, "stale")


def test_without_staleness_an_update_counts_in_its_own_round_or_not_at_all(tmp_path):
    with Served(tmp_path, goal=1, max_staleness=0) as served:
        slow = served.phone()
        task = slow.check_in("large")["task"]
        data = update_bytes(served.folder, slow.model(task["model"]))
        served.take_part()
        # The round's updates are chosen, but not merged yet.
        assert served.rounds.step()
        status, answer = slow.put(task["task"], data)
        assert (status, answer["code"]) == (410, "stale")
        assert "which is being closed" in answer["message"]
        served.step()
        assert slow.put(task["task"], data)[0] == 410
        assert states(served) == ["used"]


@pytest.mark.slow
def test_a_rollback_opens_an_earlier_round_again(tmp_path, url):
    with Served(tmp_path, url, goal=1) as served:
        for number in (1.0, 10.0, 100.0):
            served.take_part(value=number)
            served.step()
        slow = served.phone()
        task = slow.check_in()["task"]
        data = update_bytes(served.folder, slow.model(task["model"]))
        with served.database.write() as connection, pytest.raises(ValueError, match="received 3"):
            roll_back(connection, tmp_path, 3, time.time())
        with served.database.write() as connection:
            assert roll_back(connection, tmp_path, 1, time.time()) == [1, 2, 3]
        assert value(served) == 1
        assert states(served) == ["used", "left_out", "left_out"]
        assert slow.put(task["task"], data)[0] == 410
        _, task, _ = served.take_part(value=1000.0)
        assert task["round"] == 1
        served.step()
        assert value(served) == 1001
        assert numbers(served)[-1] == (2, "open")


def test_a_round_without_usable_updates_is_no_earlier_one(tmp_path):
    with Served(tmp_path, goal=1) as served:
        served.take_part(value=1.0)
        served.step()
        served.work.merge = lambda base, paths, *rest: Merged(
            base, {path: Outcome(False, reason="It is not finite.") for path in paths}
        )
        served.take_part(value=10.0)
        served.step()
        assert numbers(served) == [(0, "closed"), (1, "closed"), (1, "open")]
        with served.database.write() as connection, pytest.raises(ValueError, match=r"\(0\)"):
            roll_back(connection, tmp_path, 1, time.time())


def test_a_round_that_is_opened_again_has_the_time_of_a_new_one(tmp_path):
    with Served(tmp_path, goal=1) as served:
        with served.database.write() as connection:
            connection.execute(update(rounds).values(deadline=rounds.c.deadline + 1e6))
        served.take_part(value=1.0)
        served.step()
        now = time.time()
        with served.database.write() as connection:
            roll_back(connection, tmp_path, 0, now)
        with served.database.read() as connection:
            current = current_round(connection)
        assert current.deadline - now == pytest.approx(served.settings.deadline_seconds)


def test_a_rollback_while_a_round_is_closed_wins(tmp_path):
    with Served(tmp_path, goal=1) as served:
        served.take_part(value=1.0)
        served.step()
        served.take_part(value=10.0)
        merge = served.work.merge

        def interrupted(*arguments):
            with served.database.write() as connection:
                roll_back(connection, tmp_path, 0, time.time())
            return merge(*arguments)

        served.work.merge = interrupted
        served.step()
        assert value(served) == 0
        assert [state for _, state in numbers(served)] == ["undone", "undone", "open"]


def test_what_was_counted_is_removed_unless_it_is_kept(tmp_path):
    with Served(tmp_path, goal=1, keeps_updates=False) as served:
        phone, task, data = served.take_part(value=1.0)
        assert list(tmp_path.glob("updates/*/*"))
        served.step()
        assert not list(tmp_path.glob("updates/*/*"))
        assert phone.put(task["task"], data)[0] == 200
        served.take_part(value=2.0)
        served.step()
        assert value(served) == 3


def test_the_page_shows_the_rounds(tmp_path, url):
    with Served(tmp_path, url, goal=1) as served:
        phone, task, _ = served.take_part(value=1.0)
        status, _ = phone.put(task["task"], b"other")
        assert status == 409
        served.step()
        with served.database.read() as connection:
            state = overview(connection, time.time())
        first, second = state["rounds"]
        assert (first["used"], first["late"], first["refused"]) == (1, 0, {"sent_before": 1})
        assert (second["state"], second["accuracies"]) == ("open", {"small": 0.5, "large": 0.75})
        assert state["devices"] == {"enrolled": 1, "active": 1, "revoked": 0}
        assert [tier["tier"] for tier in state["round"]["tiers"]] == ["small", "large"]
        assert state["received_bytes"] == first["bytes"] > 0


def test_the_page_reads_the_latest_rounds_alone(tmp_path, url, monkeypatch):
    monkeypatch.setattr(gateway_overview, "_MAX_ROUNDS", 2)
    with Served(tmp_path, url, goal=1) as served:
        for number in range(3):
            phone, task, _ = served.take_part(value=float(number))
            assert phone.put(task["task"], b"other")[0] == 409
            served.step()
        with served.database.read() as connection:
            state = overview(connection, time.time())
            values = gauges(connection, time.time())
    assert [row["number"] for row in state["rounds"]] == [2, 3]
    assert [row["used"] for row in state["rounds"]] == [1, 0]
    assert state["rounds"][0]["refused"] == {"sent_before": 1}
    assert state["received_bytes"] == state["rounds"][0]["bytes"]
    assert (values["round"], values['devices{state="enrolled"}']) == (3, 3)


def test_of_rounds_that_are_over_the_newest_are_kept(tmp_path):
    with Served(tmp_path, goal=1, max_staleness=1, kept_rounds=0) as served:
        for number in range(4):
            slow = served.phone()
            late = slow.check_in("large")["task"]
            data = update_bytes(served.folder, slow.model(late["model"]), 0.5)
            served.take_part(value=float(number))
            served.step()
        # The model of a round whose updates may still arrive late is kept.
        assert slow.put(late["task"], data)[0] == 201
        assert sorted(path.name[:6] for path in tmp_path.glob("rounds/*")) == ["000003", "000004"]
        assert len(list(tmp_path.glob("models/*"))) == 2 * 2
        with served.database.write() as connection:
            with pytest.raises(ValueError, match="expected what round 2 needs, received nothing"):
                roll_back(connection, tmp_path, 2, time.time())
            roll_back(connection, tmp_path, 3, time.time())
        served.take_part(value=10.0)
        served.step()
        assert value(served) == 0 + 1 + 2 + 10


def test_what_is_left_over_is_asked_for_at_once(tmp_path):
    with Served(tmp_path, goal=9) as served:
        for number in range(3):
            served.take_part(value=float(number))
        for number in range(9):
            (tmp_path / "updates" / "00" / f"unknown{number}-0.safetensors").write_bytes(b"")
        asked = []
        sqlalchemy.event.listen(
            served.database._engine, "before_cursor_execute", lambda *of: asked.append(of[2])
        )
        remove_left_over_updates(served.database, str(tmp_path), time.time(), False)
        assert len(list(tmp_path.glob("updates/*/*"))) == 3 + 9
        folders = {path.parent for path in tmp_path.glob("updates/*/*")}
        assert sum("SELECT" in text for text in asked) <= len(folders)


def test_an_update_accepted_while_its_round_is_taken_back_is_left_out(tmp_path):
    with Served(tmp_path, goal=1) as served:
        served.take_part(value=1.0)
        served.step()
        served.take_part(value=10.0)
        with served.database.write() as connection:
            roll_back(connection, tmp_path, 0, time.time())
            # As if the update had been recorded at the same moment.
            connection.execute(
                update(updates).where(updates.c.merged_in.is_(None)).values(state="waiting")
            )
        served.step()
        assert value(served) == 0
        assert states(served) == ["left_out", "left_out"]


def test_a_round_that_must_not_be_merged_rests_until_it_may(tmp_path, url):
    with Served(tmp_path, url, goal=1, max_staleness=0, work=SumRounds(tmp_path, 1)) as served:
        slow = served.phone()
        task = slow.check_in("large")["task"]
        data = update_bytes(served.folder, slow.model(task["model"]))
        served.take_part(value=1.0)
        served.step()
        assert numbers(served) == [(0, "closed"), (1, "resting")]
        assert served.told.count("The budget is spent.") == 1
        assert "task" not in slow.check_in("large")
        assert slow.put(task["task"], data)[0] == 410
        assert slow.json("GET", "/v1/status")[1]["round"] == 1
        with served.database.read() as connection:
            assert overview(connection, time.time())["round"]["state"] == "resting"
    with Served(tmp_path, url, goal=1, max_staleness=0) as served:
        served.take_part(value=10.0)
        served.step()
        assert value(served) == 11


def test_a_round_whose_valid_updates_are_too_few_waits_for_more(tmp_path):
    merge = SumRounds.merge

    class Robust(SumRounds):
        """Merges at least three valid updates; an update with value 9 is invalid."""

        def merge(self, base, paths, *more):
            merged = merge(self, base, paths, *more)
            values = [
                float(read_update(path, SPACE, lambda architecture: SHAPES).delta["b/kernel"][0])
                for path in paths
            ]
            bad = {path: Outcome(False, 0.0, "bad") for path in paths if values.pop(0) == 9}
            if len(paths) - len(bad) < 3:
                return Merged(base, bad, waits_for_more=True)
            return merged

    with Served(tmp_path, goal=3, over_asking=0.0, work=Robust(tmp_path)) as served:
        for tier, given in (("small", 1.0), ("small", 9.0), ("large", 2.0)):
            served.take_part(tier, given)
        served.step()
        assert numbers(served) == [(0, "open")]
        assert sorted(states(served)) == ["left_out", "waiting", "waiting"]
        # Another device is asked instead of the one whose update was left out.
        served.take_part("small", 4.0)
        served.step()
        assert value(served) == 7
        assert sorted(states(served)) == ["left_out", "used", "used", "used"]


def test_a_round_that_is_being_closed_waits_where_it_must_not_be_merged(tmp_path):
    with Served(tmp_path, goal=1) as served:
        served.take_part(value=1.0)
        assert served.rounds.step()
    with Served(tmp_path, goal=1, work=SumRounds(tmp_path, 0)) as served:
        assert not served.rounds.step()
        assert numbers(served) == [(0, "closing")]
    with Served(tmp_path, goal=1) as served:
        served.step()
        assert value(served) == 1
