"""Tests of the export program: subnets, calibration or a file of it, and refusals."""

import re

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf import calibration, logistic_regression
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.checkpoint import fingerprint, read_tensors
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.supernet import Supernet
from tff_programs.programs import subnet_export
from tff_programs.programs.calibration_files import default_images, write_calibration
from tff_programs.programs.checkpoint import load_trained
from tff_programs.simulation.tiers import Tier
from tflite.device.interpreter import open_interpreter
from tflite.device.model import DeviceModel
from tflite.export.export import BatchSizes, Origin, export_tflite
from tflite.format import signatures
from tflite.format.metadata import read_metadata

REFUSED = {
    "unknown": (["--architecture=middle"], "'middle': expected smallest, largest, an arch"),
    "no out": (["--out="], "Expected --out=FILE.tflite"),
    "two ways": (["--all_tiers", "--calibration=x"], "holds one subnet, --all_tiers exports"),
    "no calibration": (["--calibration=none"], "expected a file of kind 'calibration', found none"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, trained_path, run_programs):
    """Returns the program's output folder, the supernet, mean squares, and each call's messages."""
    folder = tmp_path_factory.mktemp("exports")
    supernet, information = Supernet.load_checkpoint(trained_path)
    architecture = supernet.space.largest()
    rng = np.random.default_rng(0)
    mean_squares = {
        name: rng.uniform(0.5, 2, shape).astype(np.float32)
        for name, shape in calibration.mean_square_shapes(supernet.weight_shapes).items()
    }
    kept = folder / "largest.calibration"
    supernet_hash = fingerprint(supernet.weights_by_name())
    write_calibration(kept, mean_squares, architecture, supernet_hash)
    path = str(trained_path)
    calls = {
        "tiers": ["--all_tiers", f"--out={folder / 'tiers'}", "--images_per_client=40"],
        "kept": ["--architecture=largest", f"--calibration={kept}", f"--out={folder / 'kept'}"],
        "other": [f"--calibration={kept}", f"--out={folder / 'refused'}"],
    }
    calls["kept"] += ["--train_batch_size=6", "--evaluate_batch_size=7", "--infer_batch_size=3"]
    calls["kept"] += ["--train_head"]
    calls |= {
        name: [f"--out={folder / 'refused'}", *arguments]
        for name, (arguments, _) in REFUSED.items()
    }
    calibrated = folder / "calibrated"
    calibrate = [
        "calibrate",
        path,
        f"--out={calibrated}",
        "--architectures=smallest",
        "--images_per_client=40",
        "--test_images=50",
    ]
    calls["calibrated"] = [
        f"--calibration={calibrated / 'smallest.calibration.safetensors'}",
        "--quantize=float32",
        f"--out={folder / 'calibrated.tflite'}",
    ]
    calls["trained"] = [
        *calls["calibrated"][:2],
        "--noclassifier",
        "--absent_class_weight=0.2",
        f"--out={folder / 'trained.tflite'}",
    ]
    exports = [["export", path, *arguments] for arguments in calls.values()]
    told = run_programs([calibrate, *exports])
    told = dict(zip(["calibrate", *calls], told, strict=True))
    return folder, supernet, information, mean_squares, told


def test_every_tier_is_exported_and_calibrated(made):
    folder, supernet, _, _, told = made
    printed, error = told["tiers"]
    assert not error
    for name in ("smallest", "largest"):
        metadata = read_metadata(folder / "tiers" / f"{name}.tflite")
        architecture = getattr(supernet.space, name)()
        assert metadata.architecture == architecture
        assert metadata.space == supernet.space
        assert metadata.supernet_hash == fingerprint(supernet.weights_by_name())
        assert metadata.round == 1
        assert metadata.batch_sizes == {"train": 16, "evaluate": 32, "infer": 1}
        model = DeviceModel(folder / "tiers" / f"{name}.tflite")
        state = model.state()
        assert metadata.classifier == "refitted"
        for tensor, value in supernet.extract(architecture).weights_by_name().items():
            is_kept = tensor not in calibration.CLASSIFIER
            assert np.array_equal(state[tensor], value) == is_kept, tensor
        assert all(state[tensor].min() > 0 for tensor in state if "mean_square" in tensor)
        assert f"{metadata.parameters:,}" in printed
        assert not model.can_train_head
    assert "calibration 1: 180 clients' images" in printed


def test_a_kept_calibration_gives_the_bytes_of_an_export_in_another_process(made, tmp_path):
    folder, supernet, information, mean_squares, told = made
    assert not told["kept"][1]
    assert "clients' images" not in told["kept"][0]
    names = ("epochs", "batch_size", "momentum", "weight_decay", "clip_value", "label_smoothing")
    settings = information["settings"]
    export_tflite(
        tmp_path / "here.tflite",
        supernet.extract(supernet.space.largest()),
        mean_squares,
        Preprocessing.from_json(information["preprocessing"]),
        LocalTraining(**{name: settings[name] for name in names}),
        Origin(
            supernet.space,
            fingerprint(supernet.weights_by_name()),
            1,
            tuple(information["class_names"]),
        ),
        BatchSizes(6, 7, 3),
        with_train_head=True,
    )
    assert (tmp_path / "here.tflite").read_bytes() == (folder / "kept").read_bytes()


def test_a_calibration_kept_in_between_changes_nothing(made):
    folder, _, _, _, told = made
    printed, error = told["calibrate"]
    assert not error
    rows = [
        re.split(r"  +", line) for line in printed.splitlines() if line.startswith("smallest  ")
    ]
    assert [row[1] for row in rows] == ["before", "calibrated"]
    assert "right answers on them by penalty: 0.01:" in printed
    # After calibration, an image's answer does not depend on its batch.
    assert all(len(set(row[2:])) == 1 for row in rows[1:])
    assert not told["calibrated"][1]
    together = (folder / "tiers" / "smallest.tflite").read_bytes()
    assert (folder / "calibrated.tflite").read_bytes() == together


def test_both_kinds_of_files_have_the_classifier_that_was_fitted(made):
    folder, supernet, information, _, told = made
    assert not told["calibrated"][1]
    path = folder / "calibrated" / "smallest.calibration.safetensors"
    parts = calibration.split_calibration(read_tensors(path, "calibration")[0])
    subnet = supernet.extract(supernet.space.smallest())
    images = np.random.default_rng(0).integers(0, 17, (5, *subnet.space.image_shape), np.uint8)
    normalized = Preprocessing.from_json(information["preprocessing"]).normalize(images)
    interpreter = open_interpreter(
        1, model_content=(folder / "calibrated.float32.tflite").read_bytes()
    )
    infer = interpreter.get_signature_runner(signatures.INFER)
    found = {
        "trains": DeviceModel(folder / "calibrated.tflite").infer(images),
        "infers": np.concatenate([infer(images=image[None])["logits"] for image in images]),
    }
    weights = {**subnet.values_by_name(), **parts.mean_squares, **parts.classifier}
    expected = subnet.forward(
        {name: tf.constant(value) for name, value in weights.items()}, normalized
    )
    for logits in found.values():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * scale)


def test_a_refitted_classifier_trains_with_the_labels_themselves(made):
    folder, _, information, _, _ = made
    smoothing = {
        name: read_metadata(folder / name).training["label_smoothing"]
        for name in ("kept", "calibrated.tflite")
    }
    assert smoothing == {"kept": information["settings"]["label_smoothing"], "calibrated.tflite": 0}
    assert smoothing["kept"] > 0


def test_layers_before_a_larger_classifier_train_at_a_rate_that_makes_up_for_it(made):
    folder, supernet, _, _, _ = made
    path = folder / "calibrated" / "smallest.calibration.safetensors"
    parts = calibration.split_calibration(read_tensors(path, "calibration")[0])
    kernels = (
        supernet.extract(supernet.space.smallest()).values_by_name()["head/kernel"],
        parts.classifier["head/kernel"],
    )
    trained, fitted = (
        np.linalg.norm(kernel - kernel.mean(1, keepdims=True), 2) for kernel in kernels
    )
    assert fitted > 1.5 * trained
    ratio = trained / fitted
    expected = {"calibrated": pytest.approx((ratio**2, ratio)), "trained": None, "kept": None}
    for name, rates in expected.items():
        path = folder / (name if name == "kept" else f"{name}.tflite")
        assert read_metadata(path).feature_rates == rates


@pytest.mark.parametrize(
    ("trained", "fitted", "ratio"), [(1, 4, 1 / 4), (1, 0.5, 1), (1, 0, 1), (0, 4, 1)]
)
def test_the_rates_are_the_kernels_ratio_and_its_square(
    trained, fitted, ratio, trained_path, tmp_path, monkeypatch
):
    """A kernel of zeros compares with nothing."""
    supernet = load_trained(trained_path)
    architecture = supernet.supernet.space.smallest()
    kernel, bias = (
        supernet.supernet.extract(architecture).values_by_name()[name]
        for name in calibration.CLASSIFIER
    )
    any_kernel = np.random.default_rng(0).normal(size=kernel.shape).astype(np.float32)
    given = []
    monkeypatch.setattr(
        subnet_export, "export_tflite", lambda *_, feature_rates, **__: given.append(feature_rates)
    )
    whole = supernet.supernet.values_by_name()
    whole["head/kernel"][: len(kernel)] = trained * any_kernel
    supernet.supernet.assign_weights(whole)
    tier = Tier("smallest", architecture)
    # An offset of all classes changes no prediction.
    fits = dict(zip(calibration.CLASSIFIER, (fitted * any_kernel + 7, bias), strict=True))
    subnet_export.export_subnets(
        supernet, {tier: str(tmp_path / "any.tflite")}, calibrations={tier: fits}
    )
    assert given == [pytest.approx((ratio**2, ratio), rel=1e-3)]


def test_files_have_the_classifier_as_it_was_trained_if_asked_for(made):
    folder, supernet, _, _, told = made
    assert not told["trained"][1]
    state = DeviceModel(folder / "trained.tflite").state()
    for tensor, value in supernet.extract(supernet.space.smallest()).weights_by_name().items():
        np.testing.assert_array_equal(state[tensor], value)
    for name in ("trained", "trained.float32"):
        assert read_metadata(folder / f"{name}.tflite").classifier == "trained"


def test_absent_classes_weigh_as_in_the_training_or_as_asked_for(made):
    for name, weight in (("calibrated", 1), ("trained", 0.2)):
        assert read_metadata(made[0] / f"{name}.tflite").training["absent_class_weight"] == weight


def test_each_precision_gets_its_classifier(trained_path, tmp_path, monkeypatch):
    trained = load_trained(trained_path)
    architecture = trained.supernet.space.smallest()
    weights = trained.supernet.extract(architecture).values_by_name()
    shapes = [weights[name].shape for name in calibration.CLASSIFIER]
    fitted = {}
    for names, value in (
        (logistic_regression.TENSORS, 2),
        (logistic_regression.INT8_TENSORS, 3),
    ):
        for name, shape in zip(names, [*shapes, (1,)], strict=True):
            fitted[name] = np.full(shape, value, np.float32)
    written = {}

    def note(kind, subnet):
        written[kind] = subnet.values_by_name()["head/kernel"].mean()

    monkeypatch.setattr(
        subnet_export, "export_tflite", lambda path, subnet, *_, **__: note("trains", subnet)
    )
    monkeypatch.setattr(
        subnet_export,
        "export_inference",
        lambda path, subnet, _, __, ___, precision, *____: note(precision, subnet),
    )
    tier = Tier("smallest", architecture)
    subnet_export.export_subnets(
        trained,
        {tier: str(tmp_path / "smallest.tflite")},
        calibrations={tier: fitted},
        precisions=("int8", "float32"),
    )
    assert written == {"trains": 2, "float32": 2, "int8": 3}


@pytest.mark.parametrize(("clients", "images"), [(5, 400), (100, 400), (200, 200), (1000, 100)])
def test_clients_calibrate_on_as_many_images_as_make_enough_over_all(clients, images):
    assert default_images(clients) == images


def test_the_calibration_of_another_subnet_is_refused(made):
    folder, _, _, _, told = made
    assert "expected the calibration of 8x1k3 of this supernet" in told["other"][1]
    assert not (folder / "refused").exists()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_refused_in_words(made, name):
    folder, _, _, _, told = made
    assert REFUSED[name][1] in told[name][1]
    assert not (folder / "refused").exists()
