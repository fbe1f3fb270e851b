"""Tests of the seconds of a device's round, calculated by hand, and of files of devices."""

import json
import pathlib

import numpy as np
import pytest
from spaces import SPACE

from fedsup_tf.architecture import Architecture
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.presets import fedsup_cifar
from fedsup_tf.search.costs import count_macs
from tff_programs.simulation.device_speed import (
    REFERENCE_MACS_PER_SECOND,
    Device,
    DeviceTime,
    default_devices,
    devices_to_json,
    load_devices,
    mean_macs_within,
    training_macs,
)
from tff_programs.simulation.tiers import Tier, default_tiers

TIERS = (Tier("large", SPACE.largest()), Tier("small", SPACE.smallest()))
DEVICES = (Device(2e6, 1000, 500, 0.25), Device(5e5, 800, 100))


def smallest_macs():
    """Counts stem 3x3x1x8 on 6x6; a: 3x3 depthwise, 8x8; b on 3x3: 8 to 16, with a shortcut."""
    return 36 * 9 * 8 + 36 * (9 * 8 + 8 * 8) + 9 * (9 * 8 + 2 * 8 * 16) + 16 * 3


def test_a_round_is_computing_and_sending_and_waiting():
    time = DeviceTime(SPACE, DEVICES, LocalTraining(epochs=2), (7, 20), lambda _: (4000, 1000))
    macs = smallest_macs()
    assert count_macs(SPACE, SPACE.smallest()) == macs
    # Three times the forward pass: outputs, gradients of activations, gradients of weights.
    assert time(1, 1, SPACE.smallest()) == pytest.approx(3 * macs * 20 * 2 / 5e5 + 5 + 10)
    assert time(0, 0, SPACE.smallest()) == pytest.approx(3 * macs * 7 * 2 / 2e6 + 4 + 2 + 0.25)


def test_where_all_train_one_net_each_takes_its_time():
    def count_bytes(architecture):
        return (80, 10) if architecture == SPACE.largest() else (8, 1)

    training = LocalTraining()
    time = DeviceTime(SPACE, DEVICES, training, (1, 1), count_bytes, SPACE.largest())
    seconds = 3 * count_macs(SPACE, SPACE.largest()) / 5e5 + 80 / 800 + 10 / 100
    assert time(0, 1, SPACE.smallest()) == pytest.approx(seconds)


def test_a_sandwich_costs_each_of_its_nets():
    largest, smallest = (count_macs(SPACE, a) for a in (SPACE.largest(), SPACE.smallest()))
    received = SPACE.largest()
    macs = [training_macs(SPACE, received, LocalTraining(sandwich=nets)) for nets in (1, 2, 4)]
    mean = mean_macs_within(SPACE, received)
    assert macs == pytest.approx(
        [3 * largest, 3 * (largest + smallest), 3 * (largest + smallest + 2 * mean)]
    )


def test_the_mean_of_random_nets_is_that_of_all_nets_within():
    within = Architecture((16, 16), (1, 2), (5, 3))
    all_nets = [
        Architecture((a, 16), (1, depth), (kernel, 3))
        for a in (8, 16)
        for depth in (1, 2)
        for kernel in (3, 5)
    ]
    mean = np.mean([count_macs(SPACE, architecture) for architecture in all_nets])
    assert mean_macs_within(SPACE, within) == pytest.approx(mean)


def test_devices_of_larger_nets_are_faster_whatever_the_order_of_tiers():
    between = Tier("between", Architecture((16, 16), (1, 1), (3, 3)))
    devices = default_devices(SPACE, (*TIERS, between))
    speeds = [device.macs_per_second / REFERENCE_MACS_PER_SECOND for device in devices]
    assert speeds == pytest.approx([1, 1 / 8, 8**-0.5])
    assert default_devices(SPACE, TIERS[1:])[0].macs_per_second == REFERENCE_MACS_PER_SECOND


def test_devices_are_read_from_a_file_in_the_tiers_order(tmp_path):
    path = tmp_path / "devices.json"
    path.write_text(devices_to_json(DEVICES, TIERS))
    assert load_devices(path, TIERS) == DEVICES
    assert load_devices(path, TIERS[::-1]) == DEVICES[::-1]


def test_the_example_is_one_of_the_default_tiers():
    path = pathlib.Path(__file__).parents[3] / "experiments" / "devices.json"
    space = fedsup_cifar()
    devices = load_devices(path, default_tiers(space, 0))
    speeds = [device.macs_per_second for device in devices]
    assert speeds == sorted(speeds)


def test_a_missing_file_is_named_with_its_flag(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json': expected .*--devices.*found none"):
        load_devices(tmp_path / "none.json", TIERS)


GOOD = {"macs_per_second": 1e9, "down_bytes_per_second": 1e6, "up_bytes_per_second": 1e5}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"large": GOOD}, "small"),
        ({"large": GOOD, "small": GOOD, "huge": GOOD}, "huge"),
        ({"large": GOOD, "small": {"macs_per_second": 1}}, "tier 'small'.*up_bytes"),
        ({"large": GOOD, "small": {**GOOD, "watts": 3}}, "tier 'small'.*watts"),
        ({"large": GOOD, "small": {**GOOD, "macs_per_second": 0}}, "tier 'small'.*macs_per_second"),
        ({"large": {**GOOD, "up_bytes_per_second": "fast"}, "small": GOOD}, "tier 'large'.*'fast'"),
        ({"large": {**GOOD, "latency_seconds": -1}, "small": GOOD}, "latency_seconds.*at least 0"),
        ({"large": {**GOOD, "latency_seconds": True}, "small": GOOD}, "latency_seconds.*True"),
        ({"large": {**GOOD, "macs_per_second": float("nan")}, "small": GOOD}, "nan"),
        ([], "object"),
    ],
)
def test_devices_that_are_none_are_refused_by_name(tmp_path, fields, told):
    path = tmp_path / "devices.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"(?s)devices.json.*{told}"):
        load_devices(path, TIERS)
