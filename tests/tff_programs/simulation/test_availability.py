"""Tests of availability traces: who is available and until when, waiting, files, nights."""

import math
import pathlib

import pytest

from tff_programs.simulation.availability import (
    DAY,
    HOUR,
    AvailabilityTrace,
    diurnal_trace,
    load_trace,
)

# Client 0 across the period's end, client 1 twice, client 2 never, client 3 always.
TRACE = AvailabilityTrace(100, (((0, 10), (90, 100)), ((5, 20), (50, 60)), (), ((0, 100),)))


def test_the_example_has_a_night_for_each_of_twenty_clients():
    path = pathlib.Path(__file__).parents[3] / "experiments" / "nights.json"
    trace = load_trace(path)
    assert (len(trace.clients), trace.period_seconds) == (20, DAY)
    hours = [sum(end - begin for begin, end in intervals) / HOUR for intervals in trace.clients]
    assert all(7 <= length <= 9 for length in hours)


def test_a_missing_file_is_named_with_its_flag(tmp_path):
    with pytest.raises(
        ValueError, match=r"none\.json': expected .*--availability_trace.*found none"
    ):
        load_trace(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("seconds", "there"),
    [
        (0, [0, 3]),
        (5, [0, 1, 3]),
        (10, [1, 3]),
        (20, [3]),
        (59.5, [1, 3]),
        (60, [3]),
        (195, [0, 3]),
    ],
)
def test_an_interval_has_its_begin_and_not_its_end(seconds, there):
    assert TRACE.available(seconds).tolist() == there


@pytest.mark.parametrize(
    ("client", "seconds", "until"),
    [(0, 3.5, 10), (0, 95, 110), (0, 1000, 1010), (0, 999, 1010), (1, 755, 760), (3, 7, math.inf)],
)
def test_an_interval_over_the_periods_end_is_one(client, seconds, until):
    assert TRACE.available_until(client, seconds) == until


def test_who_is_not_there_leaves_at_no_time():
    with pytest.raises(ValueError, match="client 1"):
        TRACE.available_until(1, 30)


@pytest.mark.parametrize(
    ("count", "seconds", "begin"),
    [(1, 33.25, 33.25), (2, 20.5, 50), (2, 50.5, 50.5), (3, 10, 105), (3, 60.5, 105), (3, 7, 7)],
)
def test_the_first_time_with_enough_clients(count, seconds, begin):
    assert TRACE.time_with(count, seconds) == begin
    assert len(TRACE.available(begin)) >= count


def test_more_clients_than_ever_are_there_at_once_are_refused():
    assert TRACE.max_available == 3
    with pytest.raises(ValueError, match="3 of the trace's 4"):
        TRACE.time_with(4, 0)


def test_times_far_from_the_start_lose_nothing():
    """After many periods and a fraction, a client is available from the exact second on."""
    clock = 12345 * TRACE.period_seconds + 20.1
    begin = TRACE.time_with(2, clock)
    assert begin == 12345 * TRACE.period_seconds + 50
    assert TRACE.available_until(1, begin) == begin + 10


def test_a_file_gives_the_trace_it_was_written_from(tmp_path):
    path = tmp_path / "trace.json"
    path.write_text(TRACE.to_json())
    assert load_trace(path) == TRACE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1", "JSON"),
        ('{"clients": [[]]}', "period_seconds"),
        ('{"period_seconds": 10, "clients": [[]], "zone": 1}', "zone"),
        ('{"period_seconds": 0, "clients": [[]]}', "received 0"),
        ('{"period_seconds": 10, "clients": []}', "one entry or more"),
        ('{"period_seconds": 10, "clients": [[], [[1, 2, 3]]]}', "client 1"),
        ('{"period_seconds": 10, "clients": [[], [[1, 2.5]]]}', "client 1"),
        ('{"period_seconds": 10, "clients": [[[0, 11]]]}', "client 0"),
        ('{"period_seconds": 10, "clients": [[[-1, 3]]]}', "client 0"),
        ('{"period_seconds": 10, "clients": [[[5, 5]]]}', "client 0"),
        ('{"period_seconds": 10, "clients": [[[1, 5], [5, 7]]]}', "touch"),
        ('{"period_seconds": 10, "clients": [[[6, 7], [1, 5]]]}', "in order"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_by_name(tmp_path, text, told):
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"trace\.json") as error:
        load_trace(path)
    assert told in str(error.value)


def test_a_drawn_trace_depends_on_its_seed_alone():
    assert diurnal_trace(30, 1) == diurnal_trace(30, 1)
    assert diurnal_trace(30, 1) != diurnal_trace(30, 2)


def test_drawn_phones_charge_at_night_where_they_live():
    """In one time zone, nearly all are available at 3:00 and none at 15:00."""
    for offset in (0.0, 5.5, -8.0):
        trace = diurnal_trace(200, 0, [offset])
        for day in range(1, 6):
            local = day * DAY - offset * HOUR
            assert len(trace.available(local + 3 * HOUR)) > 160
            assert len(trace.available(local + 15 * HOUR)) == 0


def test_nights_differ_and_zones_follow_each_other():
    trace = diurnal_trace(1, 0)
    lengths = {end - begin for begin, end in trace.clients[0]}
    assert len(lengths) > 3
    both = diurnal_trace(200, 0, [-12.0, 0.0])
    # It is night for one half of the phones and day for the other.
    for hours in (3, 15):
        assert 70 < len(both.available(2 * DAY + hours * HOUR)) < 130


@pytest.mark.parametrize("offsets", [[], [-13.0], [math.nan]])
def test_a_time_zone_that_is_none_is_refused(offsets):
    with pytest.raises(ValueError, match="from -12 to 14"):
        diurnal_trace(3, 0, offsets)
