"""Tries a `.tflite` in a process of its own before this process opens it.

The runtime trusts a model's structure: one that was made up to mislead it can end the process that
opens or runs it. The hash behind a model shows damage only, since whoever changes a model can write
the hash that goes with it. So a model of unknown origin is opened and each of its signatures is run
once in a child process. A child that dies costs one sentence. It is no sandbox: what a model could
do other than crash or never end, it could do in the child.
"""

import hashlib
import os
import subprocess
import sys

import numpy as np

# Far more than opening a model and a step of training take, on a busy machine too.
_SECONDS = 300
_MODULE = "tflite.device.probe"
# Hashes of the files that ended no child of this process, with the runtime.
_tried: set[tuple[str, str]] = set()


def try_in_child(path: str | os.PathLike, runtime: str) -> None:
    """Opens and runs a model in a child process, once for each content of a file and runtime.

    Args:
      path: The `.tflite` file.
      runtime: Name of the runtime, one that is installed.

    Raises:
      ValueError: If the child was ended, or did not end by itself.
    """
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (digest, runtime) in _tried:
        return
    command = [sys.executable, "-m", _MODULE, os.path.abspath(path), runtime]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _refused(path, f"one that did not end within {_SECONDS} s") from error
    # Errors that Python raised in the child are raised again, in words, where the file is opened.
    if child.returncode < 0:
        raise _refused(path, f"one that ended a process by signal {-child.returncode}")
    _tried.add((digest, runtime))


def _refused(path, received: str) -> ValueError:
    return ValueError(
        f"{os.fspath(path)!r}: expected a model that the runtime can open and run, received "
        f"{received} in which it was tried. Do not use this file; export the model again."
    )


def main(path: str, runtime: str) -> None:
    """Opens a model in a runtime and runs each of its signatures once on zeros."""
    from tflite.device.interpreter import open_interpreter
    from tflite.format import signatures

    try:
        import resource

        # What a crash leaves on the disk is of no use.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except ImportError:
        pass
    interpreter = open_interpreter(1, runtime, model_path=path)
    names = interpreter.get_signature_list()
    # Variables that were restored as zeros would make other signatures compute with NaN.
    for name in sorted(names, key=lambda name: name == signatures.RESTORE):
        runner = interpreter.get_signature_runner(name)
        inputs = runner.get_input_details().items()
        runner(**{key: np.zeros(detail["shape"], detail["dtype"]) for key, detail in inputs})


if __name__ == "__main__":
    main(*sys.argv[1:])
