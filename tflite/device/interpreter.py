"""Opens the stock runtime so that it is fast."""

from typing import Any

import tflite_runtime.interpreter as runtime


def open_interpreter(threads: int, **source: Any) -> runtime.Interpreter:
    """An interpreter with the delegate of fast kernels.

    The runtime has two pools of threads, the delegate's and that of the matrix products, which wait
    for work by spinning. With as many of each as asked for, a step of training on two cores takes
    ten times as long as on one thread, since the one pool's spin where the other's should work. So
    the threads are the matrix products', and the delegate works on the caller's.

    Args:
      threads: Of the matrix products, from 1.
      **source: `model_path` or `model_content`.
    """
    interpreter = runtime.Interpreter(**source, num_threads=1)
    # Only now the runtime brings in its delegate; a signature alone does not.
    interpreter.allocate_tensors()
    set_threads(interpreter, threads)
    return interpreter


def set_threads(interpreter: runtime.Interpreter, threads: int) -> None:
    """Computes the matrix products of an opened model on so many threads from now on."""
    # The runtime's own setter, which its Python class calls before the delegate is there only.
    interpreter._interpreter.SetNumThreads(threads)
