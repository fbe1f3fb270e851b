"""Report of inference with exported files: bytes, milliseconds, accuracy."""

import os
from collections.abc import Mapping

import numpy as np

from fedsup_tf.resizing import resize_images
from tff_programs.reports.report import format_table
from tflite.device.interpreter import open_interpreter
from tflite.format import signatures
from tflite.format.metadata import read_metadata
from tflite.profiling.timing import min_milliseconds, prepare_calls

_REPETITIONS = 100


def inference_table(paths: Mapping[str, str], images: np.ndarray, labels: np.ndarray) -> str:
    """Formats a line for each file, with its accuracy compared with that of the first.

    Args:
      paths: Paths of files with the signature `infer`, by label.
      images: Test images, `(examples, height, width, channels)`, uint8, which are resized to the
        input size of each file.
      labels: Labels of the images, `(examples,)`.
    """
    calls, right = {}, {}
    for label, path in paths.items():
        with open(path, "rb") as file:
            model = file.read()
        calls[label] = prepare_calls(model, [signatures.INFER], threads=1)[signatures.INFER]
        metadata = read_metadata(path)
        resized = resize_images(images, *metadata.image_shape[:2])
        size = metadata.batch_sizes[signatures.INFER]
        right[label] = _guesses(model, resized, size) == labels
    taken = min_milliseconds(calls, _REPETITIONS, threads=1)
    first = next(iter(paths))
    rows = [("computes with", "file", "bytes", "ms", "accuracy", "difference")]
    for label, path in paths.items():
        share = right[label].mean()
        change = share - right[first].mean()
        rows.append(
            (
                label,
                path,
                f"{os.path.getsize(path):,}",
                f"{taken[label]:.2f}",
                f"{100 * share:.2f} %",
                "" if label == first else f"{100 * change:+.2f}",
            )
        )
    return format_table(rows)


def _guesses(model: bytes, images: np.ndarray, size: int) -> np.ndarray:
    interpreter = open_interpreter(1, model_content=model)
    infer = interpreter.get_signature_runner(signatures.INFER)
    guesses = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        batch = np.resize(part, (size, *images.shape[1:]))
        guesses.append(infer(images=batch)[signatures.LOGITS][: len(part)].argmax(1))
    return np.concatenate(guesses)
