"""Tests of certificates of real `.tflite` files: checks that must hold, and that must fail."""

import dataclasses
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf import calibration
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files import checkpoint
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.resizing import resize_images
from fedsup_tf.space import MEAN_SQUARE, SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet
from tff_programs.reports import certificate_report
from tflite.certify import certified_training
from tflite.certify.certify import certify_tflite
from tflite.certify.checks import UncheckedModel, compare
from tflite.certify.reference import Reference, compute
from tflite.certify.relu_ties import largest_difference, resolve_ties
from tflite.device.runtime import installed_runtimes
from tflite.device.trainer import DeviceTrainer
from tflite.export import training_module
from tflite.export.export import BatchSizes, Origin, export_tflite, refresh_tflite
from tflite.format.metadata import append_metadata, read_metadata, split_model
from tflite.profiling.compare_engines import measure
from tflite.profiling.engine_process import measure_latency

SPACE = SearchSpace(
    name="tiny",
    image_shape=(8, 8, 1),
    classes=4,
    stem_width=8,
    stem_stride=1,
    stages=(Stage("a", (8, 16), (1,), (3, 5), 2),),
)
PREPROCESSING = Preprocessing((100.0,), (60.0,))
TRAINING = LocalTraining(batch_size=8, label_smoothing=0.1)
NO_WEIGHTS = "train, weights all zero"
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (40, 8, 8, 1), np.uint8)
LABELS = RANDOM.integers(0, 4, 40, np.int32)

pytestmark = pytest.mark.slow


def make_supernet(seed=1, space=SPACE):
    """Returns a supernet without any initial values."""
    supernet = Supernet(space, seed)
    random = np.random.default_rng(seed)
    weights = supernet.weights_by_name()
    noise = {name: random.normal(0, 0.1, value.shape) for name, value in weights.items()}
    supernet.assign_weights({name: weights[name] + noise[name] for name in weights})
    return supernet


SUPERNET = make_supernet()
SUBNET = SUPERNET.extract(SPACE.largest())
WEIGHTS = {name: tf.constant(value.numpy()) for name, value in SUBNET.weights_by_name().items()}


def export(
    path,
    preprocessing=PREPROCESSING,
    supernet=SUPERNET,
    training=TRAINING,
    classifier=None,
    architecture=None,
    feature_rates=None,
):
    """Exports a subnet, by default the largest, optionally with another classifier kernel."""
    subnet = supernet.extract(architecture or supernet.space.largest())
    if classifier is not None:
        subnet.assign_weights({**subnet.values_by_name(), "head/kernel": classifier})
    weights = {name: tf.constant(value) for name, value in subnet.values_by_name().items()}
    images = tf.constant(resize_images(IMAGES, *subnet.space.image_shape[:2]))
    sums = calibration.sum_mean_squares(subnet, weights, images, 40, preprocessing)
    origin = Origin(
        supernet.space,
        checkpoint.fingerprint(supernet.weights_by_name()),
        7,
        tuple("abcd"),
        classifier="trained" if classifier is None else "refitted",
    )
    mean_squares = {name: value.numpy() / 40 for name, value in sums.items()}
    sizes = BatchSizes(8, 5, 2)
    export_tflite(
        path,
        subnet,
        mean_squares,
        preprocessing,
        training,
        origin,
        sizes,
        feature_rates=feature_rates,
    )
    return str(path)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return export(tmp_path_factory.mktemp("model") / "tiny.tflite")


def certify_here(
    path, supernet=SUPERNET, steps=2, runtimes=("tflite_runtime",), labels=LABELS, **options
):
    return certify_tflite(
        path, supernet, PREPROCESSING, IMAGES, labels, steps, runtimes=runtimes, **options
    )


@pytest.fixture(scope="module")
def certificate(path):
    return certify_here(path, steps=4, runtimes=None)


def failed(certificate):
    """Returns the names of the checks that do not hold."""
    return {check.name for check in certificate.checks if not check.holds}


def test_an_exported_subnet_holds(certificate):
    assert failed(certificate) == set()
    fields = json.loads(json.dumps(certificate.to_fields()))
    assert fields["holds"] is certificate.holds
    assert fields["parameters"] == sum(value.shape.num_elements() for value in WEIGHTS.values())
    assert "TRANSPOSE" in fields["operators"]
    assert (
        fields["runtimes"].keys() == set(installed_runtimes()) >= {"tflite_runtime", "tensorflow"}
    )
    assert fields["runtimes"]["tensorflow"] == tf.__version__
    names = {runtime: [] for runtime in ("", *fields["runtimes"])}
    for check in fields["checks"]:
        names[check["runtime"]].append(check["name"])
    assert names.pop("") == ["builtin operators", "preprocessing", "reported costs", "file size"]
    first = names["tflite_runtime"]
    assert len(first) == len(set(first)) >= 16
    assert all(found == first for found in names.values())
    measured = [check for check in fields["checks"] if check["tolerance"] is not None]
    assert len(measured) >= 13 * len(names)


def test_a_file_in_which_absent_classes_weigh_less_holds(tmp_path):
    training = dataclasses.replace(TRAINING, absent_class_weight=0.05)
    path = export(tmp_path / "absent.tflite", training=training)
    few = LABELS < 2
    given = (SUPERNET, PREPROCESSING, IMAGES[few], LABELS[few], 4)
    assert failed(certify_tflite(path, *given, runtimes=["tflite_runtime"])) == set()
    plain = certify_tflite(path, *given, runtimes=["tflite_runtime"], training=TRAINING)
    assert {"train, single steps", "train, losses"} <= failed(plain)


def certify_as(path, folder, feature_rates, **options):
    """Certifies a copy of a file whose metadata have other feature rates."""
    model, metadata = split_model(path)
    other = folder / "other.tflite"
    metadata = dataclasses.replace(metadata, feature_rates=feature_rates)
    other.write_bytes(append_metadata(model, metadata))
    return certify_here(str(other), **options)


def test_a_fine_tuned_file_holds(tmp_path):
    training = dataclasses.replace(TRAINING, absent_class_weight=0.05)
    kernel = 2 * WEIGHTS["head/kernel"].numpy()
    rates = (0.0025, 0.05)
    path = export(tmp_path / "x", training=training, classifier=kernel, feature_rates=rates)
    # The losses are between 0 and that of equally likely guesses.
    guesses = DeviceTrainer(path).infer(IMAGES).argmax(1)
    some_right = np.where(np.arange(len(LABELS)) % 4, guesses, LABELS)
    certificate = certify_here(path, steps=4, labels=some_right)
    assert failed(certificate) == set()
    assert failed(certify_here(path)) == set()
    (kept,) = (check for check in certificate.checks if check.name == "train, mean squares")
    assert (kept.relative, kept.tolerance) == (0, 0)
    # Neither with other rates nor as a file of the other kind.
    for other in ((0.0025, 0.06), (0.0027, 0.05)):
        assert "train, feature rate" in failed(certify_as(path, tmp_path, other, labels=some_right))
    found = failed(certify_as(path, tmp_path, None))
    assert {"train, single steps", "train, losses", "train, mean squares"} <= found


def test_a_fine_tuned_file_whose_rate_is_the_same_at_any_loss_holds(tmp_path):
    kernel = 20 * WEIGHTS["head/kernel"].numpy()
    path = export(tmp_path / "x", classifier=kernel, feature_rates=(0.0025, 0.0025))
    assert failed(certify_here(path, steps=4)) == set()
    assert "train, feature rate" in failed(certify_as(path, tmp_path, (0.0026, 0.0026)))


def test_a_step_of_a_federated_round_is_no_fine_tuning_step(path, tmp_path):
    found = failed(certify_as(path, tmp_path, (1.0, 1.0)))
    assert {"train, single steps", "train, mean squares", "train, feature rate"} <= found


def test_a_fine_tuned_file_of_group_normalization_holds(tmp_path):
    supernet = make_supernet(space=dataclasses.replace(SPACE, normalization="group"))
    path = export(tmp_path / "group.tflite", supernet=supernet, feature_rates=(0.5, 0.5))
    assert failed(certify_here(path, supernet)) == set()


def test_a_subnet_of_group_normalization_holds(tmp_path):
    supernet = make_supernet(space=dataclasses.replace(SPACE, normalization="group"))
    path = export(tmp_path / "group.tflite", supernet=supernet)
    assert failed(certify_here(path, supernet)) == set()
    assert not any("mean_square" in name for name in read_metadata(path).variables)


def test_a_subnet_of_smaller_pictures_holds_and_takes_them_alone(tmp_path):
    supernet = make_supernet(space=dataclasses.replace(SPACE, resolutions=(4, 8)))
    architecture = dataclasses.replace(supernet.space.largest(), resolution=4)
    path = export(tmp_path / "small.tflite", supernet=supernet, architecture=architecture)
    assert failed(certify_here(path, supernet)) == set()
    metadata = read_metadata(path)
    assert metadata.architecture == architecture
    assert metadata.space == supernet.space
    assert metadata.image_shape == (4, 4, 1)
    trainer = DeviceTrainer(path)
    trainer.evaluate(resize_images(IMAGES, 4, 4), LABELS)
    with pytest.raises(ValueError, match=r"expected uint8 of shape \(examples, 4, 4, 1\)"):
        trainer.evaluate(IMAGES, LABELS)


def test_a_file_whose_frozen_parts_do_not_train_holds(tmp_path):
    training = dataclasses.replace(TRAINING, frozen=("stem",))
    path = export(tmp_path / "frozen.tflite", training=training)
    assert failed(certify_here(path)) == set()
    # Compared with a net that trains all its parts, it does not hold.
    assert "train, single steps" in failed(certify_here(path, training=TRAINING))
    trained = UncheckedModel(path)
    trained.train(IMAGES, LABELS, 0.1)
    for name, value in UncheckedModel(path).state().items():
        is_kept = name.startswith("stem") and not name.endswith(MEAN_SQUARE)
        assert (trained.state()[name].tobytes() == value.tobytes()) == is_kept, name


def test_a_classifier_of_its_own_is_told_and_holds(tmp_path):
    kernel = 2 * WEIGHTS["head/kernel"].numpy() - 1
    certificate = certify_here(export(tmp_path / "own", classifier=kernel))
    assert failed(certificate) == set()
    for check in certificate.checks:
        assert ("but for the classifier" in check.note) == (check.name == "fresh weights")


def test_a_batch_without_weights_changes_nothing(certificate):
    found = [check for check in certificate.checks if check.name == NO_WEIGHTS]
    assert len(found) == len(certificate.runtimes)
    assert all(check.holds for check in found)


def test_a_changed_weight_is_found(path, tmp_path):
    metadata, weights = read_metadata(path), UncheckedModel(path).state()
    kernel = weights["stem/kernel"]
    kernel[0, 0, 0, 0] = np.nextafter(kernel[0, 0, 0, 0], np.float32(9))
    frozen = {name: weights.pop(name) for name in list(weights) if name.endswith(MEAN_SQUARE)}
    changed = tmp_path / "changed.tflite"
    refresh_tflite(changed, path, weights, frozen, metadata.supernet_hash, metadata.round)
    assert "fresh weights" in failed(certify_here(str(changed)))


def test_another_preprocessing_is_found(tmp_path):
    other = export(tmp_path / "other.tflite", Preprocessing((101.0,), (60.0,)))
    found = failed(certify_here(other))
    assert {"preprocessing", "infer, frozen", "train, single steps", "train, losses"} <= found
    assert not {"fresh weights", "save, restore, infer", "partial restore"} & found


def test_a_wrong_gradient_is_found_and_not_explained_away(tmp_path, monkeypatch):
    step = training_module.TrainingModule.step

    def wrong(self, weights, gradients, *rest):
        name = "stem_norm/beta"
        return step(self, weights, {**gradients, name: gradients[name] * 1.01}, *rest)

    monkeypatch.setattr(training_module.TrainingModule, "step", wrong)
    found = failed(certify_here(export(tmp_path / "wrong.tflite")))
    assert {"train, single steps", "train, free run", "train, batch of one"} <= found
    assert not {"infer, frozen", "evaluate", "train, losses"} & found


def test_other_training_is_found(path):
    found = failed(certify_here(path, training=dataclasses.replace(TRAINING, momentum=0.4)))
    assert "train, free run" in found
    assert "train, single steps" not in found


def test_a_runtime_that_is_not_installed_is_an_error(path):
    with pytest.raises(ValueError, match="expected one of the runtimes that are installed"):
        certify_here(path, runtimes=("tflite_runtime", "onnxruntime"))


def test_another_supernet_is_an_error(path):
    with pytest.raises(ValueError, match="Give the checkpoint that it was exported from"):
        certify_here(path, make_supernet(seed=2))


def test_a_foreign_model_is_an_error(tmp_path):
    function = tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec([1])])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    foreign = tmp_path / "foreign.tflite"
    foreign.write_bytes(converter.convert())
    with pytest.raises(ValueError, match="fedsup export"):
        certify_here(str(foreign))


# The reference, and comparisons within rounding.


def test_the_reference_computes_the_subnet():
    images = PREPROCESSING.normalize(IMAGES[:8])
    found, mean_squares = SUBNET.forward_with_statistics(WEIGHTS, images)
    computed = compute(SUBNET, WEIGHTS, images)
    np.testing.assert_allclose(computed.logits, found, rtol=1e-4, atol=1e-5)
    assert computed.mean_squares.keys() == mean_squares.keys()
    for name, value in mean_squares.items():
        np.testing.assert_allclose(computed.mean_squares[name], value, rtol=1e-4)


def test_a_comparison_within_rounding_is_decided_as_the_file_does():
    """Shifts a channel so that one value is at 0, and lets the file stop its gradient."""
    reference = Reference(SUBNET, PREPROCESSING, TRAINING)
    images, labels = IMAGES[:8], LABELS[:8]
    norm = "stem_norm"
    place = (3, 2, 4, 5)
    weights, momenta = dict(WEIGHTS), {name: tf.zeros_like(v) for name, v in WEIGHTS.items()}
    for _ in range(3):
        value = reference.before_relu6(weights, images)[norm].numpy()[place] - 1e-8
        beta = weights[f"{norm}/beta"].numpy()
        beta[place[3]] -= value
        weights[f"{norm}/beta"] = tf.constant(beta)
    own = reference.step(weights, momenta, images, labels, 0.05)
    masks = {
        name: tf.cast((value > 0) & (value < 6), tf.float32).numpy()
        for name, value in own.computed.before_relu6.items()
    }
    masks[norm][place] = 1 - masks[norm][place]
    other = reference.step(weights, momenta, images, labels, 0.05, None, masks)
    found = {name: value.numpy() for name, value in other.weights.items()}
    assert largest_difference(found, own.weights) > 1e-6
    resolved = resolve_ties(
        reference, found, weights, momenta, images, labels, 0.05, None, enough=1e-7
    )
    assert resolved.after < 1e-7 < 1e-6 < resolved.before
    assert resolved.decided == 1
    assert resolved.distance < 1e-6


def test_a_difference_that_is_no_comparison_stays():
    reference = Reference(SUBNET, PREPROCESSING, TRAINING)
    momenta = {name: tf.zeros_like(value) for name, value in WEIGHTS.items()}
    own = reference.step(WEIGHTS, momenta, IMAGES[:8], LABELS[:8], 0.05)
    found = {name: value.numpy() for name, value in own.weights.items()}
    found["head/kernel"] = found["head/kernel"] + np.float32(1e-5)
    arguments = (found, WEIGHTS, momenta, IMAGES[:8], LABELS[:8], 0.05, None)
    resolved = resolve_ties(reference, *arguments, enough=1e-6)
    assert resolved.after == resolved.before > certified_training.STEP_TOLERANCE
    assert resolved.decided == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.1])
def test_compare_refuses_what_is_not_equal(value):
    expected = {"a": np.float32([1, 2])}
    assert compare("x", expected, {"a": np.float32([1, 2.05])}, 0.1).holds
    assert not compare("x", expected, {"a": np.float32([value, 2])}, 0.05).holds
    assert not compare("x", {"a": np.float32([np.nan, 2])}, expected, 0.1).holds
    assert not compare("x", expected, {"a": np.float32([1])}, 0.1).holds
    assert not compare("x", expected, {}, 0.1).holds


def test_a_difference_keeps_nan_wherever_it_is():
    weights = {"a": tf.constant([1.0]), "b": tf.constant([1.0]), "c": tf.constant([1.0])}
    for name in weights:
        found = {**dict.fromkeys(weights, np.float32([1])), name: np.float32([np.nan])}
        assert np.isnan(largest_difference(found, weights))


# Measurements.


def test_every_engine_is_measured(path):
    measured = measure(path, SUBNET, PREPROCESSING, (1,), repetitions=12, with_flex=True)
    assert [entry["engine"] for entry in measured["latency"]] == [
        "the file",
        "TensorFlow, fedsup_tf",
        "TensorFlow, its gradients",
        "Flex export",
    ]
    for entry in measured["latency"]:
        assert "error" not in entry
        for signature in ("infer", "train"):
            assert 0 < entry[f"least_{signature}_ms"] <= entry[f"{signature}_ms"]
    own, flex = measured["memory"]
    assert min(own["training_bytes"], flex["training_bytes"]) > 0
    assert 20 * own["runtime_bytes"] < flex["runtime_bytes"]
    assert measured["files"]["this"] == os.path.getsize(path)


def test_an_engine_that_fails_is_named_and_the_others_are_measured(path, tmp_path):
    broken = tmp_path / "flex.tflite"
    broken.write_bytes(b"no model")
    metadata = read_metadata(path)
    job = {
        "path": path,
        "flex_path": str(broken),
        "image_shape": SPACE.image_shape,
        "classes": SPACE.classes,
        "batch_sizes": metadata.batch_sizes,
        "threads": 1,
    }
    flex, own = measure_latency(["Flex export", "the file"], job, repetitions=1)
    assert "train_ms" not in flex
    assert "model" in flex["error"].lower()
    assert own["train_ms"] > 0
    measured = {"latency": [flex, own], "memory": [], "files": {}, "load": (0.0,) * 3}
    measured |= {"repetitions": 1, "batch_sizes": metadata.batch_sizes}
    assert flex["error"] in certificate_report.measured_table(measured)
