"""The same net exported as TensorFlow's guide tells: with its gradients, by the Flex delegate.

Nothing here is of use to a phone; it is what an export without the Flex delegate is compared with.
"""

import os
import tempfile
from collections.abc import Mapping

import tensorflow as tf

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.supernet import Supernet, has_weight_decay
from tflite.certify import reference
from tflite.format import signatures


class StockModel(tf.Module):
    """A subnet with TensorFlow's own gradients, a signature for training and one for inference."""

    def __init__(self, subnet: Supernet, preprocessing: Preprocessing, training: LocalTraining):
        """Makes the model from a subnet, as `Supernet.extract` gives it."""
        super().__init__()
        # In a function, or the whole Keras model would be saved with this one.
        self._subnet = lambda: subnet
        self._preprocessing = preprocessing
        self._training = training
        weights = subnet.weights_by_name()
        self.variables_by_name = {name: tf.Variable(value) for name, value in weights.items()}
        self._momenta = {name: tf.Variable(tf.zeros_like(v)) for name, v in weights.items()}

    def infer(self, images):
        """Logits, with the batch's own mean squares."""
        weights = {name: value.read_value() for name, value in self.variables_by_name.items()}
        computed = reference.compute(self._subnet(), weights, self._preprocessing.normalize(images))
        return {signatures.LOGITS: computed.logits}

    def train(self, images, labels, learning_rate):
        """One step of SGD."""
        training = self._training
        weights = {name: value.read_value() for name, value in self.variables_by_name.items()}
        loss, gradients, _ = reference.loss_and_gradients(
            self._subnet(),
            weights,
            self._preprocessing.normalize(images),
            labels,
            training.label_smoothing,
        )
        for name, weight in weights.items():
            gradient = tf.clip_by_value(gradients[name], -training.clip_value, training.clip_value)
            if has_weight_decay(name):
                gradient += training.weight_decay * weight
            momentum = training.momentum * self._momenta[name].read_value() + gradient
            self._momenta[name].assign(momentum)
            self.variables_by_name[name].assign(weight - learning_rate * momentum)
        return {signatures.LOSS: loss}


def export_stock(
    path: str | os.PathLike,
    subnet: Supernet,
    preprocessing: Preprocessing,
    training: LocalTraining,
    batch_sizes: Mapping[str, int],
) -> None:
    """Writes a `.tflite` that needs the Flex delegate; `batch_sizes` by signature."""
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
