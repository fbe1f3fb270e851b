"""Tests of round plans: tiers by share, cohorts, redraws, availability, the sandwich."""

import collections

import numpy as np
import pytest

from fedsup_tf.presets import digits_small
from fedsup_tf.search.costs import count_macs, count_parameters
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from tff_programs.simulation.round_plan import Assignment
from tff_programs.simulation.tiers import Tier, default_tiers, parse_tiers

SPACE = digits_small()


def make(**changes):
    tiers = changes.pop("tiers", default_tiers(SPACE, 0))
    fields = dict(space=SPACE, tiers=tiers, clients=40, clients_per_round=10, seed=3)
    return Assignment(**{**fields, **changes})


def test_each_tier_has_its_share_of_the_clients():
    tiers = tuple(
        Tier(name, SPACE.smallest(), share) for name, share in (("a", 1), ("b", 2), ("c", 5))
    )
    counts = collections.Counter(make(tiers=tiers).tier_of_clients())
    assert counts == {0: 5, 1: 10, 2: 25}


def test_a_plan_depends_on_seed_and_round_alone():
    one, other = make().plan(7), make().plan(7)
    assert one.clients == other.clients
    assert one.architectures == other.architectures
    np.testing.assert_array_equal(one.seeds, other.seeds)
    assert one.clients != make().plan(8).clients
    assert one.clients != make(seed=4).plan(7).clients


def test_a_cohort_has_distinct_clients_that_train_their_tiers_subnets():
    assignment = make(redraw=False)
    tiers = assignment.tier_of_clients()
    for number in range(20):
        plan = assignment.plan(number)
        assert len(set(plan.clients)) == plan.asked == 10
        for client, architecture in zip(plan.clients, plan.architectures, strict=True):
            assert architecture == assignment.tiers[tiers[client]].architecture


def test_seeds_differ_between_clients_and_rounds():
    seeds = [tuple(seed) for number in range(10) for seed in make().plan(number).seeds]
    assert len(set(seeds)) == len(seeds)


def test_seeds_do_not_repeat_between_runs_of_neighbouring_or_large_seeds():
    seeds = [
        tuple(seed)
        for run in (0, 1, 2**31, 2**31 + 1, 2**40)
        for number in range(3)
        for seed in make(seed=run, clients_per_round=40, redraw=False).plan(number).seeds
    ]
    assert len(set(seeds)) == len(seeds)


def test_a_secret_seed_decides_who_is_asked_and_nothing_else():
    secret, other = (make(cohort_seed=10**38 + n, cohorts="random") for n in range(2))
    assert secret.plan(2).clients != other.plan(2).clients
    assert (secret.tier_of_clients() == other.tier_of_clients()).all()
    assert secret.has_secret_random_cohorts
    assert not make(cohorts="random").has_secret_random_cohorts
    assert not make(cohort_seed=10**38).has_secret_random_cohorts


def test_a_redraw_is_any_subnet_that_the_device_carries():
    (tier,) = parse_tiers(SPACE, ["20000-40000"], 0)
    assignment = make(tiers=(tier,), tier_net_share=0.0)
    drawn = {a for number in range(20) for a in assignment.plan(number).architectures}
    sizes = [count_parameters(SPACE, architecture) for architecture in drawn]
    assert len(drawn) > 50
    assert max(sizes) <= 40000
    assert min(sizes) < 20000


def test_a_limit_of_macs_bounds_what_is_drawn():
    (tier,) = parse_tiers(SPACE, ["macs:100000-300000"], 0)
    assert 100000 <= count_macs(SPACE, tier.architecture) <= 300000
    assignment = make(tiers=(tier,), tier_net_share=0.0)
    drawn = [a for number in range(10) for a in assignment.plan(number).architectures]
    assert max(count_macs(SPACE, architecture) for architecture in drawn) <= 300000


def test_the_tiers_own_subnet_is_drawn_with_its_share():
    (tier,) = parse_tiers(SPACE, ["largest"], 0)
    assignment = make(tiers=(tier,), tier_net_share=0.5)
    drawn = [a for number in range(40) for a in assignment.plan(number).architectures]
    assert 150 < drawn.count(SPACE.largest()) < 250


def test_a_pass_asks_every_client_once_and_each_tier_evenly():
    assignment = make()
    tiers = assignment.tier_of_clients()
    for number in range(3):
        plans = [assignment.plan(4 * number + place) for place in range(4)]
        assert sorted(client for plan in plans for client in plan.clients) == list(range(40))
        for plan in plans:
            counts = np.bincount(tiers[list(plan.clients)], minlength=4)
            assert counts.min() >= 1
            assert counts.max() <= 4
    first, second = (assignment.plan(number).clients for number in (0, 4))
    assert set(first) != set(second)


def test_clients_left_over_by_a_pass_are_asked_in_others():
    assignment = make(clients=13, clients_per_round=5)
    passes = [
        [*assignment.plan(2 * n).clients, *assignment.plan(2 * n + 1).clients] for n in range(20)
    ]
    assert all(len(set(clients)) == 10 for clients in passes)
    assert {client for clients in passes for client in clients} == set(range(13))


def test_only_those_who_carry_an_architecture_train_it_alone():
    assignment = make(architecture=SPACE.largest())
    tiers = assignment.tier_of_clients()
    answered = []
    for number in range(4):
        plan = assignment.plan(number)
        assert plan.asked == 10
        assert set(plan.architectures) <= {SPACE.largest()}
        answered += plan.clients
    assert sorted(answered) == [client for client in range(40) if tiers[client] == 3]


def test_a_sandwich_has_a_smallest_and_a_largest_in_each_round():
    (tier,) = parse_tiers(SPACE, ["20000-40000"], 0)
    for number in range(5):
        architectures = make(tiers=(tier,), sandwich=True).plan(number).architectures
        assert SPACE.smallest() in architectures
        assert SPACE.largest() in architectures


@pytest.mark.slow
def test_clients_that_do_not_answer_are_missing_with_their_subnets():
    assignment = make(availability=0.5)
    plans = [assignment.plan(number) for number in range(20)]
    answered = [len(plan.clients) for plan in plans]
    assert 75 < sum(answered) < 125
    assert min(answered) < max(answered)
    full = make()
    for number, plan in enumerate(plans):
        everyone = full.plan(number)
        asked = dict(zip(everyone.clients, everyone.architectures, strict=True))
        assert plan.asked == 10
        assert len(plan.seeds) == len(plan.clients) == len(plan.architectures)
        assert dict(zip(plan.clients, plan.architectures, strict=True)).items() <= asked.items()


def test_tiers_are_read_from_text(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(SPACE.smallest().to_json())
    tiers = parse_tiers(SPACE, ["smallest@3", "largest", str(path), "20000-40000@0.5"], 0)
    assert [tier.name for tier in tiers] == ["smallest", "largest", "mine", "20000-40000"]
    assert [tier.share for tier in tiers] == [3.0, 1.0, 1.0, 0.5]
    assert tiers[2].architecture == SPACE.smallest()
    assert 20000 <= count_parameters(SPACE, tiers[3].architecture) <= 40000


def test_the_path_of_a_tier_may_hold_an_at_sign(tmp_path):
    path = tmp_path / "me@home" / "mine.json"
    path.parent.mkdir()
    path.write_text(SPACE.smallest().to_json())
    for entry, share in ((str(path), 1.0), (f"{path}@3", 3.0)):
        (tier,) = parse_tiers(SPACE, [entry], 0)
        assert (tier.name, tier.share) == ("mine", share)


def test_tiers_that_name_no_file_or_whose_shares_overflow_are_refused():
    with pytest.raises(ValueError, match="above 0, of at most 1,000,000, behind the @"):
        parse_tiers(SPACE, ["smallest@1e308", "largest@1e308"], 0)
    for name in ("../a", "a/b", "", "..", "a\n", 300 * "a"):
        with pytest.raises(ValueError, match="Expected a tier's name as printable text"):
            make(tiers=(Tier(name, SPACE.smallest()),))


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        (Stage("a", (16, 32), (1,), (3,), 2), ["smallest", "largest"]),
        (Stage("a", (16,), (1,), (3, 5), 2), ["smallest", "largest"]),
        (Stage("a", (16, 17), (1,), (3,), 2), ["smallest", "largest"]),
        (Stage("a", (16, 20, 32), (1,), (3,), 2), ["smallest", "middle", "largest"]),
        (Stage("a", (16, 28, 32), (1,), (3,), 2), ["smallest", "middle-large", "largest"]),
        (Stage("a", (16,), (1,), (3,), 2), ["only"]),
    ],
)
def test_a_small_space_has_fewer_default_tiers_and_says_so(stage, names):
    space = SearchSpace("t", (8, 8, 1), 10, 8, 1, (stage,))
    lines = []
    tiers = default_tiers(space, 0, lines.append)
    assert [tier.name for tier in tiers] == names
    assert len({tier.architecture for tier in tiers}) == len(tiers)
    absent = {"middle", "middle-large"}.difference(names) if len(names) > 1 else set()
    assert len(lines) == bool(absent)
    assert all(repr(name) in lines[0] for name in absent)
    assignment = make(space=space, tiers=tiers, clients=30, clients_per_round=6)
    assert np.ptp(np.bincount(assignment.tier_of_clients(), minlength=len(tiers))) <= 1


@pytest.mark.parametrize(
    "entry",
    [
        *("huge", "smallest@0", "smallest@x", "smallest@nan", "largest@inf", "5-", "a-b"),
        # Digits that are not numbers, and numbers that are far too large.
        *("\N{SUPERSCRIPT TWO}-9", "1-\N{SUPERSCRIPT THREE}", f"1-{10**30}", "9" * 5000 + "-1"),
    ],
)
def test_a_tier_that_is_none_is_refused_by_name(entry):
    with pytest.raises(ValueError, match=f"^Tier '{entry}'.*expected"):
        parse_tiers(SPACE, [entry], 0)


def test_tiers_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.json").write_text(SPACE.smallest().to_json())
    entries = [str(tmp_path / folder / "net.json") for folder in ("a", "b")]
    with pytest.raises(ValueError, match=r"received 2 called 'net'.*rename one"):
        parse_tiers(SPACE, entries, 0)
    with pytest.raises(ValueError, match="received 2 called 'net'"):
        make(tiers=(Tier("net", SPACE.smallest()), Tier("net", SPACE.largest())))


@pytest.mark.parametrize(
    "changes",
    [
        {"tiers": (Tier("a", SPACE.smallest(), float("nan")), Tier("b", SPACE.largest()))},
        {"tiers": ()},
        {"clients_per_round": 0},
        {"clients_per_round": 41},
        {"availability": 0.0},
        {"availability": 1.5},
        {"clients_per_round": 1, "sandwich": True},
    ],
)
def test_impossible_rounds_are_refused(changes):
    with pytest.raises(ValueError, match=r"[Ee]xpected|needs"):
        make(**changes)
