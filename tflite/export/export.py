"""Exports a subnet as a `.tflite` that infers and trains with the stock TensorFlow Lite runtime.

TensorFlow's recipe for training on a device needs the Flex delegate, since its gradients have no
TensorFlow Lite counterpart; the delegate's library is 30 times the runtime's size. Here every
gradient consists of builtins (`ops.builtin_operators`), so that the stock runtime is enough.
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


@dataclasses.dataclass(frozen=True)
class Origin:
    """Identity of the supernet that a subnet was extracted from.

    Attributes:
      space: Search space of the supernet.
      supernet_hash: `fingerprint` of its weights.
      round: Number of rounds that it was trained for.
      class_names: Name of each label.
      classifier: Where the subnet's classifier comes from, of `metadata.CLASSIFIERS`.
    """

    space: SearchSpace
    supernet_hash: str
    round: int
    class_names: tuple[str, ...]
    classifier: str = CLASSIFIERS[0]


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """Numbers of images in a call of each signature; shorter batches are padded under weight 0.

    Attributes:
      train: Images in a call of `train` and `train_head`.
      evaluate: Images in a call of `evaluate`.
      infer: Images in a call of `infer`.
    """

    train: int = 16
    evaluate: int = 32
    infer: int = 1


def export_tflite(
    path: str | os.PathLike,
    subnet: Supernet,
    mean_squares: Mapping[str, np.ndarray],
    preprocessing: Preprocessing,
    training: LocalTraining,
    origin: Origin,
    batch_sizes: BatchSizes,
    with_train_head: bool = False,
) -> ModelMetadata:
    """Writes a `.tflite` with the signatures of `format.signatures`, atomically.

    Args:
      path: Where to write.
      subnet: The subnet, as `Supernet.extract` returns it.
      mean_squares: Its frozen mean squares, from a calibration; none for group normalization.
      preprocessing: Normalization of uint8 images; it becomes part of the model.
      training: Hyper-parameters of a step of `train`; epochs and sandwich do not apply.
      origin: The supernet that the subnet was extracted from.
      batch_sizes: Numbers of images that the signatures take.
      with_train_head: Whether to add the signature `train_head`, which needs less memory.

    Returns:
      The metadata of the file.

    Raises:
      ValueError: If the net has several subnets, the mean squares are not those of the subnet, or
        the model would need an operator that the stock runtime lacks.
    """
    if subnet.space.size != 1:
        raise ValueError(
            f"Expected a net of one subnet, received a supernet of {subnet.space.size:,} subnets. "
            "Give what Supernet.extract returns."
        )
    module = TrainingModule(subnet, mean_squares, preprocessing, training)
    functions = _signatures(module, batch_sizes)
    if not with_train_head:
        del functions[signatures.TRAIN_HEAD]
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
    )


def write_model(
    path: str | os.PathLike,
    model: bytes,
    subnet: Supernet,
    preprocessing: Preprocessing,
    origin: Origin,
    **use: Any,
) -> ModelMetadata:
    """Writes a converted subnet followed by its metadata, atomically.

    Args:
      path: Where to write.
      model: The converted model, as `flatbuffer.finish_model` returns it.
      subnet: The subnet.
      preprocessing: Normalization of the images.
      origin: The supernet that the subnet was extracted from.
      **use: Further fields of `ModelMetadata`: training, batch sizes, variables, precision.

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
    """Writes an exported `.tflite` with other weights, without converting it again.

    Args:
      path: Where to write.
      model_path: An exported file of the same architecture and supernet.
      weights: The subnet's weights by tensor name.
      mean_squares: Its frozen mean squares by name.
      supernet_hash: `fingerprint` of the supernet that the weights were taken from.
      round_number: Number of rounds that it was trained for.

    Returns:
      The metadata of the file.

    Raises:
      ValueError: If the file is damaged, or of another architecture.
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


def _signatures(module: TrainingModule, batch_sizes: BatchSizes) -> dict[str, Any]:
    """Traces the functions of all signatures."""

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
    return {
        signatures.TRAIN: trace(module.train, *batch(batch_sizes.train), rate),
        signatures.TRAIN_HEAD: trace(module.train_head, *batch(batch_sizes.train), rate),
        signatures.EVALUATE: trace(module.evaluate, *batch(batch_sizes.evaluate)),
        signatures.INFER: trace(module.infer, batch(batch_sizes.infer)[0]),
        signatures.SAVE: trace(module.save, tf.TensorSpec([], tf.float32, signatures.DUMMY)),
        signatures.RESTORE: restore.get_concrete_function(**state),
    }
