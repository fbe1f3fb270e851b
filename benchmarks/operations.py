"""Compares the time of each operation with TensorFlow's own, forward and backward.

`uv run python benchmarks/operations.py` prints a table: milliseconds of one forward and backward
pass with the net's shapes and batch size 32 on one thread, medians of alternating runs, and the
ratio of TensorFlow's time to ours.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import statistics
import time

import tensorflow as tf

from fedsup_tf.ops import normalization, ops

_BATCH = 32
_REPETITIONS = 15
# (height, channels, stride) of the depthwise convolutions of `fedsup_cifar`'s largest subnet.
_DEPTHWISE = ((16, 32, 1), (16, 64, 2), (8, 128, 1), (8, 128, 2), (4, 256, 1), (4, 256, 2))


def plain_normalization(images, alpha, beta, gamma, epsilon, activate):
    """Applies parametric normalization as a user of TensorFlow would write it."""
    centred = images - alpha
    inverse = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), [0, 1, 2]) + epsilon)
    result = gamma * centred * inverse + beta
    return tf.nn.relu6(result) if activate else result


def cases():
    """Yields the name, our function, TensorFlow's function and the inputs of each case."""
    images = tf.random.normal([_BATCH, 32, 32, 3])
    kernel = tf.random.normal([3, 3, 3, 32])
    yield (
        "stem 3x3 /2, 32x32x3",
        lambda x, w: ops.conv2d(x, w, 2),
        lambda x, w: tf.nn.conv2d(x, w, 2, "SAME"),
        (images, kernel),
    )
    for side, channels, stride in (*_DEPTHWISE, (2, 1024, 1)):
        images = tf.random.normal([_BATCH, side, side, channels])
        for taps in (3, 5, 7):
            kernel = tf.random.normal([taps, taps, channels, 1])
            yield (
                f"depthwise {taps}x{taps} /{stride}, {side}x{side}x{channels}",
                lambda x, w, s=stride: ops.depthwise_conv2d(x, w, s),
                lambda x, w, s=stride: tf.nn.depthwise_conv2d(x, w, [1, s, s, 1], "SAME"),
                (images, kernel),
            )
        vectors = [tf.random.normal([channels]) for _ in range(3)]
        yield (
            f"normalization and ReLU6, {side}x{side}x{channels}",
            lambda *inputs: normalization.parametric_normalization(*inputs, 1e-5, True)[0],
            lambda *inputs: plain_normalization(*inputs, 1e-5, True),
            (images, *vectors),
        )


def forward_and_backward(function):
    """Returns a traced function that computes the gradients with respect to its inputs."""

    @tf.function
    def call(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(tf.sin(function(*inputs)))
        return tape.gradient(loss, inputs)

    return call


def main():
    """Times all operations and prints the table."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print(f"{'operation':44s} {'ours, ms':>9s} {'TF, ms':>9s} {'TF / ours':>9s}")
    ratios = []
    for name, ours, theirs, inputs in cases():
        calls = [forward_and_backward(function) for function in (ours, theirs)]
        times = [[], []]
        for repetition in range(_REPETITIONS + 2):
            for call, spent in zip(calls, times, strict=True):
                start = time.perf_counter()
                call(*inputs)
                if repetition >= 2:
                    spent.append(1e3 * (time.perf_counter() - start))
        own, other = map(statistics.median, times)
        ratios.append(other / own)
        print(f"{name:44s} {own:9.2f} {other:9.2f} {other / own:9.2f}", flush=True)
    print(f"geometric mean of TF / ours: {statistics.geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    main()
