"""Tests of the influence of one hostile phone in four on a merge with default limits."""

import dataclasses
import functools

import numpy as np
import pytest
from spaces import FEWER_CHOICES as SPACE
from updates import Update, run

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators.robust import RobustOverlapMeanFactory
from tflite.format.update_file import DeviceUpdate, write_update
from tflite.merge.cohort import CohortLimits
from tflite.merge.merge import merge_updates
from tflite.merge.received_updates import subnet_shapes

SUPERNET = Supernet(SPACE, seed=4)
BASE = SUPERNET.values_by_name()
BASE_HASH = fingerprint(BASE)
MIDDLE = Architecture((16, 16), (1, 1), (5, 3))
LARGEST = SPACE.largest()
NAMES = list(BASE)


def make_update(number, architecture=LARGEST, examples=None, common=0.5, size=0.02):
    """Returns a phone's update: the sum of a part common to all phones and one of its own."""
    shared, own = np.random.default_rng(99), np.random.default_rng(number)
    slices = SUPERNET.slices(architecture)
    delta = {}
    for name, shape in subnet_shapes(SUPERNET, architecture).items():
        together = shared.normal(size=BASE[name].shape)
        box = tuple(slice(b, b + s) for b, s in zip(*slices[name], strict=True))
        value = common * together[box] + (1 - common) * own.normal(size=shape)
        delta[name] = (size * value).astype(np.float32)
    return DeviceUpdate(
        delta=delta,
        architecture=architecture,
        base_hash=BASE_HASH,
        base_round=7,
        examples=examples or 20 + 7 * number,
        loss_before=1.5,
        loss_after=0.5,
        client=f"phone {number}",
    )


def change_of(updates, **choices):
    SUPERNET.assign_weights(BASE)
    report = merge_updates(SUPERNET, BASE_HASH, updates, **choices)
    after = SUPERNET.values_by_name()
    change = [np.ravel(after[name].astype(np.float64) - BASE[name]) for name in NAMES]
    return np.concatenate(change), report


@functools.cache
def three_honest(common):
    """Returns three honest phones' updates, and the change that they make on their own."""
    updates = [make_update(number, common=common) for number in range(3)]
    return updates, change_of(updates)[0]


def spoil(update, make, examples=None):
    """Returns the update with each tensor replaced."""
    rng = np.random.default_rng(5)
    delta = {name: make(value, rng).astype(np.float32) for name, value in update.delta.items()}
    return dataclasses.replace(
        update, delta=delta, examples=examples or update.examples, client="hostile"
    )


HOSTILE = {
    "times -1e6": lambda update: spoil(update, lambda value, _: value * -1e6),
    "of 3e38": lambda update: spoil(update, lambda value, _: np.full_like(value, 3e38)),
    "one entry of 3e38": lambda update: spoil(
        update,
        lambda value, _: np.where(np.arange(value.size).reshape(value.shape) == 0, 3e38, value),
    ),
    "sign flipped, times 100": lambda update: spoil(update, lambda value, _: -100 * value),
    "sign flipped, times 9": lambda update: spoil(update, lambda value, _: -9 * value),
    "noise of a huge norm": lambda update: spoil(
        update, lambda value, rng: 50 * rng.normal(size=value.shape)
    ),
    "claims 2^31 - 1": lambda update: spoil(update, lambda value, _: value, 2**31 - 1),
    "flipped, claims 2^31 - 1": lambda update: spoil(update, lambda value, _: -value, 2**31 - 1),
    "flipped, claims 90 times as many": lambda update: spoil(
        update, lambda value, _: 2.9 * value[::-1], 90 * update.examples
    ),
    "nothing learned, claims 2^31 - 1": lambda update: spoil(
        update, lambda value, _: 0 * value, 2**31 - 1
    ),
    "nearly nothing learned": lambda update: spoil(update, lambda value, _: 1e-30 * value),
}


@pytest.mark.parametrize("common", [0.0, 0.5])
@pytest.mark.parametrize("kind", HOSTILE)
def test_one_hostile_phone_in_four_steers_nothing(kind, common):
    honest, alone = three_honest(common)
    hostile = HOSTILE[kind](make_update(3, common=common))
    together, report = change_of([honest[0], hostile, *honest[1:]])
    assert np.isfinite(together).all()
    assert np.linalg.norm(together) <= 2.001 * np.linalg.norm(alone)
    # The honest updates still have an effect.
    assert together @ alone >= 0.249 * (alone @ alone)
    used = {update.name: update for update in report.used}
    assert {f"phone {number}" for number in range(3)} <= used.keys()
    assert all(used[f"phone {number}"].scale == 1 for number in range(3))
    left_out = {name for name, _ in report.rejected}
    assert left_out <= {"hostile"}
    assert "hostile" in used.keys() | left_out


@pytest.mark.slow
@pytest.mark.parametrize("honest_count", [2, 3, 7])
def test_a_phone_that_points_against_the_others_keeps_nothing_away(honest_count):
    honest = [make_update(number, examples=40) for number in range(honest_count)]
    alone, _ = change_of(honest)
    rng = np.random.default_rng(3)
    for factor in (-9.9, -1.0, -0.3):
        mean = {n: np.mean([update.delta[n] for update in honest], 0) for n in honest[0].delta}
        noise = {name: 0.005 * rng.normal(size=value.shape) for name, value in mean.items()}
        delta = {n: (factor * value + noise[n]).astype(np.float32) for n, value in mean.items()}
        hostile = dataclasses.replace(honest[0], delta=delta, client="hostile")
        together, report = change_of([*honest, hostile])
        assert np.linalg.norm(together) <= 2.001 * np.linalg.norm(alone)
        assert together @ alone >= 0.249 * (alone @ alone)
        assert all(update.scale == 1 for update in report.used if update.name != "hostile")


@pytest.mark.slow
def test_a_hostile_phone_of_another_subnet_steers_nothing():
    honest = [make_update(n, a) for n, a in enumerate([SPACE.smallest(), MIDDLE, LARGEST])]
    alone, _ = change_of(honest)
    for architecture in (SPACE.smallest(), LARGEST):
        for kind in ("times -1e6", "of 3e38", "sign flipped, times 100", "claims 2^31 - 1"):
            together, report = change_of([*honest, HOSTILE[kind](make_update(3, architecture))])
            assert [name for name, _ in report.rejected] == ["hostile"]
            np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_an_ordinary_cohort_is_merged_as_it_is_to_the_bit(count):
    architectures = [LARGEST, SPACE.smallest(), MIDDLE, LARGEST, MIDDLE, LARGEST]
    examples, sizes = [30, 55, 12, 90, 40, 25], [0.02, 0.04, 0.015, 0.03, 0.01, 0.02]
    rows = list(zip(architectures, examples, sizes, strict=True))[:count]
    updates = [make_update(n, a, e, size=s) for n, (a, e, s) in enumerate(rows)]
    actual, report = change_of(updates)
    trusted, _ = change_of(updates, limits=None)
    np.testing.assert_array_equal(actual, trusted)
    assert not report.rejected
    for update, (_, claimed, _) in zip(report.used, rows, strict=True):
        assert (update.scale, update.believed_examples) == (1.0, claimed)


def test_a_phone_alone_is_held_against_the_weights_it_changes():
    update = make_update(0)
    with pytest.raises(ValueError, match=r"at most 100 times the .* of the weights it changes"):
        change_of([HOSTILE["times -1e6"](update)])
    # Without limits it is accepted.
    change, _ = change_of([HOSTILE["times -1e6"](update)], limits=None)
    assert np.linalg.norm(change) > 1000


def test_of_two_phones_neither_carries_the_other_away():
    first, second = make_update(0, examples=10), make_update(1, examples=5000)
    alone, _ = change_of([first])
    loud = spoil(second, lambda value, _: -60 * value)
    together, report = change_of([first, loud])
    # The larger update is at most twice as large, and counts as 40 examples instead of 5,000.
    assert np.linalg.norm(together) <= 2.001 * np.linalg.norm(alone)
    assert [update.believed_examples for update in report.used] == [10, 40]
    assert report.used[1].scale == pytest.approx(1 / 30, rel=0.1)


def test_claims_are_capped_at_what_is_asked_for():
    updates = [
        make_update(0, examples=10),
        make_update(1, examples=30),
        make_update(2, examples=20),
    ]
    _, report = change_of(updates, max_examples=25)
    assert [update.believed_examples for update in report.used] == [10, 25, 20]
    capped = [dataclasses.replace(update, examples=min(update.examples, 25)) for update in updates]
    np.testing.assert_array_equal(change_of(updates, max_examples=25)[0], change_of(capped)[0])


def test_files_and_objects_are_merged_to_the_same_bits(tmp_path):
    updates = [make_update(0, MIDDLE), make_update(1), make_update(2)]
    for number, update in enumerate(updates):
        write_update(tmp_path / str(number), update)
    expected, _ = change_of(updates)
    for source in ([tmp_path / str(number) for number in range(3)], iter(updates)):
        np.testing.assert_array_equal(change_of(source)[0], expected)


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (dict(max_examples=0), "max_examples to be a whole number from 1"),
        (dict(poisoned=0.5), "below 0.5"),
        (dict(poisoned=float("nan")), "below 0.5"),
        (dict(clip_norm=float("inf")), "clip_norm to be a finite number above 0"),
        (dict(poisoned=0.2), "at least 3 valid updates"),
    ],
)
def test_choices_out_of_bounds_are_refused(choice, told):
    with pytest.raises(ValueError, match=told):
        change_of([make_update(0)], **choice)
    with pytest.raises(ValueError, match="to be a finite number of at least 1"):
        CohortLimits(size=float("nan"))


def test_a_result_that_is_not_finite_is_never_written():
    supernet = Supernet(SPACE)
    names = supernet.weights_by_name()
    names["head/kernel"].assign(np.full_like(BASE["head/kernel"], 3e38))
    before = supernet.values_by_name()
    update = spoil(make_update(0), lambda value, _: np.full_like(value, 3e38))
    update = dataclasses.replace(update, examples=1)
    with pytest.raises(ValueError, match="whose mean gives finite weights"):
        merge_updates(supernet, BASE_HASH, [update], limits=None)
    for name, value in before.items():
        np.testing.assert_array_equal(supernet.values_by_name()[name], value)


def test_the_robust_mean_is_that_of_a_federated_round(execution):
    architectures = [SPACE.smallest(), LARGEST, MIDDLE, LARGEST, MIDDLE]
    sent = [make_update(n, a, 10 + n) for n, a in enumerate(architectures)]
    sent[3] = spoil(sent[3], lambda value, _: -7 * value)
    clients = [Update(n, a, examples=10.0 + n) for n, a in enumerate(architectures)]
    for client, update in zip(clients, sent, strict=True):
        client.delta.update(update.delta)
    supernet = Supernet(SPACE)
    (round_result,) = run(execution, RobustOverlapMeanFactory(supernet, 0.2, 5), clients)
    base = supernet.values_by_name()
    report = merge_updates(supernet, BASE_HASH, sent, poisoned=0.2)
    assert [name for name, _ in report.rejected] == ["hostile"]
    for name, value in supernet.values_by_name().items():
        np.testing.assert_allclose(
            value - base[name], round_result.delta[name], 0, 1e-6, err_msg=name
        )
