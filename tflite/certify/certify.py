"""Certifies an exported `.tflite` against the Keras subnet that it was exported from.

Each installed runtime runs the file, whereas TensorFlow's own operations and gradients compute the
subnet from the supernet's weights (`reference`). Each check reports its largest difference and its
tolerance.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fedsup_tf import calibration
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.files.reading import reading
from fedsup_tf.files.validation import check_whole_number
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.resizing import resize_images
from fedsup_tf.search.budget import CostModel
from fedsup_tf.search.costs import architecture_cost, train_head_bytes
from fedsup_tf.space import MEAN_SQUARE
from fedsup_tf.supernet import Supernet
from tflite.certify.certified_training import LEARNING_RATE, TrainingChecks
from tflite.certify.checks import Check, UncheckedModel, compare
from tflite.certify.reference import Reference
from tflite.device.runtime import choose_runtime, installed_runtimes, runtime_version
from tflite.device.trainer import DeviceTrainer
from tflite.flatbuffer import flatbuffer
from tflite.format.metadata import CLASSIFIERS, ModelMetadata, read_metadata

# Relative to the largest logit: some hundred rounding errors, one per addition in a long sum.
_INFER_TOLERANCE = 2e-5
_THREADS = (2, 4)
# Opens a new instance of the file in one runtime; takes `threads`.
_OpenModel = Callable[..., UncheckedModel]


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Results of all checks of an exported file.

    Attributes:
      path: Path of the file.
      metadata: Metadata of the file.
      file_bytes: Size of the file in bytes.
      operators: Number of occurrences of each operator.
      checks: Results of the checks, first of the file itself, then of each runtime.
      runtimes: Versions of the runtimes that ran the file, by name.
    """

    path: str
    metadata: ModelMetadata
    file_bytes: int
    operators: Mapping[str, int]
    checks: Sequence[Check]
    runtimes: Mapping[str, str]

    @property
    def holds(self) -> bool:
        """True if all checks passed."""
        return all(check.holds for check in self.checks)

    def to_fields(self) -> dict[str, Any]:
        """Returns the certificate as JSON values."""
        metadata = self.metadata
        return {
            "file": os.path.basename(self.path),
            "holds": self.holds,
            "architecture": metadata.architecture.fields(),
            "supernet_hash": metadata.supernet_hash,
            "round": metadata.round,
            "parameters": metadata.parameters,
            "macs": metadata.macs,
            "file_bytes": self.file_bytes,
            "batch_sizes": dict(metadata.batch_sizes),
            "operators": dict(self.operators),
            "runtimes": dict(self.runtimes),
            "checks": [check._asdict() for check in self.checks],
        }


def certify_tflite(
    path: str | os.PathLike,
    supernet: Supernet,
    preprocessing: Preprocessing,
    images: np.ndarray,
    labels: np.ndarray,
    steps: int = 10,
    training: LocalTraining | None = None,
    runtimes: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> Certificate:
    """Checks that a file infers and trains as its subnet does in TensorFlow.

    Args:
      path: File that `export_tflite` wrote.
      supernet: Supernet that the subnet was extracted from.
      preprocessing: Preprocessing of the supernet's training.
      images: `(examples, height, width, channels)`, uint8; steps cycle through them. They are
        resized to the resolution of the subnet.
      labels: `(examples,)`, integers.
      steps: Number of training steps to compare, at least 1.
      training: Hyper-parameters of a step; by default those of the file.
      runtimes: Names of the runtimes that run the file; by default all installed runtimes.
      class_names: Name of each label in the supernet's training; by default, names are not
        compared.

    Returns:
      The certificate, whether or not all checks passed.

    Raises:
      ValueError: If the file is damaged, is not an exported model, or comes from another supernet,
        or if a runtime is not installed.
    """
    runtimes = [choose_runtime(name) for name in dict.fromkeys(runtimes or installed_runtimes())]
    steps = check_whole_number(steps, "steps", 1, advice="Give 10.")
    path = os.fspath(path)
    metadata = read_metadata(path)
    _check_origin(path, metadata, supernet)
    _check_examples(images, labels, metadata)
    images = resize_images(images, *metadata.image_shape[:2])
    with open(path, "rb") as file:
        model = file.read()
    with reading(path, "a model that fedsup export wrote", "Export it again."):
        operators = flatbuffer.count_operators(model)
    foreign = sorted(name for name in operators if name.startswith("custom:"))
    summary = f"{sum(operators.values())} operators of {len(operators)} kinds"
    checks = [Check("builtin operators", not foreign, note=", ".join(foreign) or summary)]
    versions = {}
    if class_names is not None:
        are_same = tuple(class_names) == metadata.class_names
        note = f"{len(metadata.class_names)}, those of the checkpoint" if are_same else "others"
        checks.append(Check("class names", are_same, note=note))
    if not foreign:
        subnet = supernet.extract(metadata.architecture)
        opened = UncheckedModel(path, runtime=runtimes[0])
        state = opened.state()
        if metadata.classifier != CLASSIFIERS[0]:
            fitted = {name: state[name] for name in calibration.CLASSIFIER}
            subnet.assign_weights({**subnet.values_by_name(), **fitted})
        training = training or LocalTraining(**metadata.training)
        labels = np.asarray(labels, np.int32)
        checks += _check_file(len(model), opened, subnet, preprocessing)
        fine_tuning = {}
        if metadata.feature_rates is not None:
            frozen = {name: value for name, value in state.items() if name.endswith(MEAN_SQUARE)}
            fine_tuning = {"frozen": frozen, "feature_rates": metadata.feature_rates}
        reference = Reference(subnet, preprocessing, training, **fine_tuning)
        for runtime in runtimes:
            versions[runtime] = runtime_version(runtime)
            open_model = functools.partial(UncheckedModel, path, runtime=runtime)
            found = [
                _check_weights(open_model, metadata, subnet),
                *_check_inference(open_model, metadata, subnet, preprocessing, images, labels),
                *TrainingChecks(open_model, metadata, reference, images, labels).run(steps),
                *_check_state(open_model, DeviceTrainer(path, runtime=runtime), images, labels),
                *_check_threads(open_model, images, labels),
            ]
            checks += [check._replace(runtime=runtime) for check in found]
    return Certificate(path, metadata, len(model), operators, checks, versions)


def _check_origin(path: str, metadata: ModelMetadata, supernet: Supernet) -> None:
    own = fingerprint(supernet.weights_by_name())
    if own != metadata.supernet_hash or supernet.space != metadata.space:
        raise ValueError(
            f"{path!r}: expected a model of the supernet {own[:12]} of space "
            f"{supernet.space.name!r}, received one of {metadata.supernet_hash[:12]} of space "
            f"{metadata.space.name!r}, round {metadata.round}. Give the checkpoint that it was "
            "exported from."
        )


def _check_file(
    file_bytes: int, model: UncheckedModel, subnet: Supernet, preprocessing: Preprocessing
) -> list[Check]:
    metadata = model.metadata
    ours = {name: list(getattr(preprocessing, name)) for name in ("mean", "standard_deviation")}
    theirs = {name: list(metadata.preprocessing[name]) for name in ours}
    limit = CostModel(subnet.space).costs(subnet.architecture)["file_bytes"]
    if model.can_train_head:
        limit += train_head_bytes(subnet.architecture)
    cost = architecture_cost(subnet.space, subnet.architecture)
    are_equal = (metadata.parameters, metadata.macs) == (cost.parameters, cost.macs)
    counts = f"{cost.parameters:,} parameters, {cost.macs:,} MACs"
    return [
        Check("preprocessing", ours == theirs, note=f"mean {theirs['mean']}"),
        Check("reported costs", are_equal, note=counts),
        Check("file size", file_bytes <= limit, note=f"{file_bytes:,} of at most {limit:,} bytes"),
    ]


def _check_weights(open_model: _OpenModel, metadata: ModelMetadata, subnet: Supernet) -> Check:
    fresh = open_model().state()
    weights = subnet.values_by_name()
    is_same = fresh.keys() >= weights.keys() and all(
        fresh[name].tobytes() == value.tobytes() for name, value in weights.items()
    )
    note = f"{len(weights)} tensors, bit for bit"
    if metadata.classifier != CLASSIFIERS[0]:
        note += ", but for the classifier, which was fitted to the subnet"
    return compare("fresh weights", weights, fresh, 0.0, note)._replace(holds=is_same)


def _check_inference(
    open_model: _OpenModel,
    metadata: ModelMetadata,
    subnet: Supernet,
    preprocessing: Preprocessing,
    images: np.ndarray,
    labels: np.ndarray,
) -> list[Check]:
    exported = open_model()
    state = exported.state()
    frozen = {name: tf.constant(state[name]) for name in state if name not in subnet.weight_shapes}
    weights = {name: tf.convert_to_tensor(v) for name, v in subnet.weights_by_name().items()}
    size = metadata.batch_sizes["evaluate"]
    images, labels = images[:size], labels[:size]
    normalized = preprocessing.normalize(images)
    unfolded = subnet.forward({**weights, **frozen}, normalized).numpy()
    folded = subnet.forward(calibration.fold(weights, frozen), normalized).numpy()
    logits = exported.infer(images)
    tolerance = _INFER_TOLERANCE * max(1.0, float(np.abs(unfolded).max()))
    batch = f"{len(images)} images in batches of {metadata.batch_sizes['infer']}"
    alone = np.concatenate([exported.infer(images[i : i + 1]) for i in range(min(8, len(images)))])
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, unfolded)
    loss, accuracy = exported.evaluate(images, labels)
    correct = round(accuracy * len(labels))
    right = int((unfolded.argmax(1) == labels).sum())
    mean = {"loss": np.asarray(tf.reduce_mean(losses))}
    evaluated = compare(
        "evaluate",
        mean,
        {"loss": np.float32(loss)},
        tolerance,
        f"{correct} correct, {right} in Keras",
    )
    # Rounding may swap two classes with nearly equal logits.
    close = np.sort(unfolded, 1)
    ties = int((close[:, -1] - close[:, -2] <= 2 * tolerance).sum())
    evaluated = evaluated._replace(holds=evaluated.holds and abs(correct - right) <= ties)
    logits_of = {"logits": unfolded}
    return [
        compare("infer, frozen", logits_of, {"logits": logits}, tolerance, batch),
        compare("infer, folded", {"logits": folded}, {"logits": logits}, tolerance, batch),
        compare(
            "infer, other batches",
            {"logits": logits[: len(alone)]},
            {"logits": alone},
            tolerance,
            "an image among others and among zeros",
        ),
        evaluated,
    ]


def _check_examples(images: np.ndarray, labels: np.ndarray, metadata: ModelMetadata) -> None:
    labels, classes = np.asarray(labels), metadata.space.classes
    if not len(images) or labels.shape != (len(images),):
        raise ValueError(
            f"Expected images and a label for each, at least one, received {len(images)} images "
            f"and labels of shape {labels.shape}. Give the supernet's test examples."
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"Expected labels as whole numbers from 0 to {classes - 1}, received {labels.dtype} "
            f"from {labels.min()} to {labels.max()}. Give the supernet's test examples."
        )


def _check_state(
    open_model: _OpenModel, trainer: DeviceTrainer, images: np.ndarray, labels: np.ndarray
) -> list[Check]:
    exported = open_model()
    for _ in range(2):
        exported.train(images, labels, LEARNING_RATE)
    state, logits = exported.state(), exported.infer(images[:4])
    other = open_model()
    other.restore(state)
    expected = {**state, "logits": logits}
    found = {**other.state(), "logits": other.infer(images[:4])}
    restored = compare("save, restore, infer", expected, found, 0.0, "in another interpreter")
    name = next(iter(state))
    partial = {key: value for key, value in state.items() if key != name}
    before = trainer.state()
    try:
        trainer.restore(partial)
        refused = "taken"
    except ValueError:
        refused = "refused"
    kept = all(before[key].tobytes() == value.tobytes() for key, value in trainer.state().items())
    return [
        restored,
        Check(
            "partial restore",
            refused == "refused" and kept,
            note=f"{refused} by DeviceTrainer; the runtime alone reads what is missing as zeros",
        ),
    ]


def _check_threads(open_model: _OpenModel, images: np.ndarray, labels: np.ndarray) -> list[Check]:
    checks = []
    results = {}
    for threads in (1, *_THREADS):
        exported = open_model(threads=threads)
        logits = exported.infer(images[:8])
        exported.train(images, labels, LEARNING_RATE)
        results[threads] = {"logits": logits, **exported.state()}
    tolerance = _INFER_TOLERANCE * max(1.0, float(np.abs(results[1]["logits"]).max()))
    for threads in _THREADS:
        found = results[threads]
        note = "logits and the variables after a step, beside one thread's"
        checks.append(compare(f"{threads} threads", results[1], found, tolerance, note))
    return checks
