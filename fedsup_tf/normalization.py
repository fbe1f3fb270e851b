"""FedSup's normalization, in few passes over memory or of TensorFlow Lite builtins."""

import tensorflow as tf

from fedsup_tf import ops
from fedsup_tf.builtin_ops import shape_of

_raw = tf.raw_ops


def parametric_normalization(
    images: tf.Tensor,
    alpha: tf.Tensor,
    beta: tf.Tensor,
    gamma: tf.Tensor,
    epsilon: float,
    activate: bool = False,
    sample_weights: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    r"""FedSup's normalization without running statistics (arXiv 2206.01366, section 3).

    $$y = \gamma (x - \alpha) / r + \beta, \quad r = \sqrt{E[(x - \alpha)^2] + \epsilon}$$

    with the mean over batch, height and width. The epsilon inside the root keeps value and gradient
    finite on a channel that is constantly alpha.

    Args:
      images: `(batch, height, width, channels)`.
      alpha: Shift before, `(channels,)`.
      beta: Shift after, `(channels,)`.
      gamma: Scale, `(channels,)`.
      epsilon: Added to the mean square.
      activate: Whether ReLU6 follows.
      sample_weights: How much each image counts in the mean, `(batch,)`, not negative; all the
        same by default. Images of weight 0 change nothing in the others' results.

    Returns:
      The result, of the shape of `images`, and the mean square, `(channels,)`, through which no
      gradient flows.
    """
    if not ops.is_builtin() and sample_weights is None:
        normalize = _fused_normalization(epsilon, activate)
    else:
        normalize = _normalization_of_rows(epsilon, activate, sample_weights)
    result, mean_square = normalize(images, alpha, beta, gamma)
    return ops.known(result, images.shape), mean_square


def _fused_normalization(epsilon: float, activate: bool):
    """`normalize(images, alpha, beta, gamma)` in few passes over memory.

    Batch normalization of a given mean and variance, which TensorFlow computes in one pass each
    way, with alpha as the mean and the mean square as the variance; what flows through the mean
    square is added by hand.
    """
    fused = {"epsilon": epsilon, "is_training": False}

    @tf.custom_gradient
    def normalize(images, alpha, beta, gamma):
        batch, height, width, _ = shape_of(images)
        share = 1.0 / tf.cast(batch * height * width, tf.float32)
        # Mean and variance of the images themselves: one pass, and no difference of large squares.
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
        # TensorFlow's variance divides by one less than the count, where that is above 0.
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
            # What flows through the mean square: proportional to x - alpha.
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


def _normalization_of_rows(epsilon: float, activate: bool, sample_weights: tf.Tensor | None):
    """`normalize(images, alpha, beta, gamma)` of builtins, or of weighted images."""

    @tf.custom_gradient
    def normalize(images, alpha, beta, gamma):
        shape = tf.stack(shape_of(images))
        rows = tf.reshape(images, [-1, shape_of(images)[3]])
        count = tf.cast(tf.shape(rows)[0], tf.float32)
        # Each row's share of the mean, where they are not all 1 / count.
        shares = None
        if sample_weights is not None:
            shares = _row_shares(sample_weights, images.shape[1] * images.shape[2])

        def mean(values):
            if shares is None:
                return tf.reduce_sum(values, 0) / count
            return tf.reshape(ops.matmul(tf.reshape(shares, [1, -1]), values), [-1])

        mean_square = mean(_squared_difference(rows, alpha))
        inverse = tf.math.rsqrt(mean_square + epsilon)
        scale = gamma * inverse
        result = rows * scale + (beta - alpha * scale)
        if activate:
            result = tf.nn.relu6(result)

        def gradient(upstream, mean_square_upstream):
            del mean_square_upstream
            upstream = tf.reshape(upstream, tf.shape(rows))
            if activate:
                upstream = ops.relu6_gradient(upstream, result)
            beta_gradient = tf.reduce_sum(upstream, 0)
            gamma_gradient = inverse * (tf.reduce_sum(upstream * rows, 0) - alpha * beta_gradient)
            # What flows through r: proportional to x - alpha and to the row's share.
            slope = -gamma_gradient * gamma * inverse * inverse
            alpha_gradient = -(scale * beta_gradient + slope * (mean(rows) - alpha))
            if shares is None:
                slope = slope / count
                row_gradient = upstream * scale + (rows * slope + -alpha * slope)
            else:
                row_gradient = upstream * scale + (rows * slope + -alpha * slope) * shares
            row_gradient = tf.reshape(row_gradient, shape)
            return row_gradient, alpha_gradient, beta_gradient, gamma_gradient

        return (tf.reshape(result, shape), mean_square), gradient

    return normalize


def _squared_difference(rows: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
    if not ops.is_builtin():
        return tf.math.squared_difference(rows, vector)
    # The runtime's own operator is slow, as is a difference of unequal shapes.
    difference = rows + -vector
    return difference * difference


def _row_shares(sample_weights: tf.Tensor, pixels: int) -> tf.Tensor:
    """Share of each pixel's row in a weighted mean, `(batch * pixels, 1)`; 0 if all weigh 0."""
    total = tf.maximum(tf.reduce_sum(sample_weights), 1e-30) * float(pixels)
    shares = tf.reshape(sample_weights / total, [-1, 1, 1])
    return tf.reshape(tf.tile(shares, [1, pixels, 1]), [-1, 1])
