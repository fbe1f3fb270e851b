"""Exports a subnet as an inference-only `.tflite`, with folded weights as constants.

The file has a single signature, `infer`, with uint8 images and float32 logits for every precision.
All normalizations except that of the images are folded into the preceding convolutions.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from fedsup_tf import calibration
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.validation import check_choice
from fedsup_tf.ops import ops
from fedsup_tf.supernet import Supernet
from tflite.export.conversion import trace
from tflite.export.export import Origin, write_model
from tflite.flatbuffer import flatbuffer
from tflite.format import signatures
from tflite.format.metadata import PRECISIONS, ModelMetadata

# In order: all in float32; float16 weights; 8-bit weights and float feature maps; 8-bit weights and
# feature maps.


def export_inference(
    path: str | os.PathLike,
    subnet: Supernet,
    mean_squares: Mapping[str, np.ndarray],
    preprocessing: Preprocessing,
    origin: Origin,
    precision: str,
    batch_size: int = 1,
    representative: np.ndarray | None = None,
) -> ModelMetadata:
    """Atomically writes an inference-only `.tflite`.

    Args:
      path: File to write.
      subnet: Subnet that `Supernet.extract` returned.
      mean_squares: Frozen mean squares of the subnet by name, from a calibration; empty for group
        normalization.
      preprocessing: Normalization of uint8 images, which becomes part of the model.
      origin: Supernet that the subnet was extracted from.
      precision: One of `PRECISIONS`.
      batch_size: Number of images per call.
      representative: A few hundred typical images, `(examples, height, width, channels)`, uint8,
        which determine the ranges of the feature maps; required for `"int8"` only.

    Returns:
      The metadata of the file; its `training` and `variables` are empty.

    Raises:
      ValueError: If the precision is unknown, the images for `"int8"` are missing, or the mean
        squares do not belong to the subnet.
    """
    _check(precision, representative)
    weights = subnet.values_by_name()
    expected = calibration.mean_square_shapes(subnet.weight_shapes)
    calibration.check_mean_squares(mean_squares, expected)
    folded = {
        name: value.numpy()
        for name, value in calibration.fold(
            {name: tf.constant(value) for name, value in weights.items()},
            {name: tf.constant(mean_squares[name]) for name in expected},
        ).items()
    }

    def infer(images):
        constants = {name: tf.constant(value) for name, value in folded.items()}
        with ops.quantizable_operators():
            return {signatures.LOGITS: subnet.forward(constants, preprocessing.normalize(images))}

    shape = [batch_size, *subnet.space.image_shape]
    model = _convert(
        trace(infer, tf.TensorSpec(shape, tf.uint8, signatures.IMAGES)), precision, representative
    )
    return write_model(
        path,
        model,
        subnet,
        preprocessing,
        origin,
        training={},
        batch_sizes={signatures.INFER: batch_size},
        variables={},
        precision=precision,
    )


def _check(precision: str, representative: np.ndarray | None) -> None:
    check_choice(precision, "precision", PRECISIONS)
    if precision == "int8" and (representative is None or not len(representative)):
        raise ValueError(
            "Precision int8: expected images such as the model will meet, received none. Give some "
            "hundred training images."
        )


def _convert(function: Any, precision: str, representative: np.ndarray | None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(tf.Module(), folder, signatures={signatures.INFER: function})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            size = function.inputs[0].shape[0]
            converter.representative_dataset = _batches(representative, size)
        model = converter.convert()
    model = flatbuffer.finish_model(model, {}, fill_zeros=False)
    flatbuffer.check_builtin_only(model)
    return model


def _batches(images: np.ndarray, size: int) -> Callable:
    """Returns a generator function of full batches, the last one padded with the first images."""
    count = -(-len(images) // size) * size
    images = np.resize(images, (count, *images.shape[1:]))

    def batches():
        for start in range(0, count, size):
            yield [images[start : start + size]]

    return batches
