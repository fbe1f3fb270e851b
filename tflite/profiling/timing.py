"""How long signatures take in the stock runtime, on a machine that does other things too."""

import platform
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from importlib import metadata
from typing import Any

import numpy as np
import tflite_runtime.interpreter as runtime

from tflite.device.interpreter import open_interpreter

Call = Callable[[], Any]
# More than the cache of a core.
_CACHE_BYTES = 8 << 20


def prepare_calls(model: bytes, names: Iterable[str], threads: int) -> dict[str, Call]:
    """Signatures with their arguments, ready to be called.

    Arguments are random where they are images or maps, the weight of every example is 1, and the
    learning rate is 0, so that however many steps are timed the weights stay.

    Args:
      model: A `.tflite`, with or without metadata behind it.
      names: Of the signatures.
      threads: As `interpreter.open_interpreter` takes them.
    """
    interpreter = open_interpreter(threads, model_content=model)
    return {name: _call(interpreter.get_signature_runner(name)) for name in names}


def least_milliseconds(
    calls: Mapping[Hashable, Call], repetitions: int, threads: int
) -> dict[Any, float]:
    """The shortest time of each call, which finds none of its data in the processor's own cache.

    The calls take turns, so that what else the machine does meets all of them alike. What disturbs
    a call makes it longer and never shorter: the shortest time is that of the call itself. Were the
    cache left as it is, a part of a net would find there what the whole net would not. On one
    thread the time is what the processor spent on the call, without what it spent on other
    programs meanwhile; on several it is what passed.

    Args:
      calls: By name.
      repetitions: Turns, after one that is not counted.
      threads: On which each runs.
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
    """Processor and runtime, for people."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
        name = names[0] if names else name
    except OSError:
        pass  # Not a Linux.
    return f"{name}, {platform.system()}, tflite-runtime {metadata.version('tflite-runtime')}"


def _call(run: runtime.SignatureRunner) -> Call:
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
