"""The net's operations, with gradients fast on CPU or made of TensorFlow Lite builtins alone.

TensorFlow's own gradients of a convolution have no TensorFlow Lite counterpart, and its filter
gradient of a depthwise convolution wider than 3 x 3 is several times slower than the convolution
(see `filter_gradients`). Where TensorFlow's kernel is fast it is used, except inside
`builtin_operators()`, in which every gradient is made of builtins. Values and gradients equal
TensorFlow's own up to rounding either way.

All functions take and return float32, images `(batch, height, width, channels)` with height and
width known when traced; batch and channels need not be.
"""

import contextlib
import contextvars

import tensorflow as tf

from fedsup_tf import builtin_ops
from fedsup_tf.builtin_ops import maximum, shape_of
from fedsup_tf.filter_gradients import depthwise_filter_gradient

_raw = tf.raw_ops
# How operations are traced; exactly one holds.
_FAST, _BUILTIN, _QUANTIZABLE = range(3)
_formulation = contextvars.ContextVar("formulation", default=_FAST)


def builtin_operators() -> contextlib.AbstractContextManager[None]:
    """Within this context, gradients are traced into TensorFlow Lite builtins alone."""
    return _traced_as(_BUILTIN)


def quantizable_operators() -> contextlib.AbstractContextManager[None]:
    """Within this context, 1 x 1 convolutions are traced as convolutions.

    A quantized convolution's kernel has a scale for each channel, a product's matrix one for all.
    """
    return _traced_as(_QUANTIZABLE)


@contextlib.contextmanager
def _traced_as(formulation: int):
    token = _formulation.set(formulation)
    try:
        yield
    finally:
        _formulation.reset(token)


def _is_builtin() -> bool:
    return _formulation.get() == _BUILTIN


def pointwise_conv2d(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """1 x 1 convolution with `kernel` `(1, 1, in, out)`, as a matrix product where that is fast."""
    if _formulation.get() == _QUANTIZABLE:
        return tf.nn.conv2d(images, kernel, 1, "SAME")
    if _is_builtin():
        _, height, width, channels = shape_of(images)
        filters = shape_of(kernel)[3]
        matrix = tf.reshape(kernel, [channels, filters])
        product = matmul(tf.reshape(images, [-1, channels]), matrix)
        return tf.reshape(product, [-1, height, width, filters])
    return _pointwise(images, kernel, may_be_absent=False)


def pointwise_conv2d_or_nothing(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """`pointwise_conv2d`, or `images` themselves where the kernel turns out to be of size 0."""
    return _pointwise(images, kernel, may_be_absent=True)


def _pointwise(images: tf.Tensor, kernel: tf.Tensor, may_be_absent: bool) -> tf.Tensor:
    height, width = images.shape[1:3]

    def where_present(function, otherwise):
        # Not a cond around it all: TensorFlow feeds none of its own into a gradient by hand.
        return tf.cond(tf.size(kernel) > 0, function, otherwise) if may_be_absent else function()

    @tf.custom_gradient
    def convolve(images, kernel):
        channels, filters = shape_of(kernel)[2:]
        matrix = tf.squeeze(kernel, [0, 1])

        def product():
            result = tf.matmul(tf.reshape(images, [-1, channels]), matrix)
            return tf.reshape(result, [-1, height, width, filters])

        def gradient(upstream):
            def products():
                rows = tf.reshape(upstream, [-1, filters])
                images_gradient = tf.matmul(rows, matrix, transpose_b=True)
                images_gradient = tf.reshape(images_gradient, tf.shape(images))
                inputs = tf.reshape(images, [-1, channels])
                matrix_gradient = tf.matmul(inputs, rows, transpose_a=True)
                return images_gradient, tf.reshape(matrix_gradient, [1, 1, channels, filters])

            images_gradient, kernel_gradient = where_present(
                products, lambda: (upstream, tf.zeros_like(kernel))
            )
            return known(images_gradient, images.shape), known(kernel_gradient, kernel.shape)

        return where_present(product, lambda: images), gradient

    result = convolve(images, kernel)
    filters = None if may_be_absent else kernel.shape[3]
    return known(result, [images.shape[0], height, width, filters])


def known(tensor: tf.Tensor, shape) -> tf.Tensor:
    """`tensor`, whose `shape` is known from elsewhere; costs nothing, unlike `ensure_shape`."""
    tensor.set_shape(shape)
    return tensor


def matmul(rows: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """`(rows, in) @ (in, out)`."""
    return builtin_ops.matmul(rows, matrix) if _is_builtin() else tf.matmul(rows, matrix)


def average_pool(images: tf.Tensor) -> tf.Tensor:
    """Average over 2 x 2 pixels with stride 2 and padding SAME."""
    height, width = images.shape[1:3]

    @tf.custom_gradient
    def pool(images):
        def gradient(upstream):
            return builtin_ops.average_pool_gradient(upstream, height, width)

        return tf.nn.avg_pool2d(images, 2, 2, "SAME"), gradient

    return pool(images) if _is_builtin() else tf.nn.avg_pool2d(images, 2, 2, "SAME")


def conv2d(images: tf.Tensor, kernel: tf.Tensor, stride: int = 1) -> tf.Tensor:
    """Convolution with padding SAME.

    Args:
      images: `(batch, height, width, in)`.
      kernel: `(side, side, in, out)`.
      stride: 1 or 2.

    Returns:
      `(batch, ceil(height / stride), ceil(width / stride), out)`.
    """
    if _is_builtin():
        return builtin_ops.conv2d(images, kernel, stride)

    @tf.custom_gradient
    def convolve(images, kernel):
        def gradient(upstream):
            strides = [1, stride, stride, 1]
            return (
                _raw.Conv2DBackpropInput(
                    input_sizes=tf.shape(images),
                    filter=kernel,
                    out_backprop=upstream,
                    strides=strides,
                    padding="SAME",
                ),
                _raw.Conv2DBackpropFilter(
                    input=images,
                    filter_sizes=tf.shape(kernel),
                    out_backprop=upstream,
                    strides=strides,
                    padding="SAME",
                ),
            )

        return tf.nn.conv2d(images, kernel, stride, "SAME"), gradient

    return convolve(images, kernel)


def depthwise_conv2d(images: tf.Tensor, kernel: tf.Tensor, stride: int = 1) -> tf.Tensor:
    """Depthwise convolution with padding SAME.

    Args:
      images: `(batch, height, width, channels)`.
      kernel: `(side, side, channels, 1)`, side odd; may be unknown when traced, but not within
        `builtin_operators`, nor may the images' shape.
      stride: 1 or 2.

    Returns:
      `(batch, ceil(height / stride), ceil(width / stride), channels)`.
    """
    if stride == 1:
        kernel = _crop_unreachable_taps(images, kernel)
    if _is_builtin():
        return builtin_ops.depthwise_conv2d(images, kernel, stride)
    strides = [1, stride, stride, 1]

    @tf.custom_gradient
    def convolve(images, kernel):
        def gradient(upstream):
            input_gradient = _raw.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(images),
                filter=kernel,
                out_backprop=upstream,
                strides=strides,
                padding="SAME",
            )

            def small_filter_gradient():
                return _raw.DepthwiseConv2dNativeBackpropFilter(
                    input=images,
                    filter_sizes=tf.shape(kernel),
                    out_backprop=upstream,
                    strides=strides,
                    padding="SAME",
                )

            def large_filter_gradient():
                return depthwise_filter_gradient(images, kernel, upstream, stride)

            # TensorFlow's kernel is the faster one up to 3 x 3, on maps that are not tiny.
            side = shape_of(kernel)[0]
            if images.shape[1] <= 2:
                filter_gradient = large_filter_gradient()
            elif isinstance(side, int):
                filter_gradient = (large_filter_gradient if side > 3 else small_filter_gradient)()
            else:
                filter_gradient = tf.cond(side > 3, large_filter_gradient, small_filter_gradient)
            return input_gradient, known(filter_gradient, kernel.shape)

        result = tf.nn.depthwise_conv2d(images, kernel, strides, "SAME")
        return result, gradient

    channels = shape_of(kernel)[2]
    # TensorFlow refuses a convolution of no channels, which is what an absent block asks for.
    result = convolve(_pad_channels(images, 3, channels), _pad_channels(kernel, 2, channels))
    result = leading_channels(result, channels)
    height, width = (-(-side // stride) for side in images.shape[1:3])
    return known(result, [images.shape[0], height, width, kernel.shape[2]])


def leading_channels(images: tf.Tensor, channels: int | tf.Tensor) -> tf.Tensor:
    """The first `channels` of `(batch, height, width, ...)`; neither copies if that is all."""
    # Not images[..., :channels], whose gradient always copies.
    result = tf.slice(images, [0, 0, 0, 0], [-1, -1, -1, channels])
    channels = channels if isinstance(channels, int) else None
    return known(result, [*images.shape[:3], channels])


def relu6(values: tf.Tensor) -> tf.Tensor:
    """min(max(values, 0), 6)."""

    @tf.custom_gradient
    def clip(values):
        result = tf.nn.relu6(values)
        return result, lambda upstream: relu6_gradient(upstream, result)

    return clip(values)


def relu6_gradient(upstream: tf.Tensor, result: tf.Tensor) -> tf.Tensor:
    """`upstream` where `result`, the value of ReLU6, lies strictly between 0 and 6; else zero."""
    if _is_builtin():
        return builtin_ops.relu6_gradient(upstream, result)
    # Relu6Grad compares entry by entry, which TFF's worker, built for old processors, does without
    # vectors: 8 times as slow. Inside, the product is beyond 1 for all values above 1e-38.
    return upstream * tf.minimum(tf.minimum(result, 6.0 - result) * 1e38, 1.0)


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
    if not _is_builtin() and sample_weights is None:
        normalize = _fused_normalization(epsilon, activate)
    else:
        normalize = _normalization_of_rows(epsilon, activate, sample_weights)
    result, mean_square = normalize(images, alpha, beta, gamma)
    return known(result, images.shape), mean_square


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
                upstream = relu6_gradient(upstream, result)
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
            return tf.reshape(matmul(tf.reshape(shares, [1, -1]), values), [-1])

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
                upstream = relu6_gradient(upstream, result)
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
    if not _is_builtin():
        return tf.math.squared_difference(rows, vector)
    # The runtime's own operator is slow, as is a difference of unequal shapes.
    difference = rows + -vector
    return difference * difference


def _row_shares(sample_weights: tf.Tensor, pixels: int) -> tf.Tensor:
    """Share of each pixel's row in a weighted mean, `(batch * pixels, 1)`; 0 if all weigh 0."""
    total = tf.maximum(tf.reduce_sum(sample_weights), 1e-30) * float(pixels)
    shares = tf.reshape(sample_weights / total, [-1, 1, 1])
    return tf.reshape(tf.tile(shares, [1, pixels, 1]), [-1, 1])


def _pad_channels(tensor: tf.Tensor, axis: int, channels) -> tf.Tensor:
    """One channel of zeros in place of none; `tensor` itself if there are some."""
    if isinstance(channels, int) and channels > 0:
        return tensor
    paddings = [[0, 0]] * 4
    paddings[axis] = [0, maximum(1 - channels, 0)]
    return tf.pad(tensor, paddings)


def _crop_unreachable_taps(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Drops the kernel's rim that only ever meets padding: a 7 x 7 on a 2 x 2 map is a 3 x 3."""
    side = shape_of(kernel)[0]
    top, left = (maximum(side // 2 - (length - 1), 0) for length in images.shape[1:3])
    if isinstance(side, int) and top == left == 0:
        return kernel
    # Not kernel[top:...], whose gradient is no builtin.
    sizes = [side - 2 * top, side - 2 * left, *shape_of(kernel)[2:]]
    static = [size if isinstance(size, int) else None for size in sizes]
    return known(tf.slice(kernel, [top, left, 0, 0], sizes), static)
