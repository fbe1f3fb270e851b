"""Script that trains an exported model and prints its memory use as one line of JSON.

It runs in a separate process that loads only NumPy and a runtime, so that it measures only their
memory. The argument is a JSON object with `path`, `runtime` (one of `device.runtime`),
`image_shape`, `batch`, `steps` and `threads`.
"""

import importlib
import json
import os
import resource
import sys

import numpy as np


def main(job: dict) -> dict:
    """Runs the steps; returns the peak resident memory in bytes, before and after them."""
    if job["runtime"] == "tensorflow":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        import tensorflow as tf

        interpreter_class = tf.lite.Interpreter
    else:
        runtime = importlib.import_module(f"{job['runtime']}.interpreter")
        interpreter_class = runtime.Interpreter
    baseline = _peak_bytes()
    interpreter = interpreter_class(job["path"], num_threads=job["threads"])
    interpreter.allocate_tensors()
    train = interpreter.get_signature_runner("train")
    random = np.random.default_rng(0)
    batch, inputs = job["batch"], train.get_input_details()
    values = {
        "images": random.integers(0, 256, (batch, *job["image_shape"]), np.uint8),
        "labels": np.arange(batch, dtype=np.int32) % 2,
        "sample_weights": np.ones(batch, np.float32),
        "learning_rate": np.float32(0.01),
    }
    values = {name: value for name, value in values.items() if name in inputs}
    for _ in range(job["steps"]):
        train(**values)
    return {"baseline_bytes": baseline, "peak_bytes": _peak_bytes()}


def _peak_bytes() -> int:
    # On Linux, getrusage includes the memory of the parent process.
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return 1024 * int(fields["VmHWM"].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
