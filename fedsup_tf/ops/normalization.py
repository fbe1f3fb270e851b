"""FedSup's parametric normalization, with few passes over memory or as TensorFlow Lite builtins."""

from collections.abc import Callable

import tensorflow as tf

from fedsup_tf.ops import ops
from fedsup_tf.ops.builtin import shape_of

_raw = tf.raw_ops
# Function from images, alpha, beta and gamma to the result and the mean square.
_Normalize = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def parametric_normalization(
    images: tf.Tensor,
    alpha: tf.Tensor,
    beta: tf.Tensor,
    gamma: tf.Tensor,
    epsilon: float,
    activate: bool = False,
    sample_weights: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    r"""Computes FedSup's parametric normalization (arXiv 2206.01366, section 3).

    $$y = \gamma (x - \alpha) / r + \beta, \quad r = \sqrt{E[(x - \alpha)^2] + \epsilon}$$

    The mean is taken over batch, height and width. The epsilon inside the square root keeps the
    value and the gradient finite on a channel whose values all equal alpha.

    Args:
      images: `(batch, height, width, channels)`.
      alpha: Shift before the scaling, `(channels,)`.
      beta: Shift after the scaling, `(channels,)`.
      gamma: Scale, `(channels,)`.
      epsilon: Constant added to the mean square.
      activate: Whether ReLU6 follows.
      sample_weights: Non-negative weight of each image in the mean, `(batch,)`; equal by default.
        Images with weight 0 do not affect the results of the others.

    Returns:
      The result, of the shape of `images`, and the mean square, `(channels,)`; no gradient flows
      through the returned mean square.
    """
    if not ops.is_builtin() and sample_weights is None:
        normalize = _fused_normalization(epsilon, activate)
    else:
        normalize = _normalization_of_means(epsilon, activate, sample_weights)
    result, mean_square = normalize(images, alpha, beta, gamma)
    return ops.with_static_shape(result, images.shape), mean_square


def _fused_normalization(epsilon: float, activate: bool) -> _Normalize:
    """Returns `normalize(images, alpha, beta, gamma)` with few passes over memory.

    It uses batch normalization with a given mean and variance, for which TensorFlow needs one pass
    in each direction: alpha is the mean and the mean square is the variance. The gradient through
    the mean square is added explicitly.
    """
    fused = {"epsilon": epsilon, "is_training": False}

    @tf.custom_gradient
    def normalize(images, alpha, beta, gamma):
        batch, height, width, _ = shape_of(images)
        share = 1.0 / tf.cast(batch * (height * width), tf.float32)
        # Mean and variance of the images themselves, in one pass and without a difference of large
        # squares.
        moments = _raw.FusedBatchNormV3(
            x=images,
            scale=gamma,
            offset=beta,
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=epsilon,
            is_training=True,
        )
        shift = moments.batch_mean - alpha
        # TensorFlow's variance divides by the count minus one if that is above 0.
        mean_square = moments.batch_variance * (1.0 - share) + shift * shift
        outputs = _raw.FusedBatchNormV3(
            x=images, scale=gamma, offset=beta, mean=alpha, variance=mean_square, **fused
        )
        result = tf.nn.relu6(outputs.y) if activate else outputs.y

        def gradient(upstream, mean_square_upstream):
            del mean_square_upstream
            if activate:
                upstream = ops.relu6_gradient(upstream, result)
            through = _raw.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=images,
                scale=gamma,
                reserve_space_1=alpha,
                reserve_space_2=mean_square,
                reserve_space_3=tf.zeros([0]),
                **fused,
            )
            gamma_gradient, beta_gradient = through.scale_backprop, through.offset_backprop
            inverse = tf.math.rsqrt(mean_square + epsilon)
            # The gradient through the mean square is proportional to x - alpha.
            slope = gamma_gradient * gamma * inverse
            around = _raw.FusedBatchNormV3(
                x=images,
                scale=slope * share,
                offset=tf.zeros_like(alpha),
                mean=alpha,
                variance=mean_square,
                **fused,
            )
            alpha_gradient = inverse * (slope * shift - gamma * beta_gradient)
            return through.x_backprop - around.y, alpha_gradient, beta_gradient, gamma_gradient

        return (result, mean_square), gradient

    return normalize


def _normalization_of_means(
    epsilon: float, activate: bool, sample_weights: tf.Tensor | None
) -> _Normalize:
    """Returns `normalize(images, alpha, beta, gamma)` made of builtins, also for weighted images.

    Reductions start with a mean over each image's pixels, since the runtime's MEAN is faster than
    its SUM.
    """

    @tf.custom_gradient
    def normalize(images, alpha, beta, gamma):
        batch, height, width, _ = shape_of(images)
        pixels = float(height * width)
        if sample_weights is None:
            shares = tf.fill([batch], 1.0 / tf.cast(batch, tf.float32))
        else:
            shares = sample_weights / tf.maximum(tf.reduce_sum(sample_weights), 1e-30)

        def mean(values):
            per_image = tf.reduce_mean(values, [1, 2])
            return tf.reshape(ops.matmul(tf.reshape(shares, [1, -1]), per_image), [-1])

        def total(values):
            return tf.reduce_sum(tf.reduce_mean(values, [1, 2]), 0) * pixels

        difference = images - alpha
        mean_square = mean(difference * difference)
        inverse = tf.math.rsqrt(mean_square + epsilon)
        scale = gamma * inverse
        result = difference * scale + beta
        if activate:
            result = tf.nn.relu6(result)

        def gradient(upstream, mean_square_upstream):
            del mean_square_upstream
            if activate:
                upstream = ops.relu6_gradient(upstream, result)
            beta_gradient = total(upstream)
            gamma_gradient = total(upstream * difference) * inverse
            # The gradient through r is proportional to x - alpha and to the image's share.
            slope = gamma_gradient * inverse
            alpha_gradient = (slope * mean(difference) - beta_gradient) * scale
            slopes = tf.reshape(shares, [-1, 1, 1, 1]) * (slope * scale * (-1.0 / pixels))
            return (
                upstream * scale + difference * slopes,
                alpha_gradient,
                beta_gradient,
                gamma_gradient,
            )

        return (result, mean_square), gradient

    return normalize
