"""Converts TensorFlow functions to the signatures of a `.tflite` with only builtin operators."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from absl import logging

from tflite.flatbuffer import flatbuffer


def trace(function: Callable, *specs: tf.TensorSpec) -> Any:
    """Traces a function for tensors of the given specs and returns the concrete function."""
    return tf.function(function, input_signature=specs, autograph=False).get_concrete_function()


def convert(
    module: tf.Module, functions: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> bytes:
    """Converts concrete functions to the signatures of one model.

    Args:
      module: Module that owns the variables of the functions.
      functions: Concrete functions by signature name.
      names: New names of inputs, outputs and variables, as for `flatbuffer.finish_model`.

    Returns:
      The bytes of the model.

    Raises:
      ValueError: If the model would need an operator that the stock runtime lacks.
    """
    with tempfile.TemporaryDirectory() as folder:
        # The gradients are part of the functions; no gradient of theirs is taken.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, folder, dict(functions), options)
        with _errors_alone():
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.experimental_enable_resource_variables = True
        model = converter.convert()
    model = flatbuffer.finish_model(model, names or {})
    flatbuffer.check_builtin_only(model)
    return model


@contextlib.contextmanager
def _errors_alone() -> Iterator[None]:
    """Keeps TensorFlow from warning that functions were saved without their gradients."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
