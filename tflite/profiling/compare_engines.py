"""Compares time, memory and size of an exported model with TensorFlow and with a Flex export.

Each measurement runs in a separate process: memory, since only the peak of a process is known, and
time, since on a phone no threads of another engine slow down the runtime.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.supernet import Supernet
from tflite.device.runtime import choose_runtime
from tflite.format.metadata import ModelMetadata, read_metadata
from tflite.profiling.engine_process import MAX_SECONDS, last_words, measure_latency
from tflite.profiling.engine_worker import ENGINES, FILE, FLEX
from tflite.profiling.flex_export import export_stock

_FOLDER = Path(__file__).parent
_MEMORY_STEPS = 5


def measure(
    path: str | os.PathLike,
    subnet: Supernet,
    preprocessing: Preprocessing,
    threads: tuple[int, ...] = (1, 2),
    repetitions: int = 40,
    with_flex: bool = False,
) -> dict[str, Any]:
    """Measures an exported file.

    The other engines run the step of a federated round, also beside a fine-tuned file. Engines
    alternate every few calls, so that other load on the machine affects all of them. Results
    for two threads on a busy machine mean little, since the runtime's threads spin.

    Args:
      path: File that `export_tflite` wrote.
      subnet: Subnet that `Supernet.extract` returned.
      preprocessing: Normalization of the images.
      threads: Numbers of threads to measure with. Training steps of the file run on that number of
        threads or on one, as in `DeviceTrainer`.
      repetitions: Number of timed calls per signature and engine.
      with_flex: Whether to create and measure a Flex export too.

    Returns:
      JSON values: `latency`, `memory`, `files` and the conditions of the measurement. The entry of
      an engine that fails has an `error`.
    """
    metadata = read_metadata(path)
    load = os.getloadavg()
    files = {"this": os.path.getsize(path)}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = os.path.join(folder, "subnet.safetensors")
        subnet.save_checkpoint(checkpoint)
        flex_path = None
        if with_flex:
            flex_path = os.path.join(folder, "flex.tflite")
            training = LocalTraining(**metadata.training)
            export_stock(flex_path, subnet, preprocessing, training, metadata.batch_sizes)
            files["Flex"] = os.path.getsize(flex_path)
        job = {
            "path": os.path.abspath(path),
            "subnet": checkpoint,
            "preprocessing": preprocessing.to_json(),
            "training": metadata.training,
            "image_shape": metadata.image_shape,
            "classes": metadata.space.classes,
            "batch_sizes": metadata.batch_sizes,
            "flex_path": flex_path,
        }
        engines = ENGINES if with_flex else [name for name in ENGINES if name != FLEX]
        latency = []
        for count in threads:
            latency += measure_latency(engines, {**job, "threads": count}, repetitions)
        memory = [_measure_memory(FILE, choose_runtime(), path, metadata)]
        if flex_path:
            memory.append(_measure_memory(FLEX, "tensorflow", flex_path, metadata))
    return {
        "batch_sizes": dict(metadata.batch_sizes),
        "repetitions": repetitions,
        "load": load,
        "processors": os.cpu_count(),
        "latency": latency,
        "memory": memory,
        "files": files,
    }


def runtime_bytes(package: str) -> int:
    """Computes the size on disk of an installed package's shared libraries, in bytes."""
    folder = Path(importlib.util.find_spec(package).origin).parent
    # Symbolic links are resolved, so that each library counts once.
    files = {path.resolve() for path in folder.rglob("*.so*") if path.is_file()}
    return sum(path.stat().st_size for path in files)


def _measure_memory(
    engine: str, package: str, path: str | os.PathLike, metadata: ModelMetadata
) -> dict[str, Any]:
    entry = {"engine": engine, "runtime": package, "runtime_bytes": runtime_bytes(package)}
    job = {
        "path": os.path.abspath(path),
        "runtime": package,
        "image_shape": metadata.image_shape,
        "batch": metadata.batch_sizes["train"],
        "steps": _MEMORY_STEPS,
        "threads": 1,
    }
    try:
        memory = _probe_memory(job)
    except RuntimeError as error:
        return {**entry, "error": str(error)}
    return {**entry, **memory, "training_bytes": memory["peak_bytes"] - memory["baseline_bytes"]}


def _probe_memory(job: dict[str, Any]) -> dict[str, int]:
    # -P keeps modules in the script's folder from shadowing others.
    command = [sys.executable, "-P", str(_FOLDER / "memory_probe.py"), json.dumps(job)]
    try:
        result = subprocess.run(
            command,
            cwd=_FOLDER.parents[1],
            capture_output=True,
            text=True,
            check=False,
            timeout=MAX_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no answer within {MAX_SECONDS} s") from error
    if result.returncode:
        raise RuntimeError(last_words(result.stderr, result.returncode))
    return json.loads(result.stdout.splitlines()[-1])
