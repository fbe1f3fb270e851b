"""Tests of the space, tiers and data that flags result in, without training."""

import json

import numpy as np
import pytest

from tff_programs.programs import train
from tff_programs.programs.flags.program_flags import parse_flags

SPACE = {
    "name": "t",
    "image_shape": [8, 8, 1],
    "classes": 10,
    "stem_width": 8,
    "stem_stride": 1,
    "stages": [{"name": "a", "widths": [16, 32], "depths": [1], "kernels": [3], "stride": 2}],
}


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Returns a function that plans a run from additional fields of a space and flags.

    The run's process is not traced, which would take a second each time.
    """
    monkeypatch.setattr(train.training_process, "build_fedsup_process", lambda *_, **__: None)

    def plan(fields, *flags, file=()):
        path = tmp_path / "space.json"
        path.write_text(json.dumps({**SPACE, **fields}))
        flag_file = tmp_path / "run.flags"
        flag_file.write_text("\n".join(file))
        few = ("--clients=4", "--clients_per_round=2")
        common = [f"--flagfile={flag_file}", *few, "--redraw"]
        flags = [flag.replace("SPACE", str(path)) for flag in flags]
        options, _ = parse_flags(train.define_flags, ["train", *common, *flags])
        return train.run_from_flags(options)

    return plan


def space_of(run):
    return run.assignment.space


def test_a_space_from_a_file_is_trained_as_it_is(planned):
    run = planned({"normalization": "group"}, "--space=SPACE")
    assert space_of(run).normalization == "group"
    assert run.settings["normalization"] == "group"
    assert space_of(planned({}, "--space=SPACE")).normalization == "parametric"
    # The flag decides if the file does not.
    chosen = planned({}, "--space=SPACE", "--normalization=group")
    assert space_of(chosen).normalization == "group"
    assert space_of(planned({}, "--normalization=group")).normalization == "group"


@pytest.mark.parametrize(
    ("fields", "flag", "told"),
    [
        ({"normalization": "group"}, "--normalization=parametric", "expected normalization 'para"),
        ({"classes": 9}, "--dataset=digits", "expected classes 10, received 9"),
        ({}, "--image_shape=16,16,1", r"expected image_shape \(16, 16, 1\), received \(8, 8, 1\)"),
    ],
)
def test_a_space_from_a_file_is_not_overridden(planned, fields, flag, told):
    with pytest.raises(ValueError, match=f"space.json.*{told}"):
        planned(fields, "--space=SPACE", flag)


def test_the_data_take_the_shape_of_a_space_from_a_file(planned):
    run = planned({"image_shape": [12, 10, 3]}, "--space=SPACE")
    assert run.data.image_shape == (12, 10, 3)


def test_a_space_on_the_command_line_replaces_what_a_flag_file_says_of_another(planned):
    file = ["--normalization=parametric", "--image_shape=16,16,3", "--space=fedsup_cifar"]
    run = planned({"normalization": "group"}, "--space=SPACE", file=file)
    assert space_of(run).normalization == "group"
    assert run.data.image_shape == (8, 8, 1)
    assert run.settings["image_shape"] is None


def test_a_space_without_a_subnet_in_the_middle_has_two_tiers(planned, capsys):
    run = planned({}, "--space=SPACE")
    assert [tier.name for tier in run.assignment.tiers] == ["smallest", "largest"]
    assert np.bincount(run.assignment.tier_of_clients()).tolist() == [2, 2]
    assert capsys.readouterr().out.count("2 device tiers") == 1


def test_the_settings_of_a_run_tell_apart_those_of_earlier_versions(planned):
    newer = ("server_learning_rate", "clip_norm")
    run = planned({}, "--space=SPACE")
    assert [run.settings[name] for name in newer] == [0.8, 3]
    # Settings that earlier versions lacked are omitted if they have no effect.
    flags = ("--clip_norm=inf", "--server_optimizer=sgdm")
    plain = planned({}, "--space=SPACE", *flags).settings
    assert [plain[name] for name in newer] == [None, None]
