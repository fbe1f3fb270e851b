"""Exports a subnet as a `.tflite` that infers and trains with the stock TensorFlow Lite runtime.

TensorFlow's recipe for on-device training needs the Flex delegate, since its gradients have no
TensorFlow Lite counterpart; the delegate's library is 30 times the size of the runtime. Here all
gradients consist of builtin operators (`ops.builtin_operators`), so the stock runtime is enough.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.atomic_write import write_bytes
from fedsup_tf.files.validation import check_number, check_whole_number
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.search.costs import architecture_cost
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet, check_weights
from tflite.export.conversion import convert, trace
from tflite.export.packing import pack, packing
from tflite.export.training_module import TrainingModule
from tflite.flatbuffer import flatbuffer
from tflite.format import signatures
from tflite.format.metadata import CLASSIFIERS, ModelMetadata, append_metadata, split_model

_MAX_BATCH = 2**20


@dataclasses.dataclass(frozen=True)
class Origin:
    """Identity of the supernet that a subnet was extracted from.

    Attributes:
      space: Search space of the supernet.
      supernet_hash: `fingerprint` of its weights.
      round: Number of rounds that it was trained for.
      class_names: Name of each label.
      classifier: Origin of the subnet's classifier, one of `metadata.CLASSIFIERS`.
    """

    space: SearchSpace
    supernet_hash: str
    round: int
    class_names: tuple[str, ...]
    classifier: str = CLASSIFIERS[0]


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """Number of images per call of each signature; smaller batches are padded.

    Attributes:
      train: Number of images per call of `train` and `train_head`.
      evaluate: Number of images per call of `evaluate`.
      infer: Number of images per call of `infer`.
    """

    train: int = 16
    evaluate: int = 32
    infer: int = 1

    def __post_init__(self):
        for field in dataclasses.fields(self):
            size = check_whole_number(
                getattr(self, field.name), field.name, 1, _MAX_BATCH, what="Batch sizes"
            )
            object.__setattr__(self, field.name, size)


def export_tflite(
    path: str | os.PathLike,
    subnet: Supernet,
    mean_squares: Mapping[str, np.ndarray],
    preprocessing: Preprocessing,
    training: LocalTraining,
    origin: Origin,
    batch_sizes: BatchSizes,
    with_train_head: bool = False,
    feature_rates: tuple[float, float] | None = None,
) -> ModelMetadata:
    """Atomically writes a `.tflite` with the signatures of `format.signatures`.

    Args:
      path: File to write.
      subnet: Subnet that `Supernet.extract` returned.
      mean_squares: Frozen mean squares of the subnet by name, from a calibration; empty for group
        normalization.
      preprocessing: Normalization of uint8 images, which becomes part of the model.
      training: Hyper-parameters of a step of `train`; those that `LocalTraining.on_device` resets
        do not apply.
      origin: Supernet that the subnet was extracted from.
      batch_sizes: Number of images per call of each signature.
      with_train_head: Whether to add the signature `train_head`, which needs less memory.
      feature_rates: Factors on the gradients of the layers before the classifier in a fine-tuning
        step, above 0, at most 1 and ascending: at a loss of 0, and at a loss of at least
        ln(classes), that of equally likely guesses. In between, the logarithm of the factor rises
        with the square of the loss. A fine-tuning step normalizes with the frozen mean squares, as
        inference does, and keeps them; it suits a refitted classifier. None for the step of a
        federated round.

    Returns:
      The metadata of the file.

    Raises:
      ValueError: If `subnet` is a supernet of several subnets, the mean squares do not belong to
        the subnet, `feature_rates` are not two such numbers, or the model would need an operator
        that the stock runtime lacks.
    """
    if subnet.space.size != 1:
        raise ValueError(
            f"Expected a net of one subnet, received a supernet of {subnet.space.size:,} subnets. "
            "Give what Supernet.extract returns."
        )
    if feature_rates is not None:
        if np.shape(feature_rates) != (2,):
            raise ValueError(
                f"Export: expected two feature rates, received {feature_rates!r}. Give one for a "
                "loss of 0 and one for the loss of equally likely guesses."
            )
        low, high = feature_rates
        bounds = dict(maximum=1, what="Export", advice="Give 1 and 1.")
        low = float(check_number(low, "the first feature rate", above=0, **bounds))
        high = float(check_number(high, "the second feature rate", minimum=low, **bounds))
        feature_rates = (low, high)
    training = training.on_device()
    module = TrainingModule(subnet, mean_squares, preprocessing, training, feature_rates)
    functions = _signatures(module, batch_sizes, with_train_head)
    names = {python_name: name for name, python_name in module.python_names.items()}
    names |= {f"{python_name}/momentum": f"{name}/momentum" for python_name, name in names.items()}
    model = convert(module, functions, names)
    return write_model(
        path,
        model,
        subnet,
        preprocessing,
        origin,
        training=training.fields(),
        batch_sizes=dataclasses.asdict(batch_sizes),
        variables=module.shapes,
        feature_rates=feature_rates,
    )


def write_model(
    path: str | os.PathLike,
    model: bytes,
    subnet: Supernet,
    preprocessing: Preprocessing,
    origin: Origin,
    **use: Any,
) -> ModelMetadata:
    """Atomically writes a converted subnet followed by its metadata.

    Args:
      path: File to write.
      model: Converted model that `flatbuffer.finish_model` returned.
      subnet: Subnet that was converted.
      preprocessing: Normalization of the images.
      origin: Supernet that the subnet was extracted from.
      **use: Remaining fields of `ModelMetadata`: training, batch sizes, variables, precision,
        feature rates.

    Returns:
      The metadata of the file.
    """
    architecture = subnet.architecture
    cost = architecture_cost(subnet.space, architecture)
    metadata = ModelMetadata(
        architecture=architecture,
        space=origin.space,
        supernet_hash=origin.supernet_hash,
        round=origin.round,
        class_names=tuple(origin.class_names),
        classifier=origin.classifier,
        preprocessing=json.loads(preprocessing.to_json()),
        parameters=cost.parameters,
        macs=cost.macs,
        **use,
    )
    write_bytes(path, append_metadata(model, metadata))
    return metadata


def refresh_tflite(
    path: str | os.PathLike,
    model_path: str | os.PathLike,
    weights: Mapping[str, np.ndarray],
    mean_squares: Mapping[str, np.ndarray],
    supernet_hash: str,
    round_number: int,
) -> ModelMetadata:
    """Writes an exported `.tflite` with new weights and the same step, without a new conversion.

    Args:
      path: File to write.
      model_path: Exported file of the same architecture and search space.
      weights: Weights of the subnet by tensor name.
      mean_squares: Frozen mean squares of the subnet by name.
      supernet_hash: `fingerprint` of the supernet that the weights were taken from.
      round_number: Number of rounds that this supernet was trained for.

    Returns:
      The metadata of the file.

    Raises:
      ValueError: If the exported file is damaged or has another architecture.
    """
    model, metadata = split_model(model_path)
    values = {**weights, **mean_squares}
    check_weights(values, metadata.variables)
    variables = packing(metadata.variables, metadata.training.get("frozen", ()))
    packed = {name: pack(values, shapes).numpy() for name, shapes in variables.items()}
    model = flatbuffer.replace_variables(model, packed)
    metadata = dataclasses.replace(
        metadata,
        supernet_hash=supernet_hash,
        round=round_number,
        classifier=CLASSIFIERS[0],
    )
    write_bytes(path, append_metadata(model, metadata))
    return metadata


def _signatures(
    module: TrainingModule, batch_sizes: BatchSizes, with_train_head: bool
) -> dict[str, Any]:
    """Traces the functions of the signatures."""

    def batch(size):
        return (
            tf.TensorSpec([size, *module.image_shape], tf.uint8, signatures.IMAGES),
            tf.TensorSpec([size], tf.int32, signatures.LABELS),
            tf.TensorSpec([size], tf.float32, signatures.SAMPLE_WEIGHTS),
        )

    rate = tf.TensorSpec([], tf.float32, signatures.LEARNING_RATE)
    state = {
        module.python_names[name]: tf.TensorSpec(shape, tf.float32, module.python_names[name])
        for name, shape in module.shapes.items()
    }
    restore = tf.function(module.restore, autograph=False)
    steps = {signatures.TRAIN: module.train}
    if with_train_head:
        steps[signatures.TRAIN_HEAD] = module.train_head
    return {
        **{name: trace(step, *batch(batch_sizes.train), rate) for name, step in steps.items()},
        signatures.EVALUATE: trace(module.evaluate, *batch(batch_sizes.evaluate)),
        signatures.INFER: trace(module.infer, batch(batch_sizes.infer)[0]),
        signatures.SAVE: trace(module.save, tf.TensorSpec([], tf.float32, signatures.DUMMY)),
        signatures.RESTORE: restore.get_concrete_function(**state),
    }
