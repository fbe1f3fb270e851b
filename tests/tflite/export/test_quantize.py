"""Tests of inference-only files: operators, results, metadata and refusals."""

import numpy as np
import pytest
import tensorflow as tf
import tflite_runtime.interpreter as runtime

from fedsup_tf.calibration import fold, mean_square_shapes
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet
from tff_programs.reports.inference_report import inference_table
from tflite.device.trainer import DeviceTrainer
from tflite.export.export import Origin
from tflite.export.quantize import export_inference
from tflite.flatbuffer.flatbuffer import count_operators
from tflite.format.metadata import PRECISIONS, read_metadata, split_model

# Shortcuts with a convolution, with a pool, with both, and with neither; kernels of at least 1,024
# values, because the converter leaves smaller ones unchanged.
STAGES = (
    Stage("a", (40,), (1,), (3,), 1),
    Stage("b", (40,), (1,), (5,), 2),
    Stage("c", (48,), (2,), (5,), 2),
)
SPACE = SearchSpace("some", (8, 8, 3), 4, 8, 1, STAGES)
PREPROCESSING = Preprocessing((100.0, 90.0, 80.0), (60.0, 50.0, 40.0))
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
BATCH = 4

pytestmark = pytest.mark.slow


def make_subnet(space):
    """Returns a net whose normalizations have an effect, with realistic mean squares."""
    subnet, random = Supernet(space, seed=1), np.random.default_rng(1)
    values = {}
    for name, variable in subnet.weights_by_name().items():
        values[name] = variable.numpy()
        if name.endswith(("/alpha", "/beta", "/gamma", "/bias")):
            values[name] = random.uniform(0.2, 1, variable.shape).astype(np.float32)
    subnet.assign_weights(values)
    weights = {name: tf.constant(value) for name, value in values.items()}
    _, found = subnet.forward_with_statistics(weights, PREPROCESSING.normalize(IMAGES))
    frozen = {name: found[name].numpy() for name in mean_square_shapes(subnet.weight_shapes)}
    return subnet, frozen


def write(path, precision, space=SPACE, representative=IMAGES):
    subnet, frozen = make_subnet(space)
    origin = Origin(space, "ab" * 32, 7, tuple("abcd"))
    export_inference(path, subnet, frozen, PREPROCESSING, origin, precision, BATCH, representative)
    return path


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {p: write(folder / f"{p}.tflite", p) for p in PRECISIONS}


def infer(path):
    interpreter = runtime.Interpreter(str(path))
    interpreter.allocate_tensors()
    assert list(interpreter.get_signature_list()) == ["infer"]
    run = interpreter.get_signature_runner("infer")
    parts = [run(images=IMAGES[i : i + BATCH])["logits"] for i in range(0, len(IMAGES), BATCH)]
    return np.concatenate(parts)


def expected_logits(space=SPACE):
    subnet, frozen = make_subnet(space)
    weights = {name: value.read_value() for name, value in subnet.weights_by_name().items()}
    return subnet.forward(fold(weights, frozen), PREPROCESSING.normalize(IMAGES)).numpy()


def test_nothing_is_left_of_the_normalizations(paths):
    model, _ = split_model(paths["float32"])
    assert dict(count_operators(model)) == {
        "CAST": 1,
        "SUB": 1,
        "MUL": 1,  # Together with SUB, the normalization of images,
        "RESHAPE": 2,  # which are reshaped to whole rows and back.
        "CONV_2D": 1 + 4 + 2,  # The stem, the blocks, the shortcuts that change the width.
        "DEPTHWISE_CONV_2D": 4,
        "ADD": 4,
        "AVERAGE_POOL_2D": 2,
        "MEAN": 1,
        "FULLY_CONNECTED": 1,
    }


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("float32", 1e-5), ("float16", 5e-3), ("dynamic", 0.05), ("int8", 0.15)],
)
def test_logits_are_the_supernets_as_far_as_the_precision_goes(paths, precision, tolerance):
    expected = expected_logits()
    error = np.abs(infer(paths[precision]) - expected).max() / np.abs(expected).max()
    assert error < tolerance
    # A smaller type loses precision, so it is not float32 under another name.
    assert precision == "float32" or error > 1e-5


def test_group_normalization_has_nothing_to_fold_and_infers(tmp_path):
    space = SearchSpace(**{**vars(SPACE), "normalization": "group"})
    path = write(tmp_path / "group.tflite", "float32", space)
    np.testing.assert_allclose(infer(path), expected_logits(space), atol=1e-4)


def test_weights_of_8_bits_make_a_smaller_file(paths):
    sizes = [paths[p].stat().st_size for p in ("int8", "float16", "float32")]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.5 * sizes[2]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_file_says_what_it_is(paths, precision):
    metadata = read_metadata(paths[precision])
    assert metadata.precision == precision
    assert metadata.variables == metadata.training == {}
    assert metadata.batch_sizes == {"infer": BATCH}
    assert metadata.parameters == sum(map(np.prod, Supernet(SPACE).weight_shapes.values()))


def test_a_device_refuses_to_train_it_in_one_sentence(paths):
    with pytest.raises(ValueError, match=r"expected a model that trains, .*only infers.*dynamic"):
        DeviceTrainer(paths["dynamic"])


@pytest.mark.parametrize(
    ("precision", "images", "told"),
    [
        ("int4", IMAGES, "float32, float16, dynamic, int8, received 'int4'"),
        ("int8", None, "expected images"),
        ("int8", IMAGES[:0], "expected images"),
    ],
)
def test_refusals_write_nothing(tmp_path, precision, images, told):
    with pytest.raises(ValueError, match=told):
        write(tmp_path / "x.tflite", precision, representative=images)
    assert not list(tmp_path.iterdir())


def test_ranges_of_int8_are_those_of_the_images_given(tmp_path, paths):
    dark = write(tmp_path / "dark.tflite", "int8", representative=np.zeros_like(IMAGES))
    expected = expected_logits()
    errors = [np.abs(infer(path) - expected).max() for path in (paths["int8"], dark)]
    assert errors[1] > 2 * errors[0]


def test_the_table_compares_with_the_first(paths):
    labels = infer(paths["float32"]).argmax(1)
    labels[:10] = (labels[:10] + 1) % 4
    named = {name: str(paths[name]) for name in ("float32", "float16")}
    # The last batch is incomplete.
    _, _, first, second = inference_table(named, IMAGES[:39], labels[:39]).splitlines()
    assert first.startswith("float32")
    assert first.endswith(f"{100 * 29 / 39:.2f} %")
    assert str(paths["float16"]) in second
    assert f"{paths['float16'].stat().st_size:,}" in second
