"""The models that a latency table is measured on: parts of subnets, and whole subnets.

`write_part_models` puts all of them into one file, so that a phone can measure its own table: a zip
archive, its entries stored as they are, of `parts.json` and the `.tflite` files that it names:

    {"kind": "fedsup-tf parts", "version": 1,
     "space": {...},                      as `SearchSpace.to_json` writes it
     "infer_batch_size": 1, "train_batch_size": 16, "threads": 1, "repetitions": 30,
     "groups": [{"entry": "parts_0.tflite",
                 "rows": [{"kind": "stem"}, {"kind": "stage", "stage": 0, ...}]}, ...],
     "subnets": [{"entry": "subnet_0.tflite", "rows": [0, 3, 17], "fitted": false}, ...]}

A row is that of a latency table without its milliseconds. A group's signatures are `infer_N` and
`train_N`, of a part that computes nothing for N = 0 and of its rows from 1 on. The `rows` of a
subnet are the numbers of its parts among the rows of all groups. Factors are fitted on the subnets
that are `fitted`, and the table's errors are measured on the others.
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
# Parts in a file; each conversion has a fixed cost, and its memory grows with the file.
PARTS_IN_A_FILE = 6


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Conditions of a measurement.

    Attributes:
      train_batch_size: Images in a step of training.
      infer_batch_size: Images in an inference.
      threads: Number of threads of the runtime.
      repetitions: Number of turns, of which the shortest time counts.
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
          supernet: The supernet whose parts are converted.
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
        """Converts parts to a model of their own, with signatures `infer_N` and `train_N`.

        Those of N = 0 compute nothing, the others the parts from 1 on.
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
        """Exports a whole subnet, its normalizations frozen on mean squares of 1."""
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
                Origin(self.space, "", 0, classes),
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
    """Writes the models of a space's parts and of some subnets into one file, atomically.

    Args:
      path: The file to write.
      converter: Converts them.
      fitted_on: Subnets that the two factors are fitted on.
      checked_on: Other subnets, on which the errors are measured, at least one.
      on_entry: Called with the name and the bytes of each model once it is written.
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
            # A fixed date, so that the same models give the same bytes.
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
