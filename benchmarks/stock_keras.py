"""A static subnet made of Keras layers, as a user of Keras and TFF would write it."""

import tensorflow as tf

from fedsup_tf.architecture import Architecture
from fedsup_tf.space import SearchSpace

keras = tf.keras


class ParametricNormalization(keras.layers.Layer):
    """FedSup's parametric normalization, with TensorFlow's own gradients."""

    def build(self, input_shape):
        """Adds alpha, beta and gamma."""
        shape = input_shape[-1:]
        self.alpha = self.add_weight("alpha", shape, initializer="zeros")
        self.beta = self.add_weight("beta", shape, initializer="zeros")
        self.gamma = self.add_weight("gamma", shape, initializer="ones")

    def call(self, inputs):
        """Normalizes `(batch, height, width, channels)`."""
        centred = inputs - self.alpha
        mean_square = tf.reduce_mean(tf.square(centred), [0, 1, 2])
        return self.gamma * centred * tf.math.rsqrt(mean_square + 1e-5) + self.beta


def static_model(space: SearchSpace, architecture: Architecture) -> keras.Model:
    """Returns a model of the subnet, from images `(batch, height, width, channels)` to logits."""
    inputs = keras.Input(space.image_shape)
    hidden = keras.layers.Conv2D(
        space.stem_width, 3, space.stem_stride, padding="same", use_bias=False
    )(inputs)
    hidden = keras.layers.ReLU(6.0)(ParametricNormalization()(hidden))
    choices = zip(
        space.stages, architecture.widths, architecture.depths, architecture.kernels, strict=True
    )
    for stage, width, depth, kernel in choices:
        for number in range(depth):
            stride = stage.stride if number == 0 else 1
            branch = keras.layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False)(hidden)
            branch = keras.layers.ReLU(6.0)(ParametricNormalization()(branch))
            branch = keras.layers.Conv2D(width, 1, use_bias=False)(branch)
            branch = ParametricNormalization()(branch)
            if stride == 2:
                hidden = keras.layers.AveragePooling2D(padding="same")(hidden)
            if hidden.shape[-1] != width:
                hidden = keras.layers.Conv2D(width, 1, use_bias=False)(hidden)
            hidden = keras.layers.Add()([branch, hidden])
    pooled = keras.layers.GlobalAveragePooling2D()(hidden)
    return keras.Model(inputs, keras.layers.Dense(space.classes)(pooled))
