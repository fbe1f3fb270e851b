"""Exports a net as TensorFlow's guide describes, with TensorFlow's gradients and the Flex delegate.

It is the baseline for the export with only builtin operators.
"""

import os
import tempfile
from collections.abc import Mapping

import tensorflow as tf

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.supernet import Supernet
from tflite.certify import reference
from tflite.format import signatures


class StockModel(tf.Module):
    """A subnet with TensorFlow's own gradients and signatures for training and inference."""

    def __init__(self, subnet: Supernet, preprocessing: Preprocessing, training: LocalTraining):
        """Creates the model of a subnet that `Supernet.extract` returned."""
        super().__init__()
        # In a function, since the whole Keras model would otherwise be saved with this module.
        self._subnet = lambda: subnet
        self._preprocessing = preprocessing
        self._training = training
        weights = subnet.weights_by_name()
        self.variables_by_name = {name: tf.Variable(value) for name, value in weights.items()}
        self._momenta = {name: tf.Variable(tf.zeros_like(v)) for name, v in weights.items()}

    def infer(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes logits, normalized with the mean squares of the batch."""
        weights = {name: value.read_value() for name, value in self.variables_by_name.items()}
        computed = reference.compute(self._subnet(), weights, self._preprocessing.normalize(images))
        return {signatures.LOGITS: computed.logits}

    def train(
        self, images: tf.Tensor, labels: tf.Tensor, learning_rate: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Runs one step of SGD and returns the loss."""
        training = self._training
        weights = {name: value.read_value() for name, value in self.variables_by_name.items()}
        loss, gradients, _ = reference.loss_and_gradients(
            self._subnet(),
            weights,
            self._preprocessing.normalize(images),
            labels,
            training.label_smoothing,
        )
        momenta = {name: value.read_value() for name, value in self._momenta.items()}
        moved, kept = reference.sgd_step(weights, momenta, gradients, learning_rate, training)
        for name in weights:
            self._momenta[name].assign(kept[name])
            self.variables_by_name[name].assign(moved[name])
        return {signatures.LOSS: loss}


def export_stock(
    path: str | os.PathLike,
    subnet: Supernet,
    preprocessing: Preprocessing,
    training: LocalTraining,
    batch_sizes: Mapping[str, int],
) -> None:
    """Writes a `.tflite` that needs the Flex delegate.

    Args:
      path: File to write.
      subnet: Subnet that `Supernet.extract` returned.
      preprocessing: Normalization of the images.
      training: Hyper-parameters of a step.
      batch_sizes: Number of images per call, by signature.
    """
    model = StockModel(subnet, preprocessing, training)
    infer_images, train_images = (
        tf.TensorSpec([size, *subnet.space.image_shape], tf.uint8, signatures.IMAGES)
        for size in (batch_sizes["infer"], batch_sizes["train"])
    )
    labels = tf.TensorSpec([batch_sizes["train"]], tf.int32, signatures.LABELS)
    rate = tf.TensorSpec([], tf.float32, signatures.LEARNING_RATE)
    functions = {
        signatures.TRAIN: tf.function(
            model.train, input_signature=[train_images, labels, rate], autograph=False
        ),
        signatures.INFER: tf.function(model.infer, input_signature=[infer_images], autograph=False),
    }
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(model, folder, signatures=functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        operators = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            operators.TFLITE_BUILTINS,
            operators.SELECT_TF_OPS,
        ]
        converter.experimental_enable_resource_variables = True
        data = converter.convert()
    with open(path, "wb") as file:
        file.write(data)
