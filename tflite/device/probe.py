"""Tries a `.tflite` in a child process before this process opens it.

The runtime trusts a model's structure, so a malicious model can crash the process that opens or
runs it. The hash appended to a model detects only damage, since anyone who changes a model can
update its hash. Therefore a model of unknown origin is first opened in a child process, which runs
each signature once. If the child crashes, the caller only gets an error. This is not a sandbox:
apart from crashing or hanging, a model can do in the child whatever it could do here.
"""

import hashlib
import os
import subprocess
import sys

import numpy as np

# Far more than opening a model and running a training step take, even on a busy machine.
_SECONDS = 300
_MODULE = "tflite.device.probe"
# Hash and runtime of each file that a child of this process ran without crashing.
_ran_without_crash: set[tuple[str, str]] = set()


def try_in_child(path: str | os.PathLike, runtime: str) -> None:
    """Opens and runs a model in a child process, once per file content and runtime.

    Args:
      path: The `.tflite` file.
      runtime: Name of an installed runtime.

    Raises:
      ValueError: If the child process crashed or timed out.
    """
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (digest, runtime) in _ran_without_crash:
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
    # A Python error in the child recurs, with a readable message, when this process opens the file.
    if child.returncode < 0:
        raise _refused(path, f"one that ended a process by signal {-child.returncode}")
    _ran_without_crash.add((digest, runtime))


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

        # A core dump would be of no use.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except ImportError:
        pass
    interpreter = open_interpreter(1, runtime, model_path=path)
    names = interpreter.get_signature_list()
    # `restore` comes last: with all variables set to 0, the other signatures would compute NaN.
    for name in sorted(names, key=lambda name: name == signatures.RESTORE):
        runner = interpreter.get_signature_runner(name)
        inputs = runner.get_input_details().items()
        runner(**{key: np.zeros(detail["shape"], detail["dtype"]) for key, detail in inputs})


if __name__ == "__main__":
    main(*sys.argv[1:])
