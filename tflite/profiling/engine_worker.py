"""Worker process that runs a subnet with one engine and reports the time of each call.

Each engine has a separate process, since spinning threads of another engine would take processor
time from it. The argument is a JSON object with `engine` (one of `ENGINES`), `path`, `flex_path`
(or null), `subnet` (path of a checkpoint of the subnet), `preprocessing`, `training`,
`image_shape`, `classes`, `batch_sizes` and `threads`. The process prints a line once it is ready.
Then it reads lines with a signature and a number of calls, such as `train 5`, and answers each with
a JSON line, the list of the calls' times in milliseconds.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflite.device.open_model import open_model
from tflite.device.thread_tuner import ThreadTuner
from tflite.format import signatures

Call = Callable[[], Any]
Job = Mapping[str, Any]
# Inputs of a signature by name.
Inputs = Mapping[str, np.ndarray]
# With learning rate 0, the weights do not change during the measurement.
_RATE = np.float32(0)


def main(job: dict) -> None:
    """Answers lines of standard input until it ends."""
    random = np.random.default_rng(0)
    sizes, shape = job["batch_sizes"], job["image_shape"]
    train_inputs = {
        signatures.IMAGES: random.integers(0, 256, (sizes["train"], *shape), np.uint8),
        signatures.LABELS: random.integers(0, job["classes"], sizes["train"], np.int32),
        signatures.LEARNING_RATE: _RATE,
    }
    infer_inputs = {signatures.IMAGES: random.integers(0, 256, (sizes["infer"], *shape), np.uint8)}
    calls = ENGINES[job["engine"]](job, infer_inputs, train_inputs)
    for call in calls.values():
        call()  # Traces, or allocates.
    print("ready", flush=True)
    for line in sys.stdin:
        signature, count = line.split()
        print(json.dumps(_time(calls[signature], int(count))), flush=True)


def _time(call: Call, count: int) -> list[float]:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begin))
    return times


# Only engines that need TensorFlow import it, since processes on a device do not load it.


def _exported(job: Job, infer_inputs: Inputs, train_inputs: Inputs) -> dict[str, Call]:
    opened = open_model(job["path"], job["threads"])
    weights = np.ones(job["batch_sizes"]["train"], np.float32)
    train_inputs = {**train_inputs, signatures.SAMPLE_WEIGHTS: weights}
    calls = _calls(opened.runners.__getitem__, infer_inputs, train_inputs)
    # As in `DeviceTrainer`.
    tuner = ThreadTuner(opened.set_threads, job["threads"])
    train = functools.partial(tuner.run, calls[signatures.TRAIN])
    return {**calls, signatures.TRAIN: train}


def _stock_export(job: Job, infer_inputs: Inputs, train_inputs: Inputs) -> dict[str, Call]:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(job["flex_path"], num_threads=job["threads"])
    interpreter.allocate_tensors()
    return _calls(interpreter.get_signature_runner, infer_inputs, train_inputs)


def _calls(
    runner_of: Callable, infer_inputs: Mapping[str, Any], train_inputs: Mapping[str, Any]
) -> dict[str, Call]:
    infer, train = runner_of(signatures.INFER), runner_of(signatures.TRAIN)
    return {
        signatures.INFER: lambda: infer(**infer_inputs),
        signatures.TRAIN: lambda: train(**train_inputs),
    }


def _own_gradients(job: Job, infer_inputs: Inputs, train_inputs: Inputs) -> dict[str, Call]:
    def forward(subnet, weights, images):
        return subnet.forward(weights, images)

    return _tensorflow(job, infer_inputs, train_inputs, forward)


def _tensorflow_gradients(job: Job, infer_inputs: Inputs, train_inputs: Inputs) -> dict[str, Call]:
    from tflite.certify import reference

    def forward(subnet, weights, images):
        return reference.compute(subnet, weights, images).logits

    return _tensorflow(job, infer_inputs, train_inputs, forward)


def _tensorflow(
    job: Job, infer_inputs: Inputs, train_inputs: Inputs, forward: Callable
) -> dict[str, Call]:
    """Returns inference and an SGD step in TensorFlow's fastest form: in-place on variables."""
    import tensorflow as tf

    from fedsup_tf.data.preprocessing import Preprocessing
    from fedsup_tf.local_training import LocalTraining
    from fedsup_tf.sgd import apply_sgd
    from fedsup_tf.supernet import Supernet

    tf.config.threading.set_intra_op_parallelism_threads(job["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    subnet, _ = Supernet.load_checkpoint(job["subnet"])
    preprocessing = Preprocessing.from_json(job["preprocessing"])
    training = LocalTraining(**job["training"])
    variables = {name: tf.Variable(value) for name, value in subnet.weights_by_name().items()}
    momenta = {name: tf.Variable(tf.zeros_like(value)) for name, value in variables.items()}

    @tf.function(autograph=False)
    def infer(images):
        weights = {name: value.read_value() for name, value in variables.items()}
        return forward(subnet, weights, preprocessing.normalize(images))

    @tf.function(autograph=False)
    def train(images, labels, learning_rate):
        weights = {name: value.read_value() for name, value in variables.items()}
        targets = tf.one_hot(labels, subnet.space.classes)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            logits = forward(subnet, weights, preprocessing.normalize(images))
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        apply_sgd(
            variables,
            momenta,
            weights,
            gradients,
            learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            clip_value=training.clip_value,
        )
        return loss

    infer_inputs, train_inputs = (
        {name: tf.constant(value) for name, value in values.items()}
        for values in (infer_inputs, train_inputs)
    )
    return {
        signatures.INFER: lambda: infer(**infer_inputs).numpy(),
        signatures.TRAIN: lambda: train(**train_inputs).numpy(),
    }


# Engines by the names used in reports.
FILE, FLEX = "the file", "Flex export"
ENGINES = {
    FILE: _exported,
    "TensorFlow, fedsup_tf": _own_gradients,
    "TensorFlow, its gradients": _tensorflow_gradients,
    FLEX: _stock_export,
}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
