"""Normalization layers of an elastic net: FedSup's parametric one and group normalization."""

from typing import Any

import tensorflow as tf

from fedsup_tf.layers import ElasticLayer, Size, Weights, channels_of
from fedsup_tf.ops import normalization, ops
from fedsup_tf.slicing import Slice, take
from fedsup_tf.space import GROUP_SIZE


class _ElasticNormalization(ElasticLayer):
    """Base class of normalizations with vectors sliced by channel and an optional ReLU6."""

    def __init__(
        self,
        epsilon: float = 1e-5,
        activate: bool = False,
        zero_scale: bool = False,
        **kwargs: Any,
    ):
        """Makes the layer.

        Args:
          epsilon: Constant added to the mean square, inside the square root.
          activate: Whether ReLU6 follows.
          zero_scale: Whether gamma starts at 0, for the end of a residual branch, instead of 1.
          **kwargs: Arguments of `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.activate = activate
        self.zero_scale = zero_scale

    def build(self, input_shape: Any) -> None:
        """Creates the vectors, each `(channels,)`."""
        for name in self.weight_names:
            ones = name == "gamma" and not self.zero_scale
            vector = self.add_weight(
                name, (int(input_shape[-1]),), initializer="ones" if ones else "zeros"
            )
            setattr(self, name, vector)
        super().build(input_shape)

    def slices(self, channels: Size) -> dict[str, Slice]:
        """Returns the slice of the leading channels of every vector."""
        return {name: Slice((0,), (channels,)) for name in self.weight_names}

    def forward(self, weights: Weights, inputs: tf.Tensor) -> tf.Tensor:
        """Normalizes `inputs` with the given vectors."""
        return self.normalize(weights, inputs)[0]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalizes `inputs` with slices of the layer's own vectors."""
        return self.forward(take(self.own_weights(), self.slices(channels_of(inputs))), inputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "epsilon": self.epsilon,
            "activate": self.activate,
            "zero_scale": self.zero_scale,
        }


class ParametricNormalization(_ElasticNormalization):
    r"""FedSup's PN (arXiv 2206.01366, section 3), which keeps no running statistics.

    $$y = \gamma (x - \alpha) / \sqrt{E[(x - \alpha)^2] + \epsilon} + \beta$$

    The mean is taken over batch, height and width, so the result depends on the batch.

    Call arguments:
      inputs: `(batch, height, width, channels)`; `channels` may be smaller than in `build`.

    Returns:
      The normalized inputs, of the shape of `inputs`.
    """

    weight_names = ("alpha", "beta", "gamma")

    def normalize(
        self, weights: Weights, inputs: tf.Tensor, sample_weights: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Normalizes `inputs` with the given vectors and also returns their mean square.

        Args:
          weights: `alpha`, `beta` and `gamma`, each `(channels,)`. An additional `mean_square`,
            `(channels,)`, replaces that of the batch, so that the result does not depend on the
            batch. A `bias`, `(channels,)`, instead of all others means that the normalization has
            been folded into the kernel of the preceding convolution (`calibration.fold`).
          inputs: `(batch, height, width, channels)`.
          sample_weights: Weight of each image in the mean square, `(batch,)`; equal by default.

        Returns:
          The result, of the shape of `inputs`, and `{"mean_square": (channels,)}`, or an empty
          dictionary if the normalization is folded.
        """
        if "bias" in weights:
            result = inputs + weights["bias"]
            return tf.nn.relu6(result) if self.activate else result, {}
        vectors = {name: weights[name] for name in self.weight_names}
        if "mean_square" in weights:
            scale = vectors["gamma"] * tf.math.rsqrt(weights["mean_square"] + self.epsilon)
            result = inputs * scale + (vectors["beta"] - vectors["alpha"] * scale)
            squares = tf.math.squared_difference(inputs, vectors["alpha"])
            statistics = {"mean_square": tf.reduce_mean(squares, [0, 1, 2])}
            return ops.relu6(result) if self.activate else result, statistics
        result, mean_square = normalization.parametric_normalization(
            inputs,
            epsilon=self.epsilon,
            activate=self.activate,
            sample_weights=sample_weights,
            **vectors,
        )
        return result, {"mean_square": mean_square}


class GroupNormalization(_ElasticNormalization):
    """Group normalization (Wu & He, arXiv 1803.08494) over groups of 8 channels of one image.

    With a fixed group size, rather than a fixed number of groups, a subnet has the same groups as
    the supernet. The result does not depend on the batch, so it is the batch-independent baseline
    for PN.

    Call arguments:
      inputs: `(batch, height, width, channels)`, with `channels` a multiple of 8.

    Returns:
      The normalized inputs, of the shape of `inputs`.
    """

    weight_names = ("beta", "gamma")

    def normalize(
        self, weights: Weights, inputs: tf.Tensor, sample_weights: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Normalizes each image of `inputs` separately; returns the result and no statistics."""
        del sample_weights
        shape, channels = tf.shape(inputs), channels_of(inputs)
        pixels = inputs.shape[1] * inputs.shape[2]
        groups = channels // GROUP_SIZE

        def mean(values):
            # Averages one axis at a time: a phone's runtime sums value by value, and over a large,
            # nearly constant map, a single sum's rounding error is as large as the variation.
            of_channels = tf.reduce_mean(tf.reduce_mean(values, 2), 1)
            of_groups = tf.reshape(of_channels, [-1, 1, groups, GROUP_SIZE])
            return tf.reduce_mean(of_groups, 3, keepdims=True)

        centred = tf.reshape(inputs, [-1, pixels, groups, GROUP_SIZE]) - mean(inputs)
        variance = mean(tf.reshape(centred * centred, shape))
        normalized = tf.reshape(centred * tf.math.rsqrt(variance + self.epsilon), shape)
        result = normalized * weights["gamma"] + weights["beta"]
        return ops.relu6(result) if self.activate else result, {}


NORMALIZATIONS = {"parametric": ParametricNormalization, "group": GroupNormalization}
