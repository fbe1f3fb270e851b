"""Tests of flags that others make meaningless: errors on the command line, not in flag files."""

import json
import types

import pytest

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.presets import digits_small
from tff_programs.programs import device, export, profile, train
from tff_programs.programs.flags.execution_flags import execution_from_flags
from tff_programs.programs.flags.program_flags import parse_flags

UNUSED = {
    "--classes_per_client=2": ["--partition=iid"],
    "--beta=0.5": ["--partition=iid"],
    "--background=black": ["--dataset=digits"],
    "--pixel_scale=4095": ["--dataset=digits"],
    "--architecture=smallest": ["--algorithm=e_fedsup"],
    "--temperature=2": ["--sandwich=1"],
    "--teacher=received": ["--algorithm=fedavg"],
    "--label_share=1": ["--sandwich=1"],
    "--server_learning_rate=1": ["--server_optimizer=none"],
    "--server_momentum=0.5": ["--server_optimizer=adam"],
    "--tier_net_share=0.5": ["--noredraw"],
    "--delta=0.1": ["--noise_multiplier=0"],
    "--noise_seed=1": ["--noise_multiplier=0"],
    "--max_epsilon=9": ["--noise_multiplier=0"],
    "--utc_offsets=1,2": ["--availability_trace="],
}


def options_of(program, tmp_path, file, *flags):
    path = tmp_path / "some.flags"
    path.write_text("\n".join(file))
    return parse_flags(program.define_flags, ["x", f"--flagfile={path}", *flags])[0]


@pytest.mark.parametrize("unused", UNUSED)
def test_a_flag_without_effect_is_refused_but_in_a_flag_file(tmp_path, monkeypatch, unused):
    monkeypatch.setattr(train.training_process, "build_fedsup_process", lambda *_, **__: None)
    choice = ["--clients=4", "--clients_per_round=2", *UNUSED[unused]]
    train.run_from_flags(options_of(train, tmp_path, [unused], *choice))
    name = unused.partition("=")[0]
    with pytest.raises(ValueError, match=f"^{name}"):
        train.run_from_flags(options_of(train, tmp_path, [], unused, *choice))


def test_pictures_of_another_height_than_a_space_of_resolutions_takes_are_refused(tmp_path):
    flags = ["--space=camera_96", "--image_shape=32,32,3"]
    told = r"--space=camera_96 takes pictures of 96 x 96 pixels.*received --image_shape=32,32,3\."
    with pytest.raises(ValueError, match=told):
        train.run_from_flags(options_of(train, tmp_path, [], *flags))


def test_a_budget_of_privacy_that_a_file_holds_without_noise_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(train.training_process, "build_fedsup_process", lambda *_, **__: None)
    options = options_of(train, tmp_path, ["--max_epsilon=9", "--clients_per_round=2"])
    with pytest.raises(ValueError, match="nothing is private"):
        train.run_from_flags(options)


def test_files_for_tls_go_with_the_workers_that_the_command_line_takes_away(tmp_path):
    file = ["--workers=a:1", *(f"--tls_{name}=x" for name in ("certificate", "key", "authority"))]
    execution_from_flags(options_of(train, tmp_path, file, "--workers="))
    with pytest.raises(ValueError, match="Expected --workers with"):
        execution_from_flags(options_of(train, tmp_path, file[1:]))


# The attributes of a trainer that the program uses to read examples.
TRAINER = types.SimpleNamespace(
    metadata=types.SimpleNamespace(
        space=digits_small(),
        class_names=tuple("0123456789"),
        preprocessing=json.loads(Preprocessing((4.9,), (6.0,)).to_json()),
    )
)


def test_a_device_takes_the_data_that_the_command_line_names(tmp_path):
    file, one = ["--dataset=digits", "--partition=iid", "--clients=9"], f"--data={tmp_path / 'no'}"

    def examples(file, *flags):
        return device.examples_from_flags(
            options_of(device, tmp_path, file, *flags), TRAINER, "m.tflite"
        )

    with pytest.raises(ValueError, match="no'"):
        examples(file, one)
    assert examples([one], "--dataset=digits").name == "client 0 of digits"
    assert examples([one, "--client=1"], "--data=").name == "client 1 of digits"
    for file, flags in (([], [one, "--clients=5"]), ([one, "--clients=5"], [])):
        with pytest.raises(ValueError, match="--data is instead of --clients"):
            examples(file, *flags)


def test_a_profile_is_of_what_the_command_line_names(tmp_path):
    file = [f"--supernet={tmp_path / 'none'}", f"--out={tmp_path / 'table.json'}"]
    subject = profile.subject_from_flags(
        options_of(profile, tmp_path, file, "--space=digits_small")
    )
    assert subject[0].space == digits_small()
    for flags in ([*file, "--space=digits_small"], file[1:]):
        with pytest.raises(ValueError, match="Expected one of --space and --supernet"):
            profile.subject_from_flags(options_of(profile, tmp_path, [], *flags))


@pytest.mark.parametrize(
    ("file", "flags", "told"),
    [
        # The remaining flags fail at the supernet, which is missing.
        (["--calibration=x", "--architecture=largest"], ["--all_tiers"], "none.safetensors"),
        (["--all_tiers"], ["--architecture=largest"], "none.safetensors"),
        (["--all_tiers"], ["--calibration=x"], "none.safetensors"),
        ([], ["--all_tiers", "--calibration=x"], "--calibration holds one subnet"),
        ([], ["--all_tiers", "--architecture=largest"], "--architecture goes with --noall_tiers"),
    ],
)
def test_an_export_is_of_what_the_command_line_names(tmp_path, file, flags, told):
    path = tmp_path / "some.flags"
    path.write_text("\n".join(file))
    supernet, out = str(tmp_path / "none.safetensors"), f"--out={tmp_path / 'out'}"
    with pytest.raises(ValueError, match=told):
        export.main(["export", f"--flagfile={path}", supernet, out, *flags])


def test_examples_are_held_out_with_patience_alone(tmp_path):
    command = ["device", "none.tflite", f"--out={tmp_path}", "--held_out_share=0.3"]
    with pytest.raises(ValueError, match="--held_out_share goes with --patience"):
        device.main(command)
