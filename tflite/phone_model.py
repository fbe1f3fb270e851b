"""What an exported subnet computes on a phone, as TensorFlow functions before conversion."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from fedsup_tf import calibration, ops
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.preprocessing import Preprocessing
from fedsup_tf.supernet import Supernet, has_weight_decay
from tflite import signatures

# Share that a frozen mean square keeps of itself in a step of training; the rest is the batch's.
MEAN_SQUARE_DECAY = 0.9
# Trained by `train_head`: the classifier and the normalizations' vectors.
_HEAD = ("head/kernel", "head/bias", "/alpha", "/beta", "/gamma")


class PhoneModel(tf.Module):
    """A subnet with its momentum, its frozen mean squares and a function for each signature.

    A step of training is one of `local_update` on the same batch: the normalizations use the
    batch's mean squares. Inference uses the frozen ones, folded into the kernels; training lets
    them follow the weights, at no cost, since it computes the batch's anyway.
    """

    def __init__(
        self,
        subnet: Supernet,
        mean_squares: Mapping[str, np.ndarray],
        preprocessing: Preprocessing,
        training: LocalTraining,
    ):
        """Makes the model; the arguments are those of `export.export_tflite`."""
        super().__init__()
        weights = {name: value.numpy() for name, value in subnet.weights_by_name().items()}
        expected = calibration.mean_square_shapes({n: value.shape for n, value in weights.items()})
        calibration.check_mean_squares(mean_squares, expected)
        self.image_shape = subnet.space.image_shape
        self._classes = subnet.space.classes
        self._compute = subnet.forward_with_statistics
        self._preprocessing = preprocessing
        self._training = training
        self._weights = {name: tf.Variable(value, name=name) for name, value in weights.items()}
        self._mean_squares = {
            name: tf.Variable(mean_squares[name], dtype=tf.float32, name=name) for name in expected
        }
        self._momenta = {
            name: tf.Variable(tf.zeros_like(value), name=f"{name}/momentum")
            for name, value in weights.items()
        }

    @property
    def state(self) -> dict[str, tf.Variable]:
        """What `save` and `restore` carry, by name: the weights and the frozen mean squares."""
        return {**self._weights, **self._mean_squares}

    # --------------------------------------------------------------- signatures

    def train(self, images, labels, sample_weights, learning_rate):
        """One step of SGD; see `signatures`."""
        return self._step(images, labels, sample_weights, learning_rate, list(self._weights))

    def train_head(self, images, labels, sample_weights, learning_rate):
        """One step of SGD on the classifier and the normalizations alone."""
        names = [name for name in self._weights if name.endswith(_HEAD)]
        return self._step(images, labels, sample_weights, learning_rate, names)

    def infer(self, images):
        """Logits of images."""
        return {signatures.LOGITS: self._infer(images)}

    def evaluate(self, images, labels, sample_weights):
        """Mean loss and number of right answers."""
        loss, correct, _ = self._score(self._infer(images), labels, sample_weights)
        return {signatures.LOSS: loss, signatures.CORRECT: correct}

    def save(self, dummy):
        """Every variable of `state`."""
        del dummy
        return {python_name(name): value.read_value() for name, value in self.state.items()}

    def restore(self, **values):
        """Sets every variable of `state` and forgets the momentum."""
        for name, variable in self.state.items():
            variable.assign(values[python_name(name)])
        for momentum in self._momenta.values():
            momentum.assign(tf.zeros(momentum.shape))
        return {signatures.OK: tf.constant(1)}

    # ------------------------------------------------------------------ compute

    def _infer(self, images):
        weights = {name: value.read_value() for name, value in self._weights.items()}
        frozen = {name: value.read_value() for name, value in self._mean_squares.items()}
        images = self._preprocessing.normalize(images)
        return self._compute(calibration.fold(weights, frozen), images)[0]

    def _step(self, images, labels, sample_weights, learning_rate, trained):
        weights = {name: value.read_value() for name, value in self._weights.items()}

        # A branch of its own, without variables, is what the runtime's delegate can take; and a
        # batch of no examples, all of weight 0, shall change nothing.
        def compute():
            return self._gradients(weights, images, labels, sample_weights, trained)

        def nothing():
            zeros = {name: tf.zeros(weights[name].shape) for name in trained}
            kept = {name: value.read_value() for name, value in self._mean_squares.items()}
            return zeros, kept, 0.0, 0.0

        present = tf.reduce_sum(sample_weights) > 0
        gradients, mean_squares, loss, correct = tf.cond(present, compute, nothing)
        self._apply(weights, gradients, learning_rate, tf.cast(present, tf.float32))
        for name, variable in self._mean_squares.items():
            old = variable.read_value()
            variable.assign(old + (1 - MEAN_SQUARE_DECAY) * (mean_squares[name] - old))
        return {signatures.LOSS: loss, signatures.CORRECT: correct}

    def _gradients(self, weights, images, labels, sample_weights, trained):
        moved = {name: weights[name] for name in trained}
        with ops.builtin_operators():
            images = self._preprocessing.normalize(images)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(moved)
                logits, mean_squares = self._compute(
                    {**weights, **moved}, images, sample_weights=sample_weights
                )
            smoothing = self._training.label_smoothing
            loss, correct, slope = self._score(logits, labels, sample_weights, smoothing)
            gradients = tape.gradient(logits, moved, output_gradients=slope)
        return gradients, mean_squares, loss, correct

    def _score(self, logits, labels, sample_weights, label_smoothing=0.0):
        """Weighted mean cross-entropy, weighted right answers, and the loss' gradient."""
        targets = tf.one_hot(labels, self._classes) * (1 - label_smoothing)
        targets += label_smoothing / self._classes
        shares = sample_weights / tf.maximum(tf.reduce_sum(sample_weights), 1e-30)
        losses = -tf.reduce_sum(targets * tf.nn.log_softmax(logits), 1)
        guesses = tf.argmax(logits, 1, tf.int32)
        right = tf.cast(tf.equal(guesses, labels), tf.float32)
        slope = (tf.nn.softmax(logits) - targets) * shares[:, tf.newaxis]
        return tf.reduce_sum(losses * shares), tf.reduce_sum(right * sample_weights), slope

    def _apply(self, weights, gradients, learning_rate, present):
        """SGD as in `local_update`: clip, decay, momentum."""
        training = self._training
        keep = 1 - present * (1 - training.momentum)
        for name, gradient in gradients.items():
            weight = weights[name]
            if training.clip_value != float("inf"):
                gradient = _clip(gradient, training.clip_value)
            if training.weight_decay and has_weight_decay(name):
                gradient += (present * training.weight_decay) * weight
            momentum = keep * self._momenta[name].read_value() + gradient
            self._momenta[name].assign(momentum)
            self._weights[name].assign(weight - (present * learning_rate) * momentum)


def python_name(name: str) -> str:
    """The name as an argument of a function: what a signature is traced with."""
    return name.replace("/", "__")


def _clip(values, limit):
    """To at most `limit` in size; at 1, the common case, the runtime has an operator for it."""
    scaled = values if limit == 1.0 else values / limit
    clipped = tf.maximum(tf.minimum(scaled, 1.0), -1.0)
    return clipped if limit == 1.0 else clipped * limit
