"""Measures the time of signatures in the stock runtime, robustly against other load."""

import platform
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from tflite.device.interpreter import open_interpreter
from tflite.device.runtime import choose_runtime, runtime_version

Call = Callable[[], Any]
# Number of bytes to overwrite, more than the cache of a core holds.
_CACHE_BYTES = 8 << 20


def prepare_calls(model: bytes, names: Iterable[str], threads: int) -> dict[str, Call]:
    """Binds signatures to arguments for measurement.

    Images and feature maps are random, all sample weights are 1, and the learning rate is 0, so
    that the weights do not change during the measurement.

    Args:
      model: Bytes of a `.tflite`, with or without metadata.
      names: Names of the signatures.
      threads: Number of threads for matrix products, at least 1.

    Returns:
      Functions without arguments, by signature.
    """
    interpreter = open_interpreter(threads, model_content=model)
    return {name: _call(interpreter.get_signature_runner(name)) for name in names}


def min_milliseconds(
    calls: Mapping[Hashable, Call], repetitions: int, threads: int
) -> dict[Any, float]:
    """Measures the shortest time of each call in milliseconds, with a cold processor cache.

    The calls take turns, so that other load affects all of them alike. Since interference only ever
    slows a call down, the shortest time is that of the call itself. The cache is overwritten before
    each call, since a part of a net would find data there that the whole net would not. With one
    thread, the processor time of the call is measured; with several, the elapsed time.

    Args:
      calls: Functions to call, by name.
      repetitions: Number of measured turns, after one warm-up turn.
      threads: Number of threads that each call runs on.
    """
    shortest = dict.fromkeys(calls, float("inf"))
    clock = time.thread_time if threads == 1 else time.perf_counter
    others = np.ones(_CACHE_BYTES, np.int8)
    for repetition in range(repetitions + 1):
        for name, call in calls.items():
            np.negative(others, out=others)
            start = clock()
            call()
            taken = 1e3 * (clock() - start)
            if repetition:
                shortest[name] = min(shortest[name], taken)
    return shortest


def describe_machine() -> str:
    """Returns a human-readable description of the processor and the runtime."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
        name = names[0] if names else name
    except OSError:
        pass  # Not Linux.
    runtime = choose_runtime()
    return f"{name}, {platform.system()}, {runtime} {runtime_version(runtime)}"


def _call(run: Any) -> Call:
    random = np.random.default_rng(0)
    arguments = {}
    for name, detail in run.get_input_details().items():
        shape, dtype = tuple(detail["shape"]), np.dtype(detail["dtype"])
        if name == "learning_rate":
            value = np.zeros(shape)
        elif name == "sample_weights":
            value = np.ones(shape)
        elif dtype == np.uint8:
            value = random.integers(0, 256, shape)
        elif dtype.kind == "i":
            value = np.zeros(shape)
        else:
            value = random.normal(size=shape)
        arguments[name] = value.astype(dtype)
    return lambda: run(**arguments)
