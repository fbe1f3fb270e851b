"""Opens an exported `.tflite` in the stock runtime and checks its signatures."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedsup_tf.files.validation import check_whole_number
from fedsup_tf.search.costs import count_parameters
from fedsup_tf.space import MEAN_SQUARE
from tflite.device.interpreter import open_interpreter, set_threads
from tflite.device.probe import try_in_child
from tflite.device.runtime import choose_runtime
from tflite.format import signatures
from tflite.format.metadata import ModelMetadata, read_metadata

_OPTIONAL = {signatures.TRAIN_HEAD}

# The runtime's `SignatureRunner` by signature name.
Runners = Mapping[str, Callable[..., Mapping[str, Any]]]


class OpenedModel(NamedTuple):
    """A model opened in the runtime.

    Attributes:
      metadata: Metadata of the file.
      runners: Signature runners by name.
      set_threads: Function that sets the number of threads for matrix products.
    """

    metadata: ModelMetadata
    runners: Runners
    set_threads: Callable[[int], None]


def open_model(
    path: str | os.PathLike, threads: int, trusted: bool = False, runtime: str | None = None
) -> OpenedModel:
    """Opens a model.

    Args:
      path: File that `export_tflite` wrote.
      threads: Number of threads for matrix products, at least 1.
      trusted: Whether to open the file without trying it in a child process first.
      runtime: Name of the runtime; by default the one that `choose_runtime` returns.

    Raises:
      ValueError: If the file is missing, damaged or was not written by `export_tflite`, if its
        signatures differ from its metadata, if it crashes the process that runs it, or if the
        runtime is not installed.
    """
    threads = check_whole_number(threads, "threads", 1, advice="Give 1.")
    runtime = choose_runtime(runtime)
    metadata = read_metadata(path)
    if not metadata.variables:
        raise ValueError(
            f"{str(path)!r}: expected a model that trains, received one that only infers, with "
            f"precision {metadata.precision}. Give the file that fedsup export wrote beside it."
        )
    if not trusted:
        try_in_child(path, runtime)
    try:
        interpreter = open_interpreter(threads, runtime, model_path=str(path))
        names = list(interpreter.get_signature_list())
        runners = {name: interpreter.get_signature_runner(name) for name in names}
    except (ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise _foreign(path, "a model that the runtime can open", reason) from error
    _check_signatures(path, runners, _forms(metadata))
    variables = metadata.variables
    # All other variables are weights of the supernet.
    weights = [name for name in variables if not name.endswith(MEAN_SQUARE)]
    parameters = sum(int(np.prod(variables[name])) for name in weights)
    expected = count_parameters(metadata.space, metadata.architecture)
    if not parameters == expected == metadata.parameters:
        declared = f"the {expected:,} weights of its architecture {metadata.architecture}"
        raise _foreign(path, declared, f"{parameters:,}, and {metadata.parameters:,} declared")
    return OpenedModel(metadata, runners, functools.partial(set_threads, interpreter))


def _check_signatures(
    path: str | os.PathLike, runners: Runners, forms: Mapping[str, tuple[dict, dict]]
) -> None:
    missing = sorted(forms.keys() - runners.keys() - _OPTIONAL)
    if missing:
        raise _foreign(path, "the signatures of fedsup export", f"a model without {missing}")
    for name in [name for name in forms if name in runners]:
        found = runners[name].get_input_details(), runners[name].get_output_details()
        for kind, expected, details in zip(("inputs", "outputs"), forms[name], found, strict=True):
            received = {
                tensor: (tuple(map(int, detail["shape"])), np.dtype(detail["dtype"]).name)
                for tensor, detail in details.items()
            }
            if received != expected:
                wrong = sorted(dict(received.items() ^ expected.items()))[:5]
                announced = f"{kind} of {name!r} that its metadata declares"
                raise _foreign(path, announced, f"others for {wrong}")


def _forms(metadata: ModelMetadata) -> dict[str, tuple[dict, dict]]:
    """Returns the expected shapes and types of each signature's inputs and outputs."""

    def batch(size):
        return {
            signatures.IMAGES: ((size, *metadata.image_shape), "uint8"),
            signatures.LABELS: ((size,), "int32"),
            signatures.SAMPLE_WEIGHTS: ((size,), "float32"),
        }

    sizes = metadata.batch_sizes
    scalar, one = ((), "float32"), ((), "int32")
    scores = {signatures.LOSS: scalar, signatures.CORRECT: scalar}
    train = ({**batch(sizes["train"]), signatures.LEARNING_RATE: scalar}, scores)
    variables = {name: (shape, "float32") for name, shape in metadata.variables.items()}
    images = {signatures.IMAGES: batch(sizes["infer"])[signatures.IMAGES]}
    logits = {signatures.LOGITS: ((sizes["infer"], metadata.space.classes), "float32")}
    return {
        signatures.TRAIN: train,
        signatures.TRAIN_HEAD: train,
        signatures.EVALUATE: (batch(sizes["evaluate"]), scores),
        signatures.INFER: (images, logits),
        signatures.SAVE: ({signatures.DUMMY: scalar}, variables),
        signatures.RESTORE: (variables, {signatures.OK: one}),
    }


def _foreign(path: str | os.PathLike, expected: str, received: str) -> ValueError:
    return ValueError(
        f"{str(path)!r}: expected {expected}, received {received}. Export the model again with "
        "this version or copy it whole."
    )
