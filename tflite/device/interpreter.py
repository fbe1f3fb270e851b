"""Opens models in the stock runtime with threads that do not disturb each other."""

from typing import Any

from tflite.device.runtime import interpreter_class


def open_interpreter(threads: int, runtime: str | None = None, **source: Any) -> Any:
    """Opens an interpreter with XNNPACK, the delegate of fast kernels.

    The runtime has two thread pools, that of the delegate and that of the matrix products, and
    waiting threads spin. With several threads in both, a step of training on two cores takes ten
    times as long as on one thread, since the spinning threads of one pool hold up the other.
    Therefore only the matrix products get `threads`, and the delegate runs on the caller's thread.

    Args:
      threads: Number of threads of the matrix products, from 1.
      runtime: Name of the runtime; by default that of `choose_runtime`.
      **source: `model_path` or `model_content`.

    Returns:
      The runtime's `Interpreter`.

    Raises:
      ValueError: If that runtime is not installed, or the runtime refuses the model.
    """
    interpreter = interpreter_class(runtime)(**source, num_threads=1)
    # The runtime applies its delegate here; getting a signature alone does not.
    interpreter.allocate_tensors()
    set_threads(interpreter, threads)
    return interpreter


def set_threads(interpreter: Any, threads: int) -> None:
    """Sets the number of threads of the matrix products of an opened model."""
    # The Python class calls this setter before the delegate is applied only.
    interpreter._interpreter.SetNumThreads(threads)
