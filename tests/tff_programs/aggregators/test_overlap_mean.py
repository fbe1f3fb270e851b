"""Compares overlap means of subnets' updates with NumPy, alone and over TFF's aggregators."""

import asyncio
import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from updates import SUPERNET, Update, assert_equal, build, cohort, element, overlap_mean, run

from tff_programs.aggregators import clipping
from tff_programs.aggregators.compression import EightBitUpload
from tff_programs.aggregators.overlap_mean import OverlapMeanFactory, Upload
from tff_programs.aggregators.padded_overlap_mean import (
    PaddedOverlapMeanFactory,
    secure_overlap_mean,
)


@pytest.mark.parametrize("divisor", ["coverage", "diluted"])
def test_the_overlap_mean_weighs_by_examples(execution, divisor):
    updates = cohort()
    (result,) = run(execution, OverlapMeanFactory(SUPERNET, divisor), updates)
    mean, covered = overlap_mean(updates, divisor=divisor)
    assert_equal(result.delta, mean)
    assert all(np.array_equal(result.covered[name], covered[name]) for name in mean)
    assert result.measurements["clients"] == 4
    assert result.measurements["examples"] == 46


def test_clipping_scales_by_the_norm_of_covered_entries(execution):
    updates = cohort()
    norms = [update.norm() for update in updates]
    bound = float(np.median(norms))
    factory = clipping.ClippingFactory(bound, OverlapMeanFactory(SUPERNET))
    (result,) = run(execution, factory, updates)
    for update, norm in zip(updates, norms, strict=True):
        update.delta = {name: d * min(1.0, bound / norm) for name, d in update.delta.items()}
    assert_equal(result.delta, overlap_mean(updates)[0])
    assert result.measurements["clipped"] == sum(norm > bound for norm in norms)
    assert result.measurements["clipping_norm"] == pytest.approx(bound)


def test_zeroing_takes_an_outlier_as_no_change(execution):
    updates = cohort()
    updates[2].delta = {name: 1e6 * part for name, part in updates[2].delta.items()}
    factory = clipping.ZeroingFactory(1e4, OverlapMeanFactory(SUPERNET))
    (result,) = run(execution, factory, updates)
    updates[2].delta = {name: 0 * part for name, part in updates[2].delta.items()}
    assert_equal(result.delta, overlap_mean(updates)[0])
    assert result.measurements["zeroed"] == 1


def test_an_adaptive_norm_follows_the_clients(execution):
    updates = cohort()
    norms = sorted(update.norm() for update in updates)
    factory = clipping.ClippingFactory(
        clipping.adaptive_clipping_norm(1.0), OverlapMeanFactory(SUPERNET)
    )
    results = run(execution, factory, updates, rounds=40)
    bounds = [float(result.measurements["clipping_norm"]) for result in results]
    assert bounds[0] == 1.0
    assert all(after > before for before, after in itertools.pairwise(bounds[:11]))
    # The 80th percentile of four clients: from the third norm to slightly above the fourth.
    assert norms[2] * 0.9 < bounds[-1] < norms[3] * 1.25


def test_zeroing_and_clipping_compose(execution):
    updates = cohort()
    updates[1].delta = {name: 1e6 * part for name, part in updates[1].delta.items()}
    inner = clipping.ClippingFactory(1.0, OverlapMeanFactory(SUPERNET))
    (result,) = run(execution, clipping.ZeroingFactory(1e4, inner), updates)
    assert result.measurements["zeroed"] == 1
    assert result.measurements["clipped"] == 3


def test_what_is_not_finite_passes_clipping_and_is_left_out(execution):
    updates = cohort()
    next(iter(updates[3].delta.values())).flat[0] = np.inf
    next(iter(updates[0].delta.values())).flat[0] = np.nan
    factory = clipping.ClippingFactory(1e9, OverlapMeanFactory(SUPERNET))
    (result,) = run(execution, factory, updates)
    assert_equal(result.delta, overlap_mean(updates[1:3])[0])
    assert sorted(result.measurements["rejected"]) == [0, 3]


def test_eight_bits_an_entry_err_by_less_than_a_level(execution):
    updates = cohort()
    (result,) = run(execution, OverlapMeanFactory(SUPERNET, upload=EightBitUpload()), updates)
    mean, _ = overlap_mean(updates)
    for name in mean:
        largest = max([np.abs(update.delta[name]).max(initial=0) for update in updates])
        assert np.abs(result.delta[name] - mean[name]).max() <= largest / 127 + 1e-6
    assert any(np.abs(result.delta[name] - mean[name]).max() > 1e-5 for name in mean)
    # Errors are uniform within a level, which is 1/127 of about three standard deviations.
    assert 0.002 < result.measurements["compression_error"] < 0.02


@pytest.mark.slow
def test_rounding_to_eight_bits_is_unbiased():
    upload = EightBitUpload()
    values = np.linspace(-1, 1, 41, dtype=np.float32)
    total = 0
    for client in range(400):
        update = Update(client, SUPERNET.space.smallest())
        message = upload.encode(_tensors(update, (values,)))
        total = total + upload.decode(message)[0].delta[0].numpy()
    # Mean of 400 draws within a level; 5 standard deviations, each at most half a level.
    assert np.abs(total / 400 - values).max() < 5 * 0.5 / 127 / np.sqrt(400)


def test_eight_bit_rounding_repeats_itself():
    upload = EightBitUpload()
    update = _tensors(Update(3, SUPERNET.space.smallest()), (np.float32([0.1, 1.0, -0.37]),))
    assert np.array_equal(upload.encode(update).levels[0], upload.encode(update).levels[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_eight_bits_do_not_hide_what_is_not_finite(bad):
    upload = EightBitUpload()
    update = _tensors(Update(0, SUPERNET.space.smallest()), (np.float32([1, bad, 2]),))
    assert not np.isfinite(upload.decode(upload.encode(update))[0].delta[0]).any()


def test_a_part_that_a_subnet_lacks_travels_as_nothing():
    upload = EightBitUpload()
    empty = np.zeros((3, 0), np.float32)
    update = _tensors(Update(0, SUPERNET.space.smallest()), (empty, np.float32([1, 2])))
    message = upload.encode(update)
    assert message.levels[0].shape == (3, 0)
    assert upload.decode(message)[0].delta[1].numpy() == pytest.approx([1, 2], abs=2 / 127)


def test_tffs_own_sums_serve_for_padded_updates(execution):
    updates = cohort()
    sums = tff.aggregators.HadamardTransformFactory(tff.aggregators.SumFactory())
    factory = PaddedOverlapMeanFactory(SUPERNET, sums, tff.aggregators.SumFactory(), "diluted")
    (result,) = run(execution, factory, updates)
    assert_equal(result.delta, overlap_mean(updates, divisor="diluted")[0], 1e-4)
    assert result.measurements["loss"] == pytest.approx(
        sum(u.loss * u.examples for u in updates) / 46
    )


def test_a_client_leaves_itself_out_of_a_padded_sum(execution):
    updates = cohort()
    next(iter(updates[1].delta.values())).flat[0] = np.nan
    sums = tff.aggregators.SumFactory()
    (result,) = run(execution, PaddedOverlapMeanFactory(SUPERNET, sums, sums), updates)
    del updates[1]
    mean, covered = overlap_mean(updates)
    assert_equal(result.delta, mean)
    assert all(np.array_equal(result.covered[name], covered[name]) for name in mean)
    assert result.measurements["clients"] == 3


@pytest.mark.slow
def test_secure_sums_give_the_mean_in_the_test_context():
    updates = cohort()
    initialize, aggregate = build(secure_overlap_mean(SUPERNET, bound=1000.0))
    context = tff.backends.test.create_async_test_cpp_execution_context()

    async def compute():
        with tff.framework.get_context_stack().install(context):
            return await aggregate(await initialize(), [element(update) for update in updates])

    _, mean, measurements = asyncio.run(compute())
    expected, covered = overlap_mean(updates)
    for name, delta, cover in zip(expected, mean.delta, mean.covered, strict=True):
        np.testing.assert_allclose(delta, expected[name], 0, 1e-6)
        assert np.array_equal(cover, covered[name])
    assert measurements["clients"] == 4


def test_secure_sums_are_refused_where_there_are_none(execution):
    initialize, aggregate = build(secure_overlap_mean(SUPERNET, bound=1000.0))
    state = execution(initialize)
    with pytest.raises(Exception, match=r"(?i)secure|intrinsic|embed"):
        execution(lambda: aggregate(state, [element(update) for update in cohort()]))


@pytest.mark.parametrize("make", [clipping.ClippingFactory, clipping.ZeroingFactory])
@pytest.mark.parametrize("norm", [0.0, -1.0, float("inf"), float("nan")])
def test_a_norm_without_sense_is_refused(make, norm):
    with pytest.raises(
        ValueError, match=f"expected the norm to be a finite number above 0.*received {norm}"
    ):
        make(norm, OverlapMeanFactory(SUPERNET))


def test_an_unknown_kind_is_refused():
    sums = tff.aggregators.SumFactory()
    for make in (
        lambda: OverlapMeanFactory(SUPERNET, "median"),
        lambda: PaddedOverlapMeanFactory(SUPERNET, sums, sums, "median"),
    ):
        with pytest.raises(ValueError, match="coverage, diluted, received 'median'"):
            make()


def _tensors(update, delta):
    from tff_programs.types import SubnetUpdate

    return SubnetUpdate(
        tuple(map(tf.constant, delta)),
        tf.constant(0),
        tf.constant(update.client),
        tf.constant(update.examples),
        tf.constant(update.loss),
    )


def test_an_upload_without_compression_is_the_update():
    update = _tensors(Update(0, SUPERNET.space.smallest()), (np.float32([1]),))
    assert Upload().decode(Upload().encode(update))[0] is update
