"""Metadata of a `.tflite`: JSON in a zip archive appended to the model.

The runtime reads a model from its beginning and ignores what follows it, whereas a zip archive is
read from its end. Therefore `unzip -p FILE fedsup.json`, Python's zipfile or Java's ZipFile can
read the metadata without any code of this project, and the stock runtime still loads the file. The
archive's other entry, `model.sha256`, is the hash of the bytes before the archive in hexadecimal
digits. It is checked before the runtime opens the model, because a damaged model can crash the
process.

The hash detects only damage, since anyone who crafts a file can also write its hash. Files of
unknown origin are tried in a child process; see `tflite.device.probe`.
"""

import dataclasses
import hashlib
import io
import json
import math
import os
import zipfile
from typing import Any

from fedsup_tf.architecture import Architecture
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.json_schema import expect_keys, is_hash, parse_json, quoted
from fedsup_tf.files.reading import parsing, read_bytes, reading
from fedsup_tf.files.validation import are_texts, check_different, is_number, is_text
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.space import SearchSpace
from tflite.format import signatures

ENTRY = "fedsup.json"
HASH_ENTRY = "model.sha256"
VERSION = 1
CLASSIFIERS = ("trained", "refitted")
PRECISIONS = ("float32", "float16", "dynamic", "int8")
# Far more than any metadata needs.
_MAX_BYTES = 1 << 20
# The largest model that the format can address, far more than a phone holds.
_MAX_MODEL_BYTES = 2**31
_MAX_COUNT = 2**31 - 1
_MAX_AXES = 8
_WHAT = "A model's metadata"


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """Origin and use of an exported subnet.

    Attributes:
      architecture: Architecture of the subnet.
      space: Search space of the supernet.
      supernet_hash: `checkpoint.fingerprint` of the weights of the supernet that the subnet was
        extracted from.
      round: Number of rounds that the supernet was trained for.
      class_names: Name of each label, one per logit.
      preprocessing: Normalization of uint8 images inside the model, as fields of `Preprocessing`.
      training: Hyper-parameters of a step of `train`, as fields of `LocalTraining`.
      batch_sizes: Number of images per call, by signature.
      variables: Shape of each variable by name: the subnet's tensors and the frozen mean squares.
      parameters: Number of the subnet's parameters, without the frozen mean squares.
      macs: Multiply-accumulate operations per image.
      precision: Number format of an inference-only file, one of `PRECISIONS`; such a file
        has no training and no variables. A trainable file always computes in float32.
      classifier: One of `CLASSIFIERS`: `"trained"` for the supernet's own classifier, `"refitted"`
        for one that a calibration fitted to this subnet.
      feature_rates: Factors on the gradients of the layers before the classifier in the step of
        `train` of a fine-tuned file, which normalizes with the frozen mean squares: at a loss of 0,
        and at a loss of at least ln(classes). In between, the logarithm of the factor rises with
        the square of the loss. None if a step normalizes with its batch's mean squares and trains
        all layers alike, as in a federated round.

    Raises:
      ValueError: If the number of class names is not the number of logits.
    """

    architecture: Architecture
    space: SearchSpace
    supernet_hash: str
    round: int
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]
    training: dict[str, Any]
    batch_sizes: dict[str, int]
    variables: dict[str, tuple[int, ...]]
    parameters: int
    macs: int
    precision: str = "float32"
    classifier: str = CLASSIFIERS[0]
    feature_rates: tuple[float, float] | None = None

    def __post_init__(self):
        names, logits = len(self.class_names), self.space.classes
        if names != logits:
            raise ValueError(
                f"{_WHAT}: expected a class name for each of the model's {logits} logits, received "
                f"{names} names. Export the model again with the names of the supernet's classes."
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape `(height, width, channels)` of the model's input images."""
        return self.space.image_shape_of(self.architecture)

    def to_json(self) -> str:
        """Returns the metadata as JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["architecture"] = self.architecture.fields()
        fields["space"] = self.space.fields()
        if self.feature_rates is None:
            # Readers of earlier versions refuse a field that they do not know.
            del fields["feature_rates"]
        return json.dumps({"version": VERSION, **fields}, indent=1)

    @classmethod
    @parsing(_WHAT)
    def from_json(cls, text: str) -> "ModelMetadata":
        """Parses the text that `to_json` returned.

        Raises:
          ValueError: If the text is not valid metadata.
        """
        fields = parse_json(text, _WHAT)
        names = {field.name for field in dataclasses.fields(cls)}
        if fields.get("version") != VERSION:
            raise ValueError(
                f"{_WHAT}: expected version {VERSION}, received {quoted(fields.get('version'))}. "
                "Export the model with this version."
            )
        # Files of an earlier version have one rate, whatever the loss.
        if "feature_rate" in fields:
            fields["feature_rates"] = [fields.pop("feature_rate")] * 2
        # A file may lack these fields, which then take their default values.
        needed = names - {"precision", "classifier", "feature_rates"} | {"version"}
        expect_keys(fields, names | {"version"}, needed, _WHAT)
        del fields["version"]
        # Name of the refitted classifier in files of earlier versions, which fitted it differently.
        if fields.get("classifier") == "closed_form":
            fields["classifier"] = CLASSIFIERS[1]
        for name, (expected, holds) in _TYPES.items():
            if name in fields and not holds(fields[name]):
                raise ValueError(
                    f"{_WHAT}: expected {name} as {expected}, received {quoted(fields[name])}. "
                    "Export the model again."
                )
        fields["architecture"] = Architecture.from_fields(fields["architecture"])
        fields["space"] = SearchSpace.from_fields(fields["space"])
        fields["space"].check(fields["architecture"])
        check_different(fields["class_names"], _WHAT)
        fields["class_names"] = tuple(fields["class_names"])
        if "feature_rates" in fields:
            fields["feature_rates"] = tuple(fields["feature_rates"])
        if fields["variables"]:
            LocalTraining(**fields["training"])
        _check_preprocessing(fields["preprocessing"], fields["space"].image_shape[2])
        called = {signatures.INFER}
        if fields["variables"]:
            called |= {signatures.TRAIN, signatures.EVALUATE}
        if not called <= fields["batch_sizes"].keys():
            raise ValueError(
                f"{_WHAT}: expected batch_sizes of {', '.join(sorted(called))}, received "
                f"{quoted(fields['batch_sizes'])}. Export the model again."
            )
        fields["variables"] = {name: tuple(shape) for name, shape in fields["variables"].items()}
        return cls(**fields)


def _check_preprocessing(fields: dict[str, Any], channels: int) -> None:
    given = len(Preprocessing(**fields).mean)
    if given != channels:
        raise ValueError(
            f"{_WHAT}: expected preprocessing of its images' {channels} channels, received that of "
            f"{given}. Export the model again."
        )


def _is_count(value) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _are_sizes(value) -> bool:
    return isinstance(value, dict) and all(_is_count(size) and size for size in value.values())


def _are_shapes(value) -> bool:
    return isinstance(value, dict) and all(
        isinstance(shape, list)
        and len(shape) <= _MAX_AXES
        and all(map(_is_count, shape))
        and math.prod(shape) <= _MAX_COUNT
        for shape in value.values()
    )


def _are_rates(value) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(map(is_number, value))
        and 0 < value[0] <= value[1] <= 1
    )


def _is_object(value) -> bool:
    return isinstance(value, dict)


_COUNT = (f"a whole number from 0 to {_MAX_COUNT:,}", _is_count)
_TEXT = ("text", is_text)
_HASH = ("a SHA-256 in 64 lower-case hexadecimal digits", is_hash)
# JSON types of the fields; the architecture and the space check their own fields.
_TYPES = {
    "supernet_hash": _HASH,
    "round": _COUNT,
    "class_names": ("a list of names", are_texts),
    "preprocessing": ("an object", _is_object),
    "training": ("an object", _is_object),
    "batch_sizes": ("an object of whole numbers from 1", _are_sizes),
    "variables": ("an object of shapes", _are_shapes),
    "parameters": _COUNT,
    "macs": ("a whole number from 0", lambda value: type(value) is int and value >= 0),
    "precision": (f"one of {', '.join(PRECISIONS)}", PRECISIONS.__contains__),
    "classifier": (f"one of {', '.join(CLASSIFIERS)}", CLASSIFIERS.__contains__),
    "feature_rates": ("two ascending numbers above 0 and of at most 1", _are_rates),
}


def append_metadata(model: bytes, metadata: ModelMetadata) -> bytes:
    """Returns the bytes of the file: the model followed by its metadata.

    Raises:
      ValueError: If readers would not accept the metadata.
    """
    ModelMetadata.from_json(metadata.to_json())
    file = io.BytesIO(model)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        texts = {ENTRY: metadata.to_json(), HASH_ENTRY: hashlib.sha256(model).hexdigest()}
        for name, text in texts.items():
            if len(text.encode()) > _MAX_BYTES:
                raise ValueError(
                    f"{_WHAT}: expected at most {_MAX_BYTES:,} bytes, received "
                    f"{len(text.encode()):,}. Give the classes shorter names."
                )
            # With a fixed date, the same export always gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return file.getvalue()


def read_metadata(path: str | os.PathLike) -> ModelMetadata:
    """Reads the metadata of an exported `.tflite` and checks the hash of its model.

    Raises:
      ValueError: If the file is missing, damaged or was not exported by this package.
    """
    return split_model(path)[1]


def split_model(path: str | os.PathLike) -> tuple[bytes, ModelMetadata]:
    """Reads the model and the metadata of an exported `.tflite`; see `read_metadata`."""
    expected = f"a .tflite that fedsup export wrote, with {ENTRY} behind the model"
    with reading(path, expected, "Export it again or copy it whole."):
        data = read_bytes(path, "a .tflite file", _MAX_MODEL_BYTES)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [archive.getinfo(name) for name in (ENTRY, HASH_ENTRY)]
            if max(entry.file_size for entry in entries) > _MAX_BYTES:
                raise zipfile.BadZipFile(f"an entry is larger than {_MAX_BYTES} bytes")
            text, digest = (archive.read(entry).decode("utf-8") for entry in entries)
        model = data[: min(entry.header_offset for entry in entries)]
        if hashlib.sha256(model).hexdigest() != digest:
            raise zipfile.BadZipFile(f"the model's bytes are not those of {HASH_ENTRY}")
        return model, ModelMetadata.from_json(text)
