"""Law 7 (docs/laws.md): an exported subnet computes and trains like the Keras subnet."""

import dataclasses
import hashlib
import json
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import tflite_runtime.interpreter as runtime

from fedsup_tf import calibration
from fedsup_tf.architecture import Architecture
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files import checkpoint
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.presets import digits_small
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet
from tflite.export.export import BatchSizes, Origin, export_tflite, refresh_tflite
from tflite.export.training_module import MEAN_SQUARE_DECAY, TrainingModule
from tflite.flatbuffer import flatbuffer
from tflite.format.metadata import read_metadata, split_model

BATCH = 8
RATE = 0.05

pytestmark = pytest.mark.slow


@dataclasses.dataclass(frozen=True)
class Case:
    """A subnet to export; `silent` nets keep their initial values, with zero residual branches."""

    space: SearchSpace
    architecture: Architecture
    training: LocalTraining
    seed: int = 1
    silent: bool = False
    feature_rates: tuple[float, float] | None = None

    @property
    def preprocessing(self):
        channels = self.space.image_shape[2]
        return Preprocessing((100.0, 120.0, 90.0)[:channels], (60.0, 50.0, 70.0)[:channels])


TINY = SearchSpace("tiny", (8, 8, 1), 4, 8, 1, (Stage("a", (8, 16), (1, 2), (3, 5), 2),))
# Names that are not Python identifiers, odd image sides, kernels larger than maps, several blocks.
ODD = SearchSpace(
    "odd",
    (7, 7, 3),
    3,
    8,
    1,
    (Stage("mb-1", (8, 12), (2,), (3, 7), 2), Stage("1 é.:_x", (12, 16), (1, 2), (5, 7), 2)),
)
GROUP = SearchSpace("group", (8, 8, 1), 4, 8, 1, (Stage("a", (8, 16), (1,), (3, 5), 2),), "group")
SUBNET = Architecture((16,), (1,), (5,))
CASES = {
    # All hyper-parameters have an effect.
    "tiny": Case(
        TINY,
        SUBNET,
        LocalTraining(
            batch_size=BATCH,
            momentum=0.7,
            weight_decay=0.01,
            clip_value=0.02,
            label_smoothing=0.1,
            absent_class_weight=0.2,
        ),
    ),
    "fresh": Case(TINY, SUBNET, LocalTraining(batch_size=BATCH), silent=True),
    "odd": Case(ODD, Architecture((12, 16), (2, 1), (7, 7)), LocalTraining(batch_size=BATCH)),
    "frozen": Case(
        ODD,
        Architecture((12, 12), (2, 2), (3, 7)),
        LocalTraining(batch_size=BATCH, weight_decay=0.01, frozen=("stem", "mb-1")),
    ),
    "group": Case(GROUP, Architecture((16,), (1,), (3,)), LocalTraining(batch_size=BATCH)),
}
CASES["fine-tuned"] = dataclasses.replace(CASES["tiny"], feature_rates=(0.04, 0.25))
CASES["fine-tuned, frozen"] = dataclasses.replace(CASES["frozen"], feature_rates=(0.04, 0.25))


class Phone:
    """An exported file, opened in the stock runtime."""

    def __init__(self, path):
        self._interpreter = runtime.Interpreter(str(path))
        self._interpreter.allocate_tensors()
        self.signatures = self._interpreter.get_signature_list()

    def __getattr__(self, signature):
        run = self._interpreter.get_signature_runner(signature)
        return lambda **inputs: {name: value.copy() for name, value in run(**inputs).items()}

    def state(self):
        return self.save(dummy=np.float32(0))

    def step(self, batch, rate=RATE):
        images, labels, weights = batch
        outputs = self.train(
            images=images, labels=labels, sample_weights=weights, learning_rate=np.float32(rate)
        )
        return float(outputs["loss"]), float(outputs["correct"])


class Exported:
    """A subnet with its mean squares, and the file it was exported to."""

    def __init__(self, case, folder, name):
        self.case = case
        self.supernet = Supernet(case.space, case.seed)
        rng = np.random.default_rng(case.seed)
        if not case.silent:
            weights = self.supernet.weights_by_name()
            noise = {n: rng.normal(0, 0.2, value.shape) for n, value in weights.items()}
            self.supernet.assign_weights({n: (weights[n] + noise[n]).numpy() for n in weights})
        self.subnet = self.supernet.extract(case.architecture)
        self.weights = {n: value.numpy() for n, value in self.subnet.weights_by_name().items()}
        shapes = calibration.mean_square_shapes({n: v.shape for n, v in self.weights.items()})
        self.mean_squares = {
            n: rng.uniform(0.5, 2, shape).astype(np.float32) for n, shape in shapes.items()
        }
        self.state = {**self.weights, **self.mean_squares}
        self.hash = checkpoint.fingerprint(self.supernet.weights_by_name())
        names = tuple(f"class {number}" for number in range(case.space.classes))
        self.origin = Origin(case.space, self.hash, 7, names)
        self.path = folder / f"{name}.tflite"
        self.metadata = self.export(self.path)

    def export(self, path, **options):
        case = self.case
        sizes = BatchSizes(BATCH, 5, 2)
        self.subnet.assign_weights(self.weights)  # `keras_step` assigns others.
        return export_tflite(
            path,
            self.subnet,
            self.mean_squares,
            case.preprocessing,
            case.training,
            self.origin,
            sizes,
            **{"feature_rates": case.feature_rates, **options},
        )

    def batch(self, seed=0, size=BATCH):
        rng = np.random.default_rng(seed)
        space = self.case.space
        images = rng.integers(0, 256, (size, *space.image_shape), np.uint8)
        labels = rng.integers(0, space.classes, size, np.int32)
        return images, labels, np.ones(size, np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def get(name):
        if name not in made:
            made[name] = Exported(CASES[name], folder, name)
        return made[name]

    return get


@pytest.fixture(scope="module")
def tiny(exported):
    return exported("tiny")


@pytest.fixture(params=CASES)
def model(request, exported):
    return exported(request.param)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.tobytes() == second[name].tobytes(), name


def differ(first, second):
    return any(value.tobytes() != second[name].tobytes() for name, value in first.items())


def keras_step(model, state, momenta, batch, rate=RATE, seen=()):
    """Returns loss, state and momenta of a step of the Keras subnet with TensorFlow's gradients.

    `seen` are the labels of the steps before it.
    """
    images, labels, _ = batch
    training, subnet = model.case.training, model.subnet
    subnet.assign_weights({name: state[name] for name in model.weights})
    variables = subnet.weights_by_name()
    images = model.case.preprocessing.normalize(images)
    rates = model.case.feature_rates
    frozen = {name: state[name] for name in model.mean_squares}
    is_absent = ~np.isin(np.arange(model.case.space.classes), [*seen, *labels])
    class_weights = np.where(is_absent, np.float32(training.absent_class_weight), 1)
    targets = tf.one_hot(labels, model.case.space.classes) * (1 - training.label_smoothing)
    targets += training.label_smoothing * class_weights / np.sum(class_weights)
    with tf.GradientTape() as tape:
        if rates is None:
            logits = subnet(images)
        else:
            logits = subnet.forward(calibration.fold(variables, frozen), images)
        logits += np.log(class_weights)
        losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, variables)
    if rates is not None:
        share = min(float(loss) / np.log(model.case.space.classes), 1) ** 2
        feature_rate = np.float32(np.exp(np.interp(share, [0, 1], np.log(rates))))
    weights = {name: tf.constant(state[name]) for name in model.weights}
    _, found = subnet.forward_with_statistics(weights, images)
    after, kept = {}, {}
    for name, gradient in gradients.items():
        if name.startswith(tuple(training.frozen)):
            after[name] = state[name]
            continue
        gradient = gradient.numpy()
        if rates is not None and not name.startswith("head/"):
            gradient = feature_rate * gradient
        gradient = np.clip(gradient, -training.clip_value, training.clip_value)
        if name.endswith("/kernel"):
            gradient = gradient + training.weight_decay * state[name]
        kept[name] = training.momentum * momenta.get(name, 0) + gradient
        after[name] = state[name] - rate * kept[name]
    for name, value in frozen.items():
        follow = 1 - MEAN_SQUARE_DECAY if rates is None else 0
        after[name] = value + follow * (found[name].numpy() - value)
    return float(loss), after, kept


def assert_near(found, expected):
    """Asserts that states agree within some rounding errors, each 1.2e-7 for a weight of 1."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-6, atol=2e-6, err_msg=name)


# Law 7: steps and inference.


def test_a_fresh_model_holds_the_subnet_to_the_bit(model):
    assert_same(Phone(model.path).state(), model.state)
    expected = {name: value.shape for name, value in model.state.items()}
    assert read_metadata(model.path).variables == expected


def test_steps_from_equal_weights_are_keras_steps(model):
    phone, state, before = Phone(model.path), model.state, model.weights
    for number in range(5):
        batch = model.batch(number)
        phone.restore(**state)
        loss, correct = phone.step(batch)
        keras_loss, state, _ = keras_step(model, state, {}, batch)
        assert loss == pytest.approx(keras_loss, rel=1e-5)
        assert correct in range(BATCH + 1)
        assert_near(phone.state(), state)
    moved = max(np.abs(state[name] - value).max() for name, value in before.items())
    assert moved > 1e-3  # Far more than the tolerance.


def test_steps_keep_their_momentum_as_keras_does(tiny):
    phone, state, momenta, seen = Phone(tiny.path), tiny.state, {}, []
    for number in range(3):
        batch = tiny.batch(number)
        phone.step(batch)
        _, state, momenta = keras_step(tiny, state, momenta, batch, seen=seen)
        seen.extend(batch[1])
    assert_near(phone.state(), state)
    _, forgetful, _ = keras_step(tiny, state, {}, tiny.batch())
    _, state, _ = keras_step(tiny, state, momenta, tiny.batch())
    assert max(np.abs(state[name] - forgetful[name]).max() for name in state) > 1e-4


def test_every_hyper_parameter_acts_on_a_step(tiny):
    images, labels, weights = tiny.batch()
    batch = images, labels % 2, weights
    _, expected, _ = keras_step(tiny, tiny.state, {}, batch)
    for change in (
        {"clip_value": 1.0},
        {"weight_decay": 0.0},
        {"label_smoothing": 0.0},
        {"absent_class_weight": 1.0},
    ):
        training = dataclasses.replace(tiny.case.training, **change)
        other = dataclasses.replace(tiny.case, training=training)
        model = object.__new__(Exported)
        model.__dict__.update({**tiny.__dict__, "case": other})
        _, state, _ = keras_step(model, tiny.state, {}, batch)
        difference = max(np.abs(state[name] - expected[name]).max() for name in state)
        assert difference > 4e-5, change


def test_a_short_batch_is_filled_up_under_weight_zero(model):
    phone = Phone(model.path)
    images, labels, weights = model.batch()
    weights[5:] = 0
    loss, _ = phone.step((images, labels, weights))
    short = images[:5], labels[:5], None
    keras_loss, state, _ = keras_step(model, model.state, {}, short)
    assert loss == pytest.approx(keras_loss, rel=1e-5)
    assert_near(phone.state(), state)


def test_a_batch_that_weighs_nothing_changes_nothing(model):
    phone, other = Phone(model.path), Phone(model.path)
    for one in (phone, other):
        one.step(model.batch(0))
    before = phone.state()
    images, labels, weights = model.batch(1)
    assert phone.step((images, labels, 0 * weights)) == (0, 0)
    assert_same(phone.state(), before)
    # The next step shows that the momentum has not changed either.
    for one in (phone, other):
        one.step(model.batch(2))
    assert_same(phone.state(), other.state())
    assert differ(phone.state(), before)


def test_inference_is_that_of_the_frozen_keras_subnet(model):
    images, _, _ = model.batch(3, size=2)
    weights = {name: tf.constant(value) for name, value in model.state.items()}
    expected = model.subnet.forward(weights, model.case.preprocessing.normalize(images))
    phone = Phone(model.path)
    found = phone.infer(images=images)["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    # Logits do not depend on the other images in the batch.
    alone = phone.infer(images=np.stack([images[0], 255 - images[1]]))["logits"]
    np.testing.assert_array_equal(alone[0], found[0])


def test_evaluation_is_that_of_the_logits(model):
    phone = Phone(model.path)
    images, labels, _ = model.batch(4, size=5)
    weights = np.array([1, 0, 2, 0.5, 1], np.float32)
    logits = np.concatenate(
        [phone.infer(images=images[[first, first]])["logits"][:1] for first in range(5)]
    ).astype(np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), labels]
    right = logits.argmax(1) == labels
    found = phone.evaluate(images=images, labels=labels, sample_weights=weights)
    # There is no label smoothing here.
    assert found["loss"] == pytest.approx((losses * weights).sum() / weights.sum(), rel=1e-5)
    assert found["correct"] == (right * weights).sum()
    found = phone.evaluate(images=images, labels=labels, sample_weights=0 * weights)
    assert (found["loss"], found["correct"]) == (0, 0)


def test_a_restored_state_infers_to_the_bit_and_forgets_the_momentum(model):
    phone, other = Phone(model.path), Phone(model.path)
    images, _, _ = model.batch(5, size=2)
    for number in range(2):
        phone.step(model.batch(number))
    trained = phone.state()
    assert differ(trained, model.state)
    assert other.restore(**trained)["ok"] == 1
    assert_same(other.state(), trained)
    assert_same(other.infer(images=images), phone.infer(images=images))
    phone.step(model.batch(2))
    other.step(model.batch(2))
    with_momentum, without = phone.state(), other.state()
    assert differ(with_momentum, without)
    phone.restore(**trained)
    phone.step(model.batch(2))
    assert_same(phone.state(), without)


def test_a_class_is_absent_until_an_example_of_it_was_trained(tiny):
    images, _, weights = tiny.batch()
    labels = np.arange(BATCH, dtype=np.int32) % tiny.case.space.classes
    few = np.zeros(BATCH, np.int32)
    first, losses = Phone(tiny.path), []
    for seen in (few, labels, few):
        if seen is few:
            first.restore(**tiny.state)
        first.train(images=images, labels=seen, sample_weights=weights, learning_rate=np.float32(0))
        after = first.train(
            images=images, labels=few, sample_weights=weights, learning_rate=np.float32(0)
        )
        losses.append(float(after["loss"]))
    without, among_all, restored = losses
    assert without < among_all - 0.1
    assert restored == without


# Fine-tuning steps.


def changes(phone, before):
    return {name: value - before[name] for name, value in phone.state().items()}


def test_a_fine_tuning_step_keeps_the_mean_squares_to_the_bit(exported):
    model = exported("fine-tuned")
    phone = Phone(model.path)
    for number in range(3):
        phone.step(model.batch(number))
    state = phone.state()
    assert_same({name: state[name] for name in model.mean_squares}, model.mean_squares)
    assert differ({name: state[name] for name in model.weights}, model.weights)


def test_the_feature_rate_scales_all_layers_but_the_classifier(tiny, tmp_path):
    training = LocalTraining(batch_size=BATCH, momentum=0, weight_decay=0, clip_value=float("inf"))
    model = Exported(dataclasses.replace(tiny.case, training=training), tmp_path, "plain")
    changed = []
    for rate in (0.125, 0.5):
        path = tmp_path / f"{rate}.tflite"
        model.export(path, feature_rates=(rate, rate))
        phone = Phone(path)
        phone.step(model.batch())
        changed.append(changes(phone, model.state))
    for name in model.weights:
        factor = 1 if name.startswith("head/") else 4
        assert np.abs(changed[0][name]).max() > 1e-5, name
        np.testing.assert_allclose(factor * changed[0][name], changed[1][name], atol=1e-6)


def test_a_fine_tuning_step_of_the_head_changes_the_classifier_and_normalizations(tiny, tmp_path):
    path = tmp_path / "head.tflite"
    tiny.export(path, feature_rates=(0.5, 0.5), with_train_head=True)
    whole, head = Phone(path), Phone(path)
    images, labels, weights = tiny.batch()
    whole.step((images, labels, weights))
    head.train_head(
        images=images, labels=labels, sample_weights=weights, learning_rate=np.float32(RATE)
    )
    after, expected = head.state(), whole.state()
    is_trained = {name: not name.endswith("/kernel") or name == "head/kernel" for name in after}
    assert_near(after, {n: expected[n] if is_trained[n] else tiny.state[n] for n in after})
    operators = flatbuffer.count_operators(split_model(path)[0])
    assert not [name for name in operators if name.startswith("custom:")]


def test_a_fine_tuning_step_of_group_normalization_at_rate_1_is_that_of_a_round(exported, tmp_path):
    group = exported("group")
    path = tmp_path / "fine-tuned.tflite"
    assert group.export(path, feature_rates=(1, 1)).feature_rates == (1, 1)
    phones = Phone(group.path), Phone(path)
    for number in range(2):
        scores = [phone.step(group.batch(number)) for phone in phones]
        assert scores[0] == scores[1]
    assert_same(*(phone.state() for phone in phones))


# The file.


def test_all_operators_are_builtins(model):
    operators = flatbuffer.count_operators(split_model(model.path)[0])
    assert not [name for name in operators if name.startswith("custom:")]


def test_no_operator_is_slow_where_kernels_are_variables(model):
    operators = flatbuffer.count_operators(split_model(model.path)[0])
    assert operators["BATCH_MATMUL"]
    assert not {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "IF"} & operators.keys()


@pytest.mark.parametrize("architecture", ["smallest", "largest"])
def test_a_file_is_not_much_larger_than_its_weights(tmp_path, architecture):
    space = digits_small()
    case = Case(space, getattr(space, architecture)(), LocalTraining(), silent=True)
    exported = Exported(case, tmp_path, architecture)
    assert exported.path.stat().st_size <= 1.15 * 4 * exported.metadata.parameters + 200_000


def test_the_metadata_are_read_without_code_of_ours(tiny):
    with zipfile.ZipFile(tiny.path) as archive:
        fields = json.loads(archive.read("fedsup.json"))
        start = archive.getinfo("fedsup.json").header_offset
        expected = archive.read("model.sha256").decode()
        assert archive.testzip() is None
    assert hashlib.sha256(tiny.path.read_bytes()[:start]).hexdigest() == expected
    assert fields["architecture"] == {"widths": [16], "depths": [1], "kernels": [5]}
    assert SearchSpace.from_json(json.dumps(fields["space"])) == TINY
    assert (fields["supernet_hash"], fields["round"]) == (tiny.hash, 7)
    assert fields["class_names"] == ["class 0", "class 1", "class 2", "class 3"]
    assert fields["training"] == tiny.case.training.fields()
    expected = dataclasses.asdict(tiny.case.preprocessing)
    expected |= {"mean": [100.0], "standard_deviation": [60.0]}
    # The scale of pixels and the reading of pictures were not given.
    assert [expected.pop(name) for name in ("greatest_pixel", "resize", "background")] == [None] * 3
    assert fields["preprocessing"] == expected
    assert fields["batch_sizes"] == {"train": BATCH, "evaluate": 5, "infer": 2}
    assert fields["parameters"] == sum(value.size for value in tiny.weights.values())
    assert read_metadata(tiny.path) == tiny.metadata


@pytest.mark.parametrize("share", [0.0, 0.01, 0.4, 0.7, 0.98])
def test_a_flipped_byte_is_refused(tiny, tmp_path, share):
    path = tmp_path / "flipped.tflite"
    data = bytearray(tiny.path.read_bytes())
    data[int(share * len(data))] ^= 0x10
    path.write_bytes(data)
    told = (
        r"cannot be read \(the model's bytes are not those of .* Export it again or copy it whole"
    )
    with pytest.raises(ValueError, match=told):
        read_metadata(path)


def test_equal_exports_are_equal_bytes(tiny, tmp_path):
    tiny.export(tmp_path / "again.tflite")
    assert (tmp_path / "again.tflite").read_bytes() == tiny.path.read_bytes()


def test_without_feature_rates_a_step_is_that_of_a_round(tiny, tmp_path):
    path = tmp_path / "none.tflite"
    sizes = BatchSizes(BATCH, 5, 2)
    arguments = (tiny.mean_squares, tiny.case.preprocessing, tiny.case.training, tiny.origin, sizes)
    export_tflite(path, tiny.subnet, *arguments)
    assert path.read_bytes() == tiny.path.read_bytes()
    assert tiny.metadata.feature_rates is None


def test_a_refreshed_model_keeps_its_feature_rates(exported, tmp_path):
    model, path = exported("fine-tuned"), tmp_path / "refreshed.tflite"
    told = refresh_tflite(path, model.path, model.weights, model.mean_squares, model.hash, 9)
    assert told.feature_rates == read_metadata(path).feature_rates == (0.04, 0.25)


def test_there_is_a_step_for_the_head_only_if_asked_for(tiny):
    signatures = Phone(tiny.path).signatures
    assert signatures.keys() == {"train", "infer", "evaluate", "save", "restore"}


# Other weights without a conversion.


def test_a_refreshed_model_computes_what_a_new_export_does(exported, tiny, tmp_path):
    fresh, path = exported("fresh"), tmp_path / "refreshed.tflite"
    # Only the training settings are those of the older file.
    told = refresh_tflite(path, fresh.path, tiny.weights, tiny.mean_squares, tiny.hash, 9)
    assert told == dataclasses.replace(fresh.metadata, supernet_hash=tiny.hash, round=9)
    assert read_metadata(path) == told
    assert_same(Phone(path).state(), tiny.state)
    newer = Exported(dataclasses.replace(tiny.case, training=fresh.case.training), tmp_path, "new")
    phones = Phone(path), Phone(newer.path)
    for number in range(3):
        scores = [phone.step(newer.batch(number)) for phone in phones]
        assert scores[0] == scores[1]
    assert_same(*(phone.state() for phone in phones))
    images, _, _ = newer.batch(7, size=2)
    assert_same(*(phone.infer(images=images) for phone in phones))
    # And back to the original weights, with zero branches.
    refresh_tflite(path, path, fresh.weights, fresh.mean_squares, fresh.hash, 7)
    assert_same(Phone(path).state(), fresh.state)
    assert abs(path.stat().st_size - fresh.path.stat().st_size) < 2000


def test_mean_squares_of_double_precision_are_rounded(tiny):
    doubles = {name: value.astype(np.float64) for name, value in tiny.mean_squares.items()}
    case = tiny.case
    phone = TrainingModule(tiny.subnet, doubles, case.preprocessing, case.training)
    assert {variable.dtype for variable in phone.trainable_variables} == {tf.float32}
    saved = phone.save(tf.constant(0.0))
    for name, value in tiny.state.items():
        np.testing.assert_array_equal(saved[phone.python_names[name]], value)


@pytest.mark.parametrize("missing", ["head/bias", "stem_norm/mean_square"])
def test_weights_that_are_not_all_the_models_are_refused(tiny, tmp_path, missing):
    path = tmp_path / "refreshed.tflite"
    weights = {name: value for name, value in tiny.weights.items() if name != missing}
    mean_squares = {name: value for name, value in tiny.mean_squares.items() if name != missing}
    with pytest.raises(ValueError, match=rf"missing are \['{missing}'\]"):
        refresh_tflite(path, tiny.path, weights, mean_squares, tiny.hash, 9)
    wrong = {**tiny.weights, "head/bias": np.zeros(5, np.float32)}
    with pytest.raises(ValueError, match=r"'head/bias' of shape \(4,\), received \(5,\)"):
        refresh_tflite(path, tiny.path, wrong, tiny.mean_squares, tiny.hash, 9)
    assert not path.exists()


# What cannot be exported.


def test_mean_squares_of_another_subnet_are_refused(tiny, tmp_path):
    arguments = (tiny.case.preprocessing, tiny.case.training, tiny.origin, BatchSizes())
    with pytest.raises(ValueError, match="Calibrate the same architecture"):
        export_tflite(tmp_path / "x.tflite", tiny.subnet, {}, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rate", [0, -0.5, 1.01, float("nan"), "x", True])
def test_another_feature_rate_is_refused(tiny, tmp_path, rate):
    told = "expected the first feature rate to be a finite number above 0 and of at most 1, receive"
    with pytest.raises(ValueError, match=told):
        tiny.export(tmp_path / "x.tflite", feature_rates=(rate, 1))
    told = "expected the second feature rate to be a finite number of at least 0.5 and of at most 1"
    with pytest.raises(ValueError, match=told):
        tiny.export(tmp_path / "x.tflite", feature_rates=(0.5, rate))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rates", [0.5, (0.5,), (0.1, 0.2, 0.3)])
def test_another_number_of_feature_rates_is_refused(tiny, tmp_path, rates):
    with pytest.raises(ValueError, match="expected two feature rates"):
        tiny.export(tmp_path / "x.tflite", feature_rates=rates)
    assert not list(tmp_path.iterdir())


def test_a_supernet_of_many_subnets_is_refused(tiny, tmp_path):
    arguments = (tiny.case.preprocessing, tiny.case.training, tiny.origin, BatchSizes())
    shapes = calibration.mean_square_shapes(tiny.supernet.weight_shapes)
    ones = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=r"one subnet, received a supernet of 8 subnets.*extract"):
        export_tflite(tmp_path / "x.tflite", tiny.supernet, ones, *arguments)
    assert not list(tmp_path.iterdir())
