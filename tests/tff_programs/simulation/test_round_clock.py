"""Tests of simulated time, by hand: waiting, leaving, deadlines, over-asking, resuming."""

import numpy as np
import pytest
from spaces import SPACE

from fedsup_tf.data.datasets import ImageDataset
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.data.preprocessing import Preprocessing
from tff_programs.simulation.availability import AvailabilityTrace, diurnal_trace
from tff_programs.simulation.clients import ClientData, ClientDataIterator
from tff_programs.simulation.round_clock import SimulatedTime
from tff_programs.simulation.round_plan import Assignment
from tff_programs.simulation.tiers import Tier

TIERS = (Tier("small", SPACE.smallest()), Tier("large", SPACE.largest()))


def duration(client, tier, architecture):
    """Returns 10 s for client 0, 20 s for client 1, and so on."""
    del tier, architecture
    return 10.0 * (client + 1)


def assignment(clients=4, clients_per_round=2, seed=0, **time):
    time = {"client_seconds": duration, **time}
    return Assignment(SPACE, TIERS, clients, clients_per_round, seed, time=SimulatedTime(**time))


def outcome(clients, needed, begin=100.0, **time):
    simulated = SimulatedTime(duration, **time)
    return simulated.outcome(begin, clients, [duration(c, 0, None) for c in clients], needed)


def test_a_round_lasts_as_long_as_its_slowest_client():
    assert outcome([2, 0, 1], 3) == ((0, 1, 2), 130.0)
    assert outcome([], 3) == ((), 100.0)


def test_the_first_to_finish_are_taken_of_more_that_were_asked():
    assert outcome([3, 0, 2, 1], 2) == ((1, 3), 120.0)


def test_a_deadline_ends_a_round_that_lacks_updates():
    assert outcome([3, 0, 2, 1], 4, deadline_seconds=25.0) == ((1, 3), 125.0)
    assert outcome([3, 0, 2, 1], 2, deadline_seconds=25.0) == ((1, 3), 120.0)
    assert outcome([1, 0], 2, deadline_seconds=20.0) == ((0, 1), 120.0)


def test_a_client_that_leaves_before_it_is_done_is_lost():
    trace = AvailabilityTrace(1000, (((0, 500),), ((0, 119),), ((0, 125),), ((90, 140),)))
    # 1 and 2 leave at 119 and 125 s, before 120 and 130; 3 finishes at the moment it leaves.
    assert outcome([0, 1, 2, 3], 4, trace=trace) == ((0, 3), 140.0)
    # The server waits for 2 until it leaves, and no longer.
    assert outcome([2, 0], 2, trace=trace) == ((1,), 125.0)


def test_the_clock_goes_from_round_to_round():
    plans = [assignment(3, 3).plan(0)]
    plans.append(assignment(3, 3).plan(1, plans[0].end_seconds))
    assert [(plan.begin_seconds, plan.end_seconds) for plan in plans] == [(0, 30), (30, 60)]


def test_a_round_waits_until_enough_clients_are_there_and_asks_those():
    trace = AvailabilityTrace(200, (((50, 150),), ((70, 150),), (), ((0, 10),)))
    plan = assignment(trace=trace).plan(0)
    assert sorted(plan.clients) == [0, 1]
    assert (plan.asked, plan.begin_seconds, plan.end_seconds) == (2, 70, 90)
    # Both leave half a second after the start; the next round waits for the next period.
    lost = assignment(trace=trace).plan(1, 149.5)
    assert (lost.asked, lost.clients, lost.end_seconds) == (2, (), 150)
    later = assignment(trace=trace).plan(2, lost.end_seconds)
    assert (later.begin_seconds, later.end_seconds) == (270, 290)


def test_time_changes_nobody_who_is_always_there():
    timed, plain = assignment(20, 5), Assignment(SPACE, TIERS, 20, 5, 0)
    for number in range(5):
        one, other = timed.plan(number, 12.5), plain.plan(number)
        assert one.clients == other.clients
        assert one.architectures == other.architectures
        np.testing.assert_array_equal(one.seeds, other.seeds)


def test_a_plan_takes_the_fastest_of_those_asked_with_their_own_nets_and_seeds():
    whole, timed = Assignment(SPACE, TIERS, 20, 6, 3).plan(4), assignment(20, 4, 3, over_asked=2)
    plan = timed.plan(4)
    assert plan.asked == 6
    fastest = sorted(whole.clients)[:4]
    places = [place for place, client in enumerate(whole.clients) if client in fastest]
    assert plan.clients == tuple(whole.clients[place] for place in places)
    assert plan.architectures == tuple(whole.architectures[place] for place in places)
    np.testing.assert_array_equal(plan.seeds, whole.seeds[places])
    assert plan.end_seconds == 10.0 * (fastest[-1] + 1)


def test_clients_that_do_not_answer_take_no_time():
    time = SimulatedTime(duration)
    for number in range(20):
        plan = Assignment(SPACE, TIERS, 6, 4, 0, availability=0.5, time=time).plan(number, 7.0)
        assert plan.end_seconds == 7.0 + 10.0 * max([client + 1 for client in plan.clients] or [0])


def test_the_tier_of_a_client_is_told():
    told = {}

    def seconds(client, tier, architecture):
        told[client] = (tier, architecture)
        return 1.0

    planned = assignment(8, 8, client_seconds=seconds)
    planned.plan(0)
    tiers = planned.tier_of_clients()
    assert told == {c: (tiers[c], TIERS[tiers[c]].architecture) for c in range(8)}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"over_asked": -1}, "from 0"),
        ({"over_asked": 3}, "at most all 4"),
        ({"deadline_seconds": 0.0}, "above 0"),
        ({"trace": AvailabilityTrace(10, (((0, 5),),) * 3)}, "of 4 clients"),
        ({"trace": AvailabilityTrace(10, (((0, 5),), ((5, 10),), (), ()))}, "1 of the trace's 4"),
    ],
)
def test_impossible_rounds_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        assignment(**fields)


def test_an_iterator_that_was_saved_makes_the_same_rounds():
    trace = diurnal_trace(30, 5)

    def seconds(client, tier, architecture):
        del tier, architecture
        return 1234.567 * (1 + client / 7)

    planned = assignment(30, 8, trace=trace, client_seconds=seconds, over_asked=2)
    images, labels = np.zeros((30, *SPACE.image_shape), np.uint8), np.zeros(30, np.int32)
    names = tuple(map(str, range(SPACE.classes)))
    zeros = Preprocessing((0.0,) * SPACE.image_shape[2], (1.0,) * SPACE.image_shape[2])
    dataset = ImageDataset("zeros", images, labels, images, labels, names, zeros)
    source = ClientData(FederatedDataset.divide(dataset, "iid", 30), planned)
    source.select = lambda plan: plan
    whole = source.iterator()
    plans = [whole.select() for _ in range(12)]
    resumed = source.iterator()
    for number, expected in enumerate(plans):
        resumed = ClientDataIterator.from_bytes(resumed.to_bytes())
        resumed.source = source
        actual = resumed.select()
        assert actual._replace(seeds=None) == expected._replace(seeds=None), number
        np.testing.assert_array_equal(actual.seeds, expected.seeds)
    starts = [plan.begin_seconds for plan in plans]
    assert starts == sorted(set(starts))
    # Some nights end before their rounds, and some rounds wait for a night.
    assert any(len(plan.clients) < 8 for plan in plans)
    ends = [plan.end_seconds for plan in plans]
    assert any(start > end for start, end in zip(starts[1:], ends, strict=False))
