"""Tests of training on a device, on a real `.tflite`: learning, storing, sending, refusing."""

import dataclasses
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from fedsup_tf.files import checkpoint
from fedsup_tf.space import MEAN_SQUARE
from tflite.device import probe
from tflite.device.epoch import DivergedError, EpochReport, check_finite
from tflite.device.runtime import choose_runtime
from tflite.device.trainer import DeviceTrainer
from tflite.format.metadata import ENTRY, append_metadata, read_metadata, split_model
from tflite.format.update_file import read_update, write_update

# A net with one block of 8 channels and four classes, and a model that another program wrote; see
# tests/tflite/export/test_device_sample.py.
SAMPLES = Path(__file__).parents[2] / "data" / "device"
METADATA = read_metadata(SAMPLES / "tiny.tflite")
SPACE = METADATA.space
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model_path():
    return SAMPLES / "tiny.tflite"


@pytest.fixture
def trainer(model_path):
    return DeviceTrainer(model_path)


def make_examples(count=22, seed=0):
    """Returns noisy images of four classes: dark, bright, horizontal and vertical stripes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 4
    stripes = np.tile([[0], [1]], (4, 8))
    patterns = np.stack([np.zeros((8, 8)), np.ones((8, 8)), stripes, stripes.T])
    noise = random.integers(0, 60, (count, 8, 8))
    return (190 * patterns[labels] + noise).astype(np.uint8)[..., np.newaxis], labels


IMAGES, LABELS = make_examples()
FIT = dict(epochs=2, learning_rate=0.05, seed=3)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.tobytes() == second[name].tobytes(), name


def differ(first, second):
    return any(value.tobytes() != second[name].tobytes() for name, value in first.items())


# Training.


def test_training_lowers_the_loss_and_reports_it(trainer):
    before, _ = trainer.evaluate(IMAGES, LABELS)
    told = []
    history = trainer.fit(IMAGES, LABELS, **{**FIT, "epochs": 20}, on_epoch=told.append)
    after, accuracy = trainer.evaluate(IMAGES, LABELS)
    assert after < 0.5 * before
    assert accuracy > 0.9
    assert told == history == trainer.history
    assert [report.epoch for report in history] == list(range(1, 21))
    assert history[-1].loss < 0.5 * history[0].loss
    assert all(report.steps == 3 and report.seconds > 0 for report in history)


def test_an_epoch_reports_means_over_its_examples(trainer):
    seen = []
    train_batch = trainer.train_batch

    def watched(images, *arguments, **options):
        seen.append((len(images), *train_batch(images, *arguments, **options)))
        return seen[-1][1:]

    trainer.train_batch = watched
    (report,) = trainer.fit(IMAGES, LABELS, **{**FIT, "epochs": 1})
    assert [count for count, _, _ in seen] == [8, 8, 6]
    assert report.loss == pytest.approx(sum(count * loss for count, loss, _ in seen) / 22)
    assert report.accuracy == sum(correct for _, _, correct in seen) / 22


def test_the_seed_decides_everything(model_path, trainer):
    trainer.fit(IMAGES, LABELS, **FIT)
    other = DeviceTrainer(model_path)
    other.fit(IMAGES, LABELS, **FIT)
    assert_same(trainer.state(), other.state())
    other = DeviceTrainer(model_path)
    other.fit(IMAGES, LABELS, **{**FIT, "seed": 4})
    assert differ(trainer.state(), other.state())


def test_what_fills_up_a_batch_changes_nothing(model_path, trainer, monkeypatch):
    batch = IMAGES[:5], LABELS[:5]
    results = [trainer.train_batch(*batch, 0.1)]
    other = DeviceTrainer(model_path)

    def fill_with_noise(values, size):
        if values.dtype == np.float32:  # The weights.
            return np.concatenate([values, np.zeros(size - len(values), np.float32)])
        high = 256 if values.dtype == np.uint8 else 4
        noise = RANDOM.integers(0, high, (size - len(values), *values.shape[1:]))
        return np.concatenate([values, noise.astype(values.dtype)])

    monkeypatch.setattr("tflite.device.model.fill", fill_with_noise)
    results.append(other.train_batch(*batch, 0.1))
    assert results[0] == results[1]
    assert_same(trainer.state(), other.state())


def test_the_head_alone_can_be_trained(trainer):
    before = trainer.state()
    trainer.fit(IMAGES, LABELS, **FIT, head_only=True)
    after = trainer.state()
    moved = {name for name in after if after[name].tobytes() != before[name].tobytes()}
    assert {"head/kernel", "head/bias", "stem_norm/gamma"} <= moved
    assert not {"stem/kernel", "a_0/depthwise/kernel", "a_0/pointwise/kernel"} & moved


def test_momentum_lasts_over_epochs_but_not_over_calls(model_path, trainer):
    for _ in range(2):
        trainer.fit(IMAGES, LABELS, **{**FIT, "epochs": 1})
    # By hand: the batches of two epochs, with momentum reset between them or not.
    states = []
    for forgets in (True, False):
        other = DeviceTrainer(model_path)
        for epoch in (1, 2):
            order = np.random.default_rng((FIT["seed"], epoch)).permutation(22)
            for batch in (order[:8], order[8:16], order[16:]):
                other.train_batch(IMAGES[batch], LABELS[batch], FIT["learning_rate"])
            if forgets:
                other.restore(other.state())
        states.append(other.state())
    assert_same(trainer.state(), states[0])
    other = DeviceTrainer(model_path)
    other.fit(IMAGES, LABELS, **FIT)
    assert_same(other.state(), states[1])
    assert differ(*states)


def test_patience_ends_training_and_the_best_epoch_is_kept(trainer):
    images, labels = make_examples(13, seed=5)
    states = []
    history = trainer.fit(
        IMAGES,
        LABELS,
        epochs=40,
        learning_rate=0.5,  # So high that the held-out loss goes up and down.
        seed=0,
        held_out=(images, labels),
        patience=2,
        on_epoch=lambda _: states.append(trainer.state()),
    )
    losses = [report.held_out_loss for report in history]
    best = int(np.argmin(losses))
    assert len(history) == best + 3 < 40
    assert_same(trainer.state(), states[best])
    assert trainer.evaluate(images, labels) == (losses[best], history[best].held_out_accuracy)
    # Its patience is exhausted already: it trains no further.
    assert trainer.fit(
        IMAGES, LABELS, **FIT, held_out=(images, labels), patience=2
    ) == []  # fmt: skip
    assert_same(trainer.state(), states[best])


def test_the_best_epoch_before_a_training_without_held_out_examples_does_not_count(trainer):
    held_out = make_examples(13, seed=5)
    trainer.fit(IMAGES, LABELS, **FIT, held_out=held_out)
    trainer.fit(IMAGES, LABELS, **{**FIT, "epochs": 3})
    before = trainer.state()
    assert len(trainer.fit(IMAGES, LABELS, **FIT, held_out=held_out, patience=2)) > 0
    assert differ(before, trainer.state())


def test_told_to_stop_it_ends_with_the_last_whole_epoch(model_path, trainer):
    answers = iter([False] * 5 + [True])  # Within the second epoch of three steps.
    history = trainer.fit(IMAGES, LABELS, **{**FIT, "epochs": 9}, should_stop=lambda: next(answers))
    assert len(history) == trainer.epochs_done == 1
    other = DeviceTrainer(model_path)
    other.fit(IMAGES, LABELS, **{**FIT, "epochs": 1})
    assert_same(trainer.state(), other.state())


def test_an_interrupted_epoch_leaves_the_one_before(trainer):
    trainer.fit(IMAGES, LABELS, **FIT)
    before = trainer.state()

    def interrupt():
        if differ(before, trainer.state()):
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(IMAGES, LABELS, **FIT, should_stop=interrupt)
    assert_same(trainer.state(), before)
    assert trainer.epochs_done == 2


@pytest.mark.parametrize(("count", "learning_rate"), [(22, 1e20), (16, 1e38)])
def test_training_that_diverges_is_taken_back(trainer, count, learning_rate):
    trainer.fit(IMAGES, LABELS, **FIT)
    before, scores = trainer.state(), trainer.evaluate(IMAGES, LABELS)
    told = r"received (a loss of nan|NaN or infinity in '.+') in epoch 3 at .*, which is too large"
    with pytest.raises(ValueError, match=told):
        trainer.fit(IMAGES[:count], LABELS[:count], **{**FIT, "learning_rate": learning_rate})
    assert_same(trainer.state(), before)
    assert trainer.evaluate(IMAGES, LABELS) == scores
    assert trainer.epochs_done == 2


def test_the_damage_of_an_epochs_last_step_is_seen(trainer):
    report, state = EpochReport(1, 0.5, 0.5, 0.1, 3), trainer.state()
    check_finite(report, state)
    with pytest.raises(DivergedError, match="a held-out loss of inf"):
        check_finite(report._replace(held_out_loss=float("inf")), state)
    state["head/bias"][2] = np.inf
    with pytest.raises(DivergedError, match="infinity in 'head/bias'"):
        check_finite(report, state)


# Mean squares.


def mean_squares(state):
    return {name: value for name, value in state.items() if name.endswith(MEAN_SQUARE)}


def weights(state):
    return {name: value for name, value in state.items() if not name.endswith(MEAN_SQUARE)}


def own_mean_squares(model_path, state):
    """Returns a state's mean squares on the first images: ten times those of a step from 0."""
    other = DeviceTrainer(model_path)
    other.restore(weights(state) | {n: np.zeros_like(v) for n, v in mean_squares(state).items()})
    other.train_batch(IMAGES[:8], LABELS[:8], 0.0)
    return {name: 10 * value for name, value in mean_squares(other.state()).items()}


def distance(first, second):
    """Returns the largest relative difference between mean squares."""
    return max(np.abs(first[name] / value - 1).max() for name, value in second.items())


def test_mean_squares_are_brought_up_to_date_with_the_weights(model_path, trainer):
    images, labels = IMAGES[:8], LABELS[:8]
    trainer.fit(images, labels, epochs=3, learning_rate=0.2, seed=3)
    trained = trainer.state()
    own = own_mean_squares(model_path, trained)
    assert trainer.refresh_mean_squares(images, labels, seed=0, passes=1)
    once = distance(mean_squares(trainer.state()), own)
    assert once < distance(mean_squares(trained), own)
    assert trainer.refresh_mean_squares(images, labels, seed=0, passes=99)
    assert distance(mean_squares(trainer.state()), own) < 0.01
    assert_same(weights(trainer.state()), weights(trained))


def test_nothing_but_inference_notices_mean_squares_up_to_date(model_path, trainer):
    other = DeviceTrainer(model_path)
    for one in (trainer, other):
        one.fit(IMAGES, LABELS, **FIT)
    assert trainer.refresh_mean_squares(IMAGES, LABELS, seed=0)
    assert differ(mean_squares(trainer.state()), mean_squares(other.state()))
    assert trainer.epochs_done == 2
    scores = {"examples": 22, "loss_before": 1.0, "loss_after": 0.5}
    assert trainer.update(**scores).identity == other.update(**scores).identity
    for one in (trainer, other):
        one.fit(IMAGES, LABELS, **FIT)
    assert_same(weights(trainer.state()), weights(other.state()))


def test_told_to_stop_mean_squares_stay(trainer):
    trainer.fit(IMAGES, LABELS, **FIT)
    before = trainer.state()
    answers = iter([False, False, True])
    assert not trainer.refresh_mean_squares(
        IMAGES, LABELS, seed=0, should_stop=lambda: next(answers)
    )
    assert_same(trainer.state(), before)
    with pytest.raises(ValueError, match="passes"):
        trainer.refresh_mean_squares(IMAGES, LABELS, seed=0, passes=0)
    assert_same(trainer.state(), before)


def test_a_fine_tuned_model_keeps_its_mean_squares(model_path, tmp_path):
    model, metadata = split_model(model_path)
    path = tmp_path / "fine_tuned.tflite"
    metadata = dataclasses.replace(metadata, feature_rates=(0.5, 0.5))
    path.write_bytes(append_metadata(model, metadata))
    trainer = DeviceTrainer(path)
    before = trainer.state()
    assert trainer.refresh_mean_squares(IMAGES, LABELS, seed=0)
    assert_same(trainer.state(), before)
    with pytest.raises(ValueError, match="passes"):
        trainer.refresh_mean_squares(IMAGES, LABELS, seed=0, passes=0)


# Evaluation.


def test_evaluation_of_any_number_of_examples_is_that_of_its_logits(trainer):
    trainer.fit(IMAGES, LABELS, **FIT)
    logits = trainer.infer(IMAGES)
    assert logits.shape == (22, 4)
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(22), LABELS]
    for count in (1, 2, 4, 5, 6, 10, 11, 22):
        np.testing.assert_array_equal(trainer.infer(IMAGES[:count]), logits[:count])
        loss, accuracy = trainer.evaluate(IMAGES[:count], LABELS[:count])
        assert accuracy == np.mean(logits[:count].argmax(axis=1) == LABELS[:count])
        assert loss == pytest.approx(losses[:count].mean(), rel=1e-5)


# Keeping and sending.


def test_restore_brings_a_state_back_and_starts_the_count_anew(trainer):
    received = trainer.state()
    trainer.fit(IMAGES, LABELS, **FIT)
    assert differ(received, trainer.state())
    trainer.restore(received)
    assert_same(trainer.state(), received)
    assert trainer.epochs_done == 0


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("head/bias", None, r"missing are \['head/bias'\]"),
        ("head/more", lambda state: state["head/bias"], r"unknown are \['head/more'\]"),
        ("head/bias", lambda state: state["head/bias"][:3], r"received \(3,\)"),
        ("head/bias", lambda state: state["head/bias"].astype(np.float64), "received float64"),
        ("head/bias", lambda state: state["head/bias"].tolist(), "received <class 'list'>"),
        ("head/bias", lambda state: state["head/bias"] * np.nan, "received NaN or infinity"),
        (
            "stem_norm/mean_square",
            lambda state: -state["stem_norm/mean_square"],
            "a negative mean square",
        ),
    ],
)
def test_a_state_that_is_not_the_models_is_refused(trainer, name, change, told):
    trainer.fit(IMAGES, LABELS, **FIT)
    before = trainer.state()
    state = {key: value + 1 for key, value in before.items()}
    if change is None:
        del state[name]
    else:
        state[name] = change(state)
    with pytest.raises(ValueError, match=told):
        trainer.restore(state)
    assert_same(trainer.state(), before)
    assert trainer.epochs_done == 2


def test_training_goes_on_from_a_checkpoint_as_if_it_were_called_twice(
    model_path, trainer, tmp_path
):
    path = tmp_path / "checkpoint"
    trainer.fit(IMAGES, LABELS, **FIT)
    trainer.save_checkpoint(path, {"learning_rate": 0.05})
    other = DeviceTrainer(model_path)
    assert other.load_checkpoint(path) == {"learning_rate": 0.05}
    assert other.history == trainer.history
    assert_same(other.state(), trainer.state())
    for one in (trainer, other):
        one.fit(IMAGES, LABELS, **FIT)
    assert other.epochs_done == 4
    assert_same(other.state(), trainer.state())
    losses = dict(examples=22, loss_before=1.0, loss_after=0.5)
    assert other.update(**losses).identity == trainer.update(**losses).identity


def test_resumed_epochs_have_the_batches_they_would_have_had(model_path):
    seen = []
    for calls in ((4,), (2, 2)):
        trainer, batches = DeviceTrainer(model_path), []
        trainer.train_batch = lambda *arguments, to=batches, **_: (to.append(arguments), (1, 0))[1]
        for epochs in calls:
            trainer.fit(IMAGES, LABELS, **{**FIT, "epochs": epochs})
        seen.append([images.tobytes() for images, *_ in batches])
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 12  # All batches differ.


def test_the_best_epoch_survives_in_a_checkpoint(model_path, trainer, tmp_path):
    held_out = make_examples(13, seed=5)
    options = dict(learning_rate=0.5, seed=0, held_out=held_out, patience=2)
    trainer.fit(
        IMAGES,
        LABELS,
        epochs=40,
        **options,
        on_epoch=lambda _: trainer.save_checkpoint(tmp_path / "checkpoint"),
    )
    other = DeviceTrainer(model_path)
    other.load_checkpoint(tmp_path / "checkpoint")
    assert differ(other.state(), trainer.state())  # Still the state of the last epoch.
    assert other.fit(IMAGES, LABELS, epochs=40, **options) == []
    assert_same(other.state(), trainer.state())


def test_a_checkpoint_that_cannot_be_written_leaves_the_last(trainer, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    trainer.save_checkpoint(path)
    whole = path.read_bytes()
    trainer.fit(IMAGES, LABELS, **FIT)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint(path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_the_checkpoint_of_another_export_of_the_subnet_is_refused(model_path, trainer, tmp_path):
    model, metadata = split_model(model_path)
    training = {**metadata.training, "momentum": 0.25}
    other = tmp_path / "other.tflite"
    other.write_bytes(append_metadata(model, dataclasses.replace(metadata, training=training)))
    trainer.save_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=r"expected one of the model .* Train the model that it"):
        DeviceTrainer(other).load_checkpoint(tmp_path / "checkpoint")


def rewrite(path, change):
    """Rewrites a checkpoint with changed tensors and metadata."""
    tensors, metadata = checkpoint.read_tensors(path, "device checkpoint")
    change(tensors, metadata)
    header = {"kind": "fedsup-tf device checkpoint", "version": 1, "metadata": metadata}
    safetensors.numpy.save_file(tensors, path, {"fedsup-tf": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda _, fields: fields.update(base_hash="0" * 64), "of supernet 000000000000"),
        (lambda _, fields: fields["architecture"].update(widths=[16]), r"\{'widths': \[16\]"),
        (lambda tensors, _: tensors.pop("state/head/bias"), r"others for \['state/head/bias'\]"),
        (
            lambda tensors, _: tensors.update({"best/head/bias": np.zeros(4, np.float32)}),
            "others for",
        ),
        (
            lambda tensors, _: tensors.update({"state/head/bias": np.zeros(4)}),
            r"others for \['state/head/bias'\]",
        ),
        (
            lambda tensors, _: tensors.update({"state/head/bias": np.full(4, np.inf, np.float32)}),
            "NaN or infinity",
        ),
        (lambda _, fields: fields.update(history=5), "a list as history, received int"),
        (lambda _, fields: fields["history"].append({"epoch": 3}), "of each epoch"),
        (lambda _, fields: fields["history"].pop(0), "numbered from 1"),
        (lambda _, fields: fields.pop("notes"), "missing are"),
    ],
)
def test_another_checkpoint_is_refused(model_path, trainer, tmp_path, change, told):
    path = tmp_path / "checkpoint"
    trainer.fit(IMAGES, LABELS, **FIT)
    trainer.save_checkpoint(path)
    rewrite(path, change)
    other = DeviceTrainer(model_path)
    before = other.state()
    with pytest.raises(ValueError, match=told) as error:
        other.load_checkpoint(path)
    assert str(error.value).startswith(repr(str(path)))
    assert_same(other.state(), before)
    assert other.epochs_done == 0


def test_files_that_are_no_whole_checkpoint_are_refused(trainer, tmp_path):
    path = tmp_path / "checkpoint"
    with pytest.raises(ValueError, match="found none"):
        trainer.load_checkpoint(path)
    trainer.save_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cannot be read"):
        trainer.load_checkpoint(path)
    trainer.fit(IMAGES, LABELS, **FIT)
    write_update(path, trainer.update(examples=22, loss_before=1.0, loss_after=0.5))
    with pytest.raises(ValueError, match="received 'fedsup-tf update'"):
        trainer.load_checkpoint(path)


def test_an_update_is_the_change_of_the_weights(trainer, tmp_path):
    received = trainer.state()
    trainer.fit(IMAGES, LABELS, **FIT)
    trained = trainer.state()
    update = trainer.update(examples=22, loss_before=1.5, loss_after=0.5, client="me")
    shapes = {
        name: shape for name, shape in METADATA.variables.items() if not name.endswith(MEAN_SQUARE)
    }
    assert update.delta.keys() == shapes.keys()
    assert_same(update.delta, {name: trained[name] - received[name] for name in shapes})
    assert (update.base_hash, update.base_round) == (METADATA.supernet_hash, 7)
    assert update.class_names == METADATA.class_names
    write_update(tmp_path / "update", update)
    read = read_update(tmp_path / "update", SPACE, lambda _: shapes)
    assert read.identity == update.identity


# What does not fit.


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (IMAGES[..., 0], r"received uint8 of shape \(22, 8, 8\)"),
        (IMAGES[:, :7], r"uint8 of shape \(examples, 8, 8, 1\), .*received .*\(22, 7, 8, 1\)"),
        (IMAGES[:0], "at least one"),
        (IMAGES.astype(np.float32), "received float32"),
        (IMAGES.tolist(), "received list"),
    ],
)
def test_other_images_are_refused(trainer, images, told):
    for call in (
        lambda: trainer.fit(images, LABELS, **FIT),
        lambda: trainer.evaluate(images, LABELS),
        lambda: trainer.infer(images),
        lambda: trainer.train_batch(images, LABELS, 0.1),
    ):
        with pytest.raises(ValueError, match=told):
            call()


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (LABELS + 1, "numbers from 0 to 3, received 1 to 4"),
        (LABELS - 1, "received -1 to 2"),
        (LABELS[:-1], r"shape \(22,\), one for each image, received int32 of shape \(21,\)"),
        (LABELS.astype(np.float32), "received float32"),
        (LABELS[:, np.newaxis], r"of shape \(22, 1\)"),
    ],
)
def test_other_labels_are_refused(trainer, labels, told):
    before = trainer.state()
    for call in (
        lambda: trainer.fit(IMAGES, labels, **FIT),
        lambda: trainer.evaluate(IMAGES, labels),
        lambda: trainer.fit(IMAGES, LABELS, **FIT, held_out=(IMAGES, labels)),
    ):
        with pytest.raises(ValueError, match=told):
            call()
    assert_same(trainer.state(), before)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epochs": -1}, "epochs to be a whole number from 0"),
        ({"epochs": 1.5}, "epochs to be a whole number"),
        ({"seed": -1}, "seed to be a whole number"),
        ({"learning_rate": 0}, "learning_rate to be a finite number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate to be a finite number above 0"),
        ({"learning_rate": "0.1"}, "learning_rate to be a finite number above 0"),
        ({"patience": 0, "held_out": (IMAGES, LABELS)}, "patience to be a whole number from 1"),
        ({"patience": 2}, "held-out examples for patience 2"),
    ],
)
def test_arguments_of_another_kind_are_refused(trainer, options, told):
    with pytest.raises(ValueError, match=told):
        trainer.fit(IMAGES, LABELS, **{**FIT, **options})
    assert trainer.epochs_done == 0


def test_a_batch_larger_than_the_exported_is_refused(trainer):
    with pytest.raises(ValueError, match="at most 8 images, received 9"):
        trainer.train_batch(IMAGES[:9], LABELS[:9], 0.1)


def test_threads_change_no_bit(model_path):
    states = []
    for threads in (1, 2, 4):
        trainer = DeviceTrainer(model_path, threads)
        trainer.fit(IMAGES, LABELS, **FIT)
        states.append(trainer.state())
    assert_same(states[0], states[1])
    assert_same(states[0], states[2])


@pytest.mark.parametrize("threads", [0, 1.0, None])
def test_threads_are_a_number(model_path, threads):
    with pytest.raises(ValueError, match="threads to be a whole number from 1"):
        DeviceTrainer(model_path, threads)


# Files.


def test_models_of_others_are_refused(model_path, tmp_path):
    metadata, foreign = METADATA, (SAMPLES / "foreign.tflite").read_bytes()
    path = tmp_path / "model.tflite"
    path.write_bytes(foreign)
    with pytest.raises(ValueError, match=rf"{ENTRY} behind the model"):
        DeviceTrainer(path)
    path.write_bytes(append_metadata(foreign, metadata))
    with pytest.raises(ValueError, match="the signatures of fedsup export, received a model with"):
        DeviceTrainer(path)
    path.write_bytes(append_metadata(b"no model at all", metadata))
    with pytest.raises(ValueError, match="a model that the runtime can open"):
        DeviceTrainer(path)
    with pytest.raises(ValueError, match="found none"):
        DeviceTrainer(tmp_path / "none")


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_truncated_model_is_refused(model_path, tmp_path, share):
    whole = model_path.read_bytes()
    path = tmp_path / "model.tflite"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"Export it again or copy it whole\.$"):
        DeviceTrainer(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch_sizes": {"train": 9, "evaluate": 5, "infer": 3}}, "inputs of 'train'"),
        ({"variables": {"head/bias": (4,)}}, "'save'|'restore'"),
        ({"parameters": 3}, r"weights of its architecture .*, received \d+, and 3 declared"),
        ({"space": dataclasses.replace(SPACE, image_shape=(9, 8, 1))}, "inputs of '"),
    ],
)
def test_metadata_of_another_model_are_refused(model_path, tmp_path, changes, told):
    path = tmp_path / "model.tflite"
    shutil.copy(model_path, path)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(ENTRY).header_offset
    other = dataclasses.replace(read_metadata(path), **changes)
    path.write_bytes(append_metadata(path.read_bytes()[:start], other))
    with pytest.raises(ValueError, match=told) as error:
        DeviceTrainer(path)
    assert "Export the model again" in str(error.value)


@pytest.mark.slow
def test_a_device_needs_no_tensorflow(model_path, tmp_path):
    np.savez(tmp_path / "examples.npz", images=IMAGES, labels=LABELS)
    program = f"""
import json, sys
import numpy as np
from fedsup_tf.data import datasets, partition
from tflite.device.trainer import DeviceTrainer
from tflite.format.update_file import write_update
examples = np.load({str(tmp_path / "examples.npz")!r})
trainer = DeviceTrainer({str(model_path)!r})
trainer.fit(examples["images"], examples["labels"], epochs=2, learning_rate=0.05, seed=3)
trainer.save_checkpoint({str(tmp_path / "checkpoint")!r})
trainer.load_checkpoint({str(tmp_path / "checkpoint")!r})
update = trainer.update(examples=22, loss_before=1.0, loss_after=0.5)
write_update({str(tmp_path / "update")!r}, update)
datasets.load_dataset("digits")
loaded = [name for name in sys.modules if name.startswith("tensorflow")]
print(json.dumps([loaded, update.identity]))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    loaded, identity = json.loads(result.stdout)
    assert loaded == []
    trainer = DeviceTrainer(model_path)
    trainer.fit(IMAGES, LABELS, **FIT)
    assert trainer.update(examples=22, loss_before=1.0, loss_after=0.5).identity == identity


def test_a_crafted_model_ends_a_child_and_not_this_process(model_path, tmp_path, monkeypatch):
    model, metadata = split_model(model_path)
    path = tmp_path / "crafted.tflite"
    # The offset of its first table is far beyond its end, but its hash is valid.
    path.write_bytes(append_metadata((2**30).to_bytes(4, "little") + model[4:], metadata))
    assert read_metadata(path) == metadata
    # LiteRT verifies tables before it follows them; earlier runtimes crash the child process.
    verifies = choose_runtime() == "ai_edge_litert"
    told = "not a valid Flatbuffer" if verifies else r"by signal \d+ in which it was tried"
    with pytest.raises(ValueError, match=rf"crafted\.tflite': expected a model .*{told}"):
        DeviceTrainer(path)
    # An intact model is tried once, and a trusted one never.
    copy, commands = tmp_path / "copy.tflite", []
    copy.write_bytes(append_metadata(model, dataclasses.replace(metadata, round=99)))

    def run(command, **options):
        commands.append(command)
        assert options["timeout"] > 0
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(
        probe.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, -11)
    )
    with pytest.raises(ValueError, match=r"copy\.tflite'.*by signal 11 in which it was tried"):
        DeviceTrainer(copy)
    monkeypatch.setattr(probe.subprocess, "run", run)
    DeviceTrainer(copy, trusted=True)
    assert not commands
    DeviceTrainer(copy)
    DeviceTrainer(copy)
    assert len(commands) == 1
