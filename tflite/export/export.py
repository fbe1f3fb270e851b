"""A subnet as a `.tflite` that infers and trains with the stock TensorFlow Lite runtime.

The stock recipe for training on a device needs the Flex delegate, since TensorFlow's gradients have
no TensorFlow Lite counterpart; its library is 30 times the runtime's size. Here every gradient is
made of builtins (`ops.builtin_operators`), so that the runtime that is on the phone is enough.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.checkpoint import write_bytes
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.search.costs import architecture_cost
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet, check_weights
from tflite.export.conversion import convert, trace
from tflite.export.packing import pack, packing
from tflite.export.training_module import TrainingModule
from tflite.flatbuffer import flatbuffer
from tflite.format import signatures
from tflite.format.metadata import ModelMetadata, append_metadata, split_model


@dataclasses.dataclass(frozen=True)
class Origin:
    """The supernet that a subnet was cut from.

    Attributes:
      space: Its search space.
      supernet_hash: `checkpoint.fingerprint` of its weights.
      round: Rounds it was trained.
      class_names: A name for each label.
    """

    space: SearchSpace
    supernet_hash: str
    round: int
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """Images that a call of a signature takes; a shorter batch is filled up under weight 0."""

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
    """Writes a `.tflite` with the signatures of `signatures`, whole or not at all.

    Args:
      path: Where to write.
      subnet: The subnet, as `Supernet.extract` gives it.
      mean_squares: Its frozen mean squares, from a calibration; none for group normalization.
      preprocessing: Normalization of uint8 images; it becomes part of the model.
      training: What a step of `train` does; epochs are the caller's, a sandwich is not trained.
      origin: The supernet it was cut from.
      batch_sizes: Images that the signatures take.
      with_train_head: Whether there is a `train_head` too, which needs less memory.

    Returns:
      The metadata that the file holds.

    Raises:
      ValueError: If the net holds several subnets, the mean squares are not the subnet's, or the
        model would need an operator that the stock runtime has not.
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
        training=dataclasses.asdict(training),
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
    """Writes a converted subnet with its metadata behind it, whole or not at all.

    Args:
      path: Where to write.
      model: What the converter gave, finished.
      subnet: The subnet.
      preprocessing: What the model does to images.
      origin: The supernet it was cut from.
      **use: The fields of `ModelMetadata` that say how the model is used.

    Returns:
      The metadata.
    """
    architecture = subnet.architecture
    cost = architecture_cost(subnet.space, architecture)
    metadata = ModelMetadata(
        architecture=architecture,
        space=origin.space,
        supernet_hash=origin.supernet_hash,
        round=origin.round,
        class_names=tuple(origin.class_names),
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
    """Writes an exported `.tflite` anew with other weights; no conversion, hence in no time.

    Args:
      path: Where to write.
      model_path: An exported file of the same architecture and supernet.
      weights: The subnet's weights by tensor name.
      mean_squares: Its frozen mean squares.
      supernet_hash: Of the supernet that the weights were cut from.
      round_number: Rounds it was trained.

    Raises:
      ValueError: If the file is damaged, or of another architecture.
    """
    model, metadata = split_model(model_path)
    values = {**weights, **mean_squares}
    check_weights(values, metadata.variables)
    packed = {
        name: pack(values, shapes).numpy() for name, shapes in packing(metadata.variables).items()
    }
    model = flatbuffer.replace_variables(model, packed)
    metadata = dataclasses.replace(metadata, supernet_hash=supernet_hash, round=round_number)
    write_bytes(path, append_metadata(model, metadata))
    return metadata


def _signatures(module: TrainingModule, batch_sizes: BatchSizes) -> dict:
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
