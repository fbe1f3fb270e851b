"""A process that times an exported model beside TensorFlow, all on the same number of threads.

It is one of its own since TensorFlow takes its number of threads once. The engines take turns, so
that whatever else the machine does meets them all. Argument, as one JSON object: `path`, `subnet`
(a checkpoint of the subnet), `preprocessing`, `training`, `batch_sizes`, `threads`, `repetitions`,
`flex_path` (or null). It prints one line of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable

# Before TensorFlow is loaded: its messages say nothing about the measurement.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from fedsup_tf.local_training import LocalTraining
from fedsup_tf.preprocessing import Preprocessing
from fedsup_tf.supernet import Supernet, has_weight_decay
from tflite import reference, signatures
from tflite.check import Phone

# Threads of the runtime spin for a while after a call, and would take from the next engine.
_REST_SECONDS = 0.02
# On a busy machine a call on two threads can take seconds. Then fewer are timed, but some.
_MOST_SECONDS = 30
_LEAST_CALLS = 3


def main(job: dict) -> list[dict]:
    """Returns median and least milliseconds for each engine."""
    tf.config.threading.set_intra_op_parallelism_threads(job["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    subnet, _ = Supernet.load(job["subnet"])
    preprocessing = Preprocessing.from_json(job["preprocessing"])
    training = LocalTraining(**job["training"])
    random = np.random.default_rng(0)
    sizes, shape = job["batch_sizes"], subnet.space.image_shape
    images = random.integers(0, 256, (sizes["train"], *shape), np.uint8)
    labels = random.integers(0, subnet.space.classes, sizes["train"], np.int32)
    few = random.integers(0, 256, (sizes["infer"], *shape), np.uint8)
    phone = Phone(job["path"], job["threads"])

    def plain(weights, images):
        return reference.compute(subnet, weights, images).logits

    calls = {"the file": (lambda: phone.infer(few), lambda: phone.train(images, labels, 0.01))}
    forwards = {"TensorFlow, fedsup_tf": subnet.forward, "TensorFlow, its gradients": plain}
    for name, forward in forwards.items():
        infer, train = _graphs(subnet, forward, preprocessing, training)
        data = tf.constant(images), tf.constant(labels), tf.constant(0.01)
        few_tensor = tf.constant(few)
        calls[name] = (
            lambda infer=infer, few=few_tensor: infer(few).numpy(),
            lambda train=train, data=data: train(*data).numpy(),
        )
    if job["flex_path"]:
        calls["Flex export"] = _flex(job["flex_path"], job["threads"], few, images, labels)
    infer = _time({name: pair[0] for name, pair in calls.items()}, job["repetitions"])
    train = _time({name: pair[1] for name, pair in calls.items()}, job["repetitions"])
    return [
        {
            "engine": name,
            "threads": job["threads"],
            "infer_ms": float(np.median(infer[name])),
            "least_infer_ms": min(infer[name]),
            "train_ms": float(np.median(train[name])),
            "least_train_ms": min(train[name]),
            "timed_steps": len(train[name]),
        }
        for name in calls
    ]


def _graphs(subnet, forward, preprocessing, training):
    """Inference and a step of SGD as TensorFlow trains at its fastest: in place, on variables."""
    variables = {name: tf.Variable(value) for name, value in subnet.weights_by_name().items()}
    momenta = {name: tf.Variable(tf.zeros_like(value)) for name, value in variables.items()}

    @tf.function(autograph=False)
    def infer(images):
        weights = {name: value.read_value() for name, value in variables.items()}
        return forward(weights, preprocessing.normalize(images))

    @tf.function(autograph=False)
    def train(images, labels, learning_rate):
        weights = {name: value.read_value() for name, value in variables.items()}
        targets = tf.one_hot(labels, subnet.space.classes)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            logits = forward(weights, preprocessing.normalize(images))
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        limit = training.clip_value
        for name, weight in weights.items():
            gradient = tf.clip_by_value(gradients[name], -limit, limit)
            if has_weight_decay(name):
                gradient += training.weight_decay * weight
            tf.raw_ops.ResourceApplyMomentum(
                var=variables[name].handle,
                accum=momenta[name].handle,
                lr=learning_rate,
                grad=gradient,
                momentum=training.momentum,
            )
        return loss

    return infer, train


def _flex(path, threads, few, images, labels):
    """Inference and training of the usual export, in the runtime inside TensorFlow."""
    interpreter = tf.lite.Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    infer = interpreter.get_signature_runner(signatures.INFER)
    train = interpreter.get_signature_runner(signatures.TRAIN)
    rate = np.float32(0.01)
    return (
        lambda: infer(images=few),
        lambda: train(images=images, labels=labels, learning_rate=rate),
    )


def _time(calls: dict[str, Callable], repetitions: int) -> dict[str, list[float]]:
    times = {name: [] for name in calls}
    for call in calls.values():
        call()  # Traces, or allocates.
    start = time.monotonic()
    for number in range(repetitions):
        if number >= _LEAST_CALLS and time.monotonic() - start > _MOST_SECONDS:
            break
        for name, call in calls.items():
            time.sleep(_REST_SECONDS)
            begin = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return times


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
