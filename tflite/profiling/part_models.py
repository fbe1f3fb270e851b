"""The models that a latency table is measured on: parts of subnets, and whole subnets.

`write_part_models` writes all of them into one file, so that a phone can measure its own table. The
file is an uncompressed zip archive of `parts.json` and the `.tflite` files that it names:

    {"kind": "fedsup-tf parts", "version": 1,
     "space": {...},                      as `SearchSpace.to_json` writes it
     "infer_batch_size": 1, "train_batch_size": 16, "threads": 1, "repetitions": 30,
     "groups": [{"entry": "parts_0.tflite",
                 "rows": [{"kind": "stem"}, {"kind": "stage", "stage": 0, ...}]}, ...],
     "subnets": [{"entry": "subnet_0.tflite", "rows": [0, 3, 17], "fitted": false}, ...]}

A row is a row of a latency table without the milliseconds. The signatures of a group are `infer_N`
and `train_N`: N = 0 is a part that computes nothing, N = 1 is the first row, and so on. The `rows`
of a subnet are the indices of its parts among the rows of all groups. Factors are fitted on the
subnets that are `fitted`, and the errors of the table are measured on the others.
"""

import dataclasses
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from fedsup_tf.architecture import Architecture
from fedsup_tf.calibration import mean_square_shapes
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.atomic_write import replace_file
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.search.cost_parts import Part, parts_of, parts_of_space
from fedsup_tf.search.latency import part_fields
from fedsup_tf.supernet import Supernet
from tflite.export.conversion import convert
from tflite.export.export import BatchSizes, Origin, export_tflite
from tflite.profiling.part_module import NOTHING, PartModel

ENTRY = "parts.json"
KIND = "fedsup-tf parts"
VERSION = 1
# Each conversion has a fixed cost, but its memory grows with the number of parts in a file.
PARTS_IN_A_FILE = 6
# In place of a supernet's hash, since the measured subnets are untrained.
_NO_SUPERNET = 64 * "0"


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Conditions of a measurement.

    Attributes:
      train_batch_size: Number of images per training step.
      infer_batch_size: Number of images per inference.
      threads: Number of threads of the runtime.
      repetitions: Number of timed calls, of which the shortest counts.
    """

    train_batch_size: int = 16
    infer_batch_size: int = 1
    threads: int = 1
    repetitions: int = 30


class ModelConverter:
    """Converts parts of a supernet's subnets, and whole subnets."""

    def __init__(
        self,
        supernet: Supernet,
        preprocessing: Preprocessing,
        training: LocalTraining,
        conditions: Conditions,
    ):
        """Prepares conversions.

        Args:
          supernet: Supernet that provides the weights and the search space.
          preprocessing: Normalization of the images.
          training: Hyper-parameters of a step.
          conditions: Conditions of the measurement.
        """
        self.space = supernet.space
        self.conditions = conditions
        self._supernet = supernet
        self._preprocessing = preprocessing
        self._training = training

    def convert_parts(self, parts: Sequence[Part]) -> bytes:
        """Converts parts to one model with signatures `infer_N` and `train_N`.

        The signatures with N = 0 compute nothing; the parts are numbered from N = 1.
        """
        module, functions = tf.Module(), {}
        module.parts = [
            PartModel(self._supernet, part, self._preprocessing, self._training)
            for part in (NOTHING, *parts)
        ]
        for number, part in enumerate(module.parts):
            functions[f"infer_{number}"] = part.infer(self.conditions.infer_batch_size)
            functions[f"train_{number}"] = part.train(self.conditions.train_batch_size)
        return convert(module, functions)

    def export_subnet(self, architecture: Architecture) -> bytes:
        """Exports a whole subnet with all frozen mean squares set to 1."""
        subnet = self._supernet.extract(architecture)
        ones = {
            name: np.ones(shape, np.float32)
            for name, shape in mean_square_shapes(subnet.weight_shapes).items()
        }
        classes = tuple(map(str, range(self.space.classes)))
        conditions = self.conditions
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "subnet.tflite")
            export_tflite(
                path,
                subnet,
                ones,
                self._preprocessing,
                self._training,
                Origin(self.space, _NO_SUPERNET, 0, classes),
                BatchSizes(conditions.train_batch_size, 1, conditions.infer_batch_size),
            )
            with open(path, "rb") as file:
                return file.read()


def write_part_models(
    path: str | os.PathLike,
    converter: ModelConverter,
    fitted_on: Sequence[Architecture],
    checked_on: Sequence[Architecture],
    on_entry: Callable[[str, int], None] = lambda name, size: None,
) -> None:
    """Atomically writes the models of all parts of a space and of some subnets into one file.

    Args:
      path: File to write.
      converter: Converter of the models.
      fitted_on: Subnets that the two factors are fitted on.
      checked_on: Other subnets that the errors are measured on, at least one.
      on_entry: Called with the name and the size in bytes of each entry once it is written.
    """
    parts = parts_of_space(converter.space)
    conditions = dataclasses.asdict(converter.conditions)
    fields = {
        "kind": KIND,
        "version": VERSION,
        "space": json.loads(converter.space.to_json()),
        **conditions,
        "groups": [],
        "subnets": [],
    }

    def write_entries(archive: zipfile.ZipFile) -> None:
        def add(name, data):
            # With a fixed date, the same models always give the same bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
            on_entry(name, len(data))

        for start in range(0, len(parts), PARTS_IN_A_FILE):
            chosen = parts[start : start + PARTS_IN_A_FILE]
            entry = f"parts_{start // PARTS_IN_A_FILE}.tflite"
            add(entry, converter.convert_parts(chosen))
            fields["groups"].append({"entry": entry, "rows": list(map(part_fields, chosen))})
        for number, architecture in enumerate([*fitted_on, *checked_on]):
            entry = f"subnet_{number}.tflite"
            add(entry, converter.export_subnet(architecture))
            rows = [parts.index(part) for part in parts_of(converter.space, architecture)]
            is_fitted = number < len(fitted_on)
            fields["subnets"].append({"entry": entry, "rows": rows, "fitted": is_fitted})
        add(ENTRY, json.dumps(fields, indent=1).encode())

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                write_entries(archive)
            file.flush()
            os.fsync(file.fileno())

    replace_file(path, write)
