"""Opens models in the stock runtime such that its thread pools do not slow each other down."""

from typing import Any

from tflite.device.runtime import interpreter_class


def open_interpreter(threads: int, runtime: str | None = None, **source: Any) -> Any:
    """Opens an interpreter with XNNPACK, the runtime's delegate for fast kernels.

    The runtime has two thread pools, one for the delegate and one for matrix products, and waiting
    threads spin. With several threads in both, a training step on two cores takes ten times as long
    as on one thread, since the spinning threads of one pool hold up the other. Therefore only
    matrix products use `threads`, and the delegate runs on the caller's thread.

    Args:
      threads: Number of threads for matrix products, at least 1.
      runtime: Name of the runtime; by default the one that `choose_runtime` returns.
      **source: `model_path` or `model_content`.

    Returns:
      The runtime's `Interpreter`.

    Raises:
      ValueError: If the runtime is not installed or rejects the model.
    """
    interpreter = interpreter_class(runtime)(**source, num_threads=1)
    # The runtime applies its delegate here; getting a signature alone does not.
    interpreter.allocate_tensors()
    set_threads(interpreter, threads)
    return interpreter


def set_threads(interpreter: Any, threads: int) -> None:
    """Sets the number of threads for matrix products of an opened model."""
    # The Python class itself calls this setter only before the delegate is applied.
    interpreter._interpreter.SetNumThreads(threads)
