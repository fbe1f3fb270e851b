"""Tests of programs with supernets saved from Python, and of checking data against them."""

import json
import types

import numpy as np
import pytest

from fedsup_tf.data.data_settings import DataSettings
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet
from tff_programs.programs import certify, device, evaluate
from tff_programs.programs import data as data_program
from tff_programs.programs.checkpoint import load_trained, name_architectures
from tff_programs.programs.flags.data_flags import given_data_settings
from tff_programs.programs.flags.program_flags import parse_flags
from tff_programs.programs.training_information import (
    device_training,
    saved_preprocessing,
    trained_tiers,
    training_information,
)
from tff_programs.simulation.tiers import Tier, parse_tiers
from tflite.format.metadata import read_metadata

SPACE = SearchSpace("t", (8, 8, 1), 10, 8, 1, (Stage("a", (8, 16), (1,), (3,), 2),))
SETTINGS = DataSettings("digits", partition="iid", clients=4, seed=5)
DATA = SETTINGS.load()
NAMES = list("0123456789")
# Settings that `--dataset` and related flags give a program.
GIVEN = {"dataset": "digits", "partition": "iid", "clients": 4}


def save(path, information=None, **space):
    supernet = Supernet(SearchSpace(**{**vars(SPACE), **space}))
    supernet.save_checkpoint(path, information)
    return supernet


def test_a_supernet_alone_takes_from_the_named_data_what_it_does_not_tell(tmp_path):
    path, lines = tmp_path / "plain.safetensors", []
    supernet = save(path)
    with pytest.raises(ValueError, match=r"plain\.safetensors.*Name it \(--dataset"):
        load_trained(path)
    trained = load_trained(path, GIVEN, lines.append)
    assert fingerprint(trained.weights) == fingerprint(supernet.values_by_name())
    assert trained.preprocessing == DATA.preprocessing
    assert trained.information["class_names"] == NAMES
    assert trained.information["round"] == 0
    assert trained.information["settings"].items() >= GIVEN.items()
    assert len(trained.data) == 4
    assert lines == [f"{path} does not tell its class names and preprocessing: digits does."]
    tiers = name_architectures(["tiers"], SPACE, trained.information, 0)
    assert [tier.architecture for tier in tiers] == [SPACE.smallest(), SPACE.largest()]


def test_a_supernet_with_a_trainings_information_is_as_one_of_a_training(tmp_path):
    tiers = (*parse_tiers(SPACE, ["smallest@2", "macs:0-10000000"], 0), Tier("a", SPACE.largest()))
    training = LocalTraining(epochs=3, clip_value=float("inf"))
    information = training_information(
        DATA,
        rounds=7,
        tiers=tiers,
        data_settings=SETTINGS,
        local_training=training,
        settings={"learning_rate": 0.3},
    )
    save(tmp_path / "told", information)
    lines = []
    trained = load_trained(tmp_path / "told", on_progress=lines.append)
    assert not lines
    assert trained.information == information
    names = ("dataset", "partition", "clients", "seed")
    assert all(getattr(trained.data_settings, n) == getattr(SETTINGS, n) for n in names)
    assert trained_tiers(trained.information) == tiers
    assert device_training(trained.information) == training
    assert trained.information["settings"]["learning_rate"] == 0.3
    json.dumps(information)


def test_class_names_and_preprocessing_are_those_of_the_file(tmp_path):
    own = Preprocessing((0.0,), (1.0,))
    information = training_information(DATA, data_settings=SETTINGS)
    save(tmp_path / "own", {**information, "preprocessing": own.to_json()})
    # For the same images with another normalization, the training's own is used.
    assert load_trained(tmp_path / "own").preprocessing == own


def test_a_supernet_of_an_earlier_version_tells_in_its_settings_how_pictures_were_read():
    text = Preprocessing((0.0,), (1.0,)).to_json()
    settings = {"dataset": "mine", "resize": "fit", "background": "black"}
    found = saved_preprocessing({"preprocessing": text, "settings": settings})
    assert (found.resize, found.background) == ("fit", "black")
    named = {**settings, "dataset": "digits"}
    assert saved_preprocessing({"preprocessing": text, "settings": named}).resize is None


def test_other_own_data_have_clients_and_a_scale_of_their_own(tmp_path):
    labels = np.arange(40) % 10
    images = np.repeat(labels * 400, 64).reshape(40, 8, 8)
    np.savez(tmp_path / "dark.npz", images=images, labels=labels)
    np.savez(tmp_path / "bytes.npz", images=images // 16, labels=labels)
    settings = DataSettings(str(tmp_path / "dark.npz"), partition="iid", clients=8, pixel_scale=4e3)
    save(tmp_path / "own", training_information(settings.load(), data_settings=settings))
    assert len(load_trained(tmp_path / "own").data) == 8
    other = {"dataset": str(tmp_path / "bytes.npz")}
    data = load_trained(tmp_path / "own", other).data
    assert len(data) == 3
    assert data.dataset.train_images.max() == 3600 // 16
    data = load_trained(tmp_path / "own", {**other, "clients": 2, "pixel_scale": 450.0}).data
    assert len(data) == 2
    assert data.dataset.train_images.max() == round(3600 // 16 * 255 / 450)


@pytest.mark.parametrize(
    ("space", "information", "told"),
    [
        ({"classes": 9}, {}, r"expected 9 classes, received 10 classes \(0, 1, 2"),
        ({}, {"class_names": list("abcdefghij")}, r"expected 10 classes \(a, b, c, d, e, \.\.\.\)"),
        (
            {"image_shape": (28, 28, 1)},
            {
                "class_names": NAMES,
                "preprocessing": Preprocessing((33.3,), (78.6,)).to_json(),
            },
            "about 78.6 by channel.* received pixels from 0 to 16 of a standard deviation of 6.01",
        ),
        ({"image_shape": (6, 8, 1)}, {}, "at least 8 x 8"),
    ],
)
def test_data_that_a_supernet_was_not_trained_on_are_refused(tmp_path, space, information, told):
    save(tmp_path / "other", information, **space)
    with pytest.raises(ValueError, match=told):
        load_trained(tmp_path / "other", GIVEN)


def test_images_of_another_shape_than_a_supernets_are_refused(tmp_path):
    save(tmp_path / "own", {"class_names": NAMES})
    file = tmp_path / "training.flags"
    file.write_text("--image_shape=5,5,1\n")
    flags = ["x", "--dataset=digits", f"--flagfile={file}"]
    of_file, _ = parse_flags(evaluate.define_flags, flags)
    load_trained(tmp_path / "own", given_data_settings(of_file))
    typed, _ = parse_flags(evaluate.define_flags, [*flags, "--image_shape=9,9,1"])
    with pytest.raises(ValueError, match=r"shape \(8, 8, 1\), received \(9, 9, 1\)"):
        load_trained(tmp_path / "own", given_data_settings(typed))


def test_a_folder_of_archives_goes_with_a_data_sets_name(tmp_path):
    rows = np.arange(40)
    np.savez(tmp_path / "own.npz", images=np.zeros((40, 2, 2), np.uint8), labels=rows % 2)
    flags = ["x", f"--dataset={tmp_path / 'own.npz'}", f"--data_dir={tmp_path}"]
    with pytest.raises(ValueError, match="--data_dir goes with a data set's name as --dataset"):
        data_program.main(flags)
    with pytest.raises(ValueError, match=r"'digit': expected one of digits, fashion_mnist, .* own"):
        DataSettings("digit").load()


def held(**changes):
    """Returns the fields of a model's metadata that data are compared with."""
    fields = {"class_names": tuple(NAMES), "preprocessing": DATA.preprocessing, **changes}
    fields["preprocessing"] = json.loads(fields["preprocessing"].to_json())
    return types.SimpleNamespace(metadata=types.SimpleNamespace(space=SPACE, **fields))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"class_names": tuple("abcdefghij")}, r"10 classes \(a, b, c, d, e, \.\.\.\), received"),
        ({"preprocessing": Preprocessing((9.0,), (9.0,), greatest_pixel=255)}, "from 0 to 255 "),
    ],
)
def test_a_device_refuses_a_data_set_that_its_model_was_not_trained_on(changes, told):
    options, _ = parse_flags(device.define_flags, ["device", "--dataset=digits"])
    assert len(device.examples_from_flags(options, held(), "m.tflite").labels)
    with pytest.raises(ValueError, match=rf"^'m\.tflite': Data digits: expected .*{told}"):
        device.examples_from_flags(options, held(**changes), "m.tflite")


def test_a_certificate_refuses_a_data_set_that_the_supernet_was_not_trained_on():
    flags = ["certify", "--dataset=digits", "--supernet=s"]
    options, _ = parse_flags(certify.define_flags, flags)
    assert certify.dataset_from_flags(options, Supernet(SPACE), {})[1] == "digits, test part"
    for classes, information in ((11, {}), (10, {"class_names": list("abcdefghij")})):
        supernet = Supernet(SearchSpace(**{**vars(SPACE), "classes": classes}))
        with pytest.raises(ValueError, match=r"^'s': Data digits: expected 1. classes"):
            certify.dataset_from_flags(options, supernet, information)


def test_a_certificate_goes_without_the_trainings_data_but_not_without_that_of_a_flag(
    capsys, tmp_path
):
    flags = ["certify", "--supernet=s"]
    options, _ = parse_flags(certify.define_flags, flags)
    trained = {"settings": {"dataset": "/no/such.npz"}}
    assert certify.dataset_from_flags(options, Supernet(SPACE), trained) == (None, "random images")
    assert "random images in place of /no/such.npz" in capsys.readouterr().err
    path = tmp_path / "other.npz"
    np.savez(path, sounds=np.zeros(3))
    options, _ = parse_flags(certify.define_flags, [*flags, f"--dataset={path}"])
    with pytest.raises(ValueError, match=r"other\.npz"):
        certify.dataset_from_flags(options, Supernet(SPACE), trained)


@pytest.mark.slow
def test_programs_take_a_supernet_of_python(tmp_path, run_programs):
    plain, told = tmp_path / "plain", tmp_path / "told"
    supernet = save(plain)
    save(told, training_information(DATA, rounds=7, data_settings=SETTINGS))
    given = [f"--{name}={value}" for name, value in GIVEN.items()]
    model = tmp_path / "net.tflite"
    calls = [
        ["export", str(plain), f"--out={model}", "--images_per_client=5", *given],
        ["certify", str(model), f"--supernet={plain}", "--dataset=digits", "--steps=1"],
        ["certify", str(model), f"--supernet={plain}"],
        ["evaluate", str(told), "--test_batch_sizes=50"],
        [
            *("search", str(told), f"--out={tmp_path / 'found'}", "--max_parameters=5000"),
            *("--generations=1", "--population=2", "--parents=1"),
        ],
    ]
    exported, certified, unnamed, evaluated, searched = run_programs(calls)
    assert exported[1] == ""
    assert "does not tell its class names and preprocessing: digits does" in exported[0]
    metadata = read_metadata(model)
    assert metadata.class_names == tuple(NAMES)
    assert metadata.round == 0
    assert metadata.supernet_hash == fingerprint(supernet.values_by_name())
    assert certified[1] == "0"
    assert "expected the preprocessing of a training in it" in unnamed[1]
    assert evaluated[1] == ""
    rows = [line.split()[0] for line in evaluated[0].splitlines() if " % " in line]
    assert rows == ["smallest", "largest"]
    assert searched[1] == ""
    assert (tmp_path / "found" / "architecture.json").exists()
