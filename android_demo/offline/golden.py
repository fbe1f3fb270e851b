"""Reference results of Python's runtime with the app's model, for the tests of the app's engine.

Usage: golden.py MODEL.tflite FOLDER. Writes golden.json: examples, and the results of
training on them in Python; and update.safetensors: an update as Python writes it. Likewise
smaller.tflite and smaller.json: a subnet that takes smaller pictures than its supernet's largest.
"""

import dataclasses
import json
import pathlib
import sys

import numpy as np
import tensorflow as tf

from fedsup_tf import calibration
from fedsup_tf.data import datasets
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.presets import digits_small
from fedsup_tf.resizing import resize_images
from fedsup_tf.supernet import Supernet
from tflite.device.interpreter import open_interpreter
from tflite.export.export import BatchSizes, Origin, export_tflite
from tflite.format import signatures
from tflite.format.metadata import ModelMetadata, read_metadata
from tflite.format.update_file import DeviceUpdate, write_update

_LEARNING_RATE = 0.05
# Examples of each step: whole batches and short ones.
_STEPS = (16, 16, 5, 16, 1, 16, 11, 16)
_EXAMPLES = 40


def main(model: str, folder: str) -> None:
    """Writes the files."""
    digits = datasets.load_dataset("digits")
    images = digits.train_images[:_EXAMPLES]
    # Other labels than the model has learned, which would hardly move its weights.
    labels = (digits.train_labels[:_EXAMPLES] + 1) % len(digits.class_names)
    target = pathlib.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    golden, received, trained = _train(model, images, labels)
    (target / "golden.json").write_text(json.dumps(golden), encoding="utf-8")
    update = _update(read_metadata(model), received, trained)
    write_update(target / "update.safetensors", update)
    smaller = resize_images(images, 4, 4)
    _export_smaller(str(target / "smaller.tflite"), smaller, digits)
    golden, _, _ = _train(str(target / "smaller.tflite"), smaller, labels)
    (target / "smaller.json").write_text(json.dumps(golden), encoding="utf-8")


def _export_smaller(path: str, images, digits) -> None:
    """Exports an untrained subnet that takes pictures of 4 x 4 of a supernet for 8 x 8."""
    space = dataclasses.replace(digits_small(), resolutions=(4, 8))
    supernet = Supernet(space, seed=0)
    subnet = supernet.extract(space.smallest())
    weights = subnet.weights_by_name()
    sums = calibration.sum_mean_squares(
        subnet, weights, tf.constant(images), _EXAMPLES, digits.preprocessing
    )
    mean_squares = {name: value.numpy() / _EXAMPLES for name, value in sums.items()}
    hash_ = fingerprint(supernet.weights_by_name())
    origin = Origin(space, hash_, 0, digits.class_names)
    export_tflite(
        path, subnet, mean_squares, digits.preprocessing, LocalTraining(), origin, BatchSizes(16)
    )


def _train(model: str, images, labels):
    """Returns the results of training, and the variables before and after it."""
    metadata = read_metadata(model)
    interpreter = open_interpreter(1, model_path=model)
    # A model may have no train_head.
    names = interpreter.get_signature_list()
    runners = {name: interpreter.get_signature_runner(name) for name in names}
    received = runners[signatures.SAVE](dummy=np.float32(0))

    def losses(signature):
        # Training anew from the received weights and without momentum.
        runners[signatures.RESTORE](**received)
        found = []
        for number, count in enumerate(_STEPS):
            chosen = (np.arange(count) + 7 * number) % _EXAMPLES
            batch = _batch(images[chosen], labels[chosen], metadata.batch_sizes["train"])
            rate = np.float32(_LEARNING_RATE)
            found.append(float(runners[signature](**batch, learning_rate=rate)["loss"]))
        return found

    def probabilities():
        logits = runners[signatures.INFER](images=images[:1])["logits"][0]
        exponents = np.exp(logits - logits.max())
        return (exponents / exponents.sum()).tolist()

    golden = {
        "learning_rate": _LEARNING_RATE,
        "steps": _STEPS,
        "images": images.reshape(_EXAMPLES, -1).tolist(),
        "labels": labels.tolist(),
        "received": probabilities(),
        "train_head": losses(signatures.TRAIN_HEAD) if signatures.TRAIN_HEAD in runners else None,
        "train": losses(signatures.TRAIN),
        "trained": probabilities(),
    }
    size = metadata.batch_sizes["evaluate"]
    scores = runners[signatures.EVALUATE](**_batch(images[:size], labels[:size], size))
    golden["evaluated"] = {"examples": size, **{name: float(scores[name]) for name in scores}}
    return golden, received, runners[signatures.SAVE](dummy=np.float32(0))


def _batch(images, labels, size) -> dict[str, np.ndarray]:
    """The inputs of a signature; a short batch is filled up under weight 0."""
    filling = [(0, size - len(labels))]
    return {
        signatures.IMAGES: np.pad(images, filling + [(0, 0)] * 3),
        signatures.LABELS: np.pad(labels, filling),
        signatures.SAMPLE_WEIGHTS: np.pad(np.ones(len(labels), np.float32), filling),
    }


def _update(metadata: ModelMetadata, received, trained) -> DeviceUpdate:
    return DeviceUpdate(
        delta={
            name: trained[name] - received[name]
            for name in metadata.variables
            if not name.endswith("/mean_square")
        },
        architecture=metadata.architecture,
        base_hash=metadata.supernet_hash,
        base_round=metadata.round,
        examples=12,
        loss_before=1.5,
        loss_after=0.25,
        client="a phone called „Ä/7“",
        class_names=metadata.class_names,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
