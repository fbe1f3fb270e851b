"""What a `.tflite` says about itself: JSON in a zip archive behind the model.

The runtime reads a model from the front and ignores what follows it; a zip archive is read from the
back. So `unzip -p FILE fedsup.json`, Python's zipfile or Java's ZipFile read the metadata without
any code of ours, and the file is still one that the stock runtime loads. The archive's other entry,
`model.sha256`, is the hash of the bytes before the archive in hexadecimal digits: the runtime ends
the process where a damaged model misleads it, so that it must not see one.
"""

import dataclasses
import hashlib
import io
import json
import os
import zipfile
import zlib
from typing import Any

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.json_schema import expect_keys
from fedsup_tf.space import SearchSpace

ENTRY = "fedsup.json"
HASH_ENTRY = "model.sha256"
VERSION = 1
# Far more than any metadata needs.
_MOST_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """Where an exported subnet comes from and how it is used.

    Attributes:
      architecture: The subnet.
      space: The supernet's search space.
      supernet_hash: `checkpoint.fingerprint` of the supernet's weights it was cut from.
      round: Rounds that the supernet was trained.
      class_names: A name for each label.
      preprocessing: What the model does to a uint8 image, the fields of `Preprocessing`.
      training: What a step of `train` does, the fields of `LocalTraining`.
      batch_sizes: Images that a call takes, by signature.
      variables: Shape of each variable by name: the subnet's tensors and the frozen mean squares.
      parameters: Number of trained values.
      macs: Multiply-accumulates for one image.
      precision: What a file that only infers computes with, one of `quantize.PRECISIONS`; such a
        file has no training and no variables. One that trains computes with float32.
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

    def to_json(self) -> str:
        """Returns the metadata as JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["architecture"] = dataclasses.asdict(self.architecture)
        fields["space"] = dataclasses.asdict(self.space)
        return json.dumps({"version": VERSION, **fields}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "ModelMetadata":
        """Reads what `to_json` wrote.

        Raises:
          ValueError: If the text is something else.
        """
        what = "A model's metadata"
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{what}: expected JSON, received {error}.") from error
        names = {field.name for field in dataclasses.fields(cls)}
        if isinstance(fields, dict) and fields.get("version") != VERSION:
            raise ValueError(
                f"{what}: expected version {VERSION}, received {fields.get('version')!r}. Export "
                "the model with this version."
            )
        # Files of before there were others compute with float32.
        expect_keys(fields, names | {"version"}, names - {"precision"} | {"version"}, what)
        del fields["version"]
        fields["architecture"] = Architecture.from_json(json.dumps(fields["architecture"]))
        fields["space"] = SearchSpace.from_json(json.dumps(fields["space"]))
        fields["class_names"] = tuple(fields["class_names"])
        fields["variables"] = {name: tuple(shape) for name, shape in fields["variables"].items()}
        return cls(**fields)


def append_metadata(model: bytes, metadata: ModelMetadata) -> bytes:
    """Returns the file's bytes: the model with its metadata behind it."""
    file = io.BytesIO(model)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        texts = {ENTRY: metadata.to_json(), HASH_ENTRY: hashlib.sha256(model).hexdigest()}
        for name, text in texts.items():
            # A fixed date, so that the same export gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return file.getvalue()


def read_metadata(path: str | os.PathLike) -> ModelMetadata:
    """Reads the metadata of an exported `.tflite`, and checks that its model is whole.

    Raises:
      ValueError: If there is no such file or it is not one that was exported here, undamaged.
    """
    return split_model(path)[1]


def split_model(path: str | os.PathLike) -> tuple[bytes, ModelMetadata]:
    """Reads an exported `.tflite` as the model and its metadata; see `read_metadata`."""
    if not os.path.isfile(path):
        raise ValueError(f"Expected a .tflite file at {str(path)!r}, found none. Check the path.")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [archive.getinfo(name) for name in (ENTRY, HASH_ENTRY)]
            if max(entry.file_size for entry in entries) > _MOST_BYTES:
                raise zipfile.BadZipFile(f"an entry is larger than {_MOST_BYTES} bytes")
            text, expected = (archive.read(entry).decode("utf-8") for entry in entries)
        with open(path, "rb") as file:
            model = file.read(min(entry.header_offset for entry in entries))
        if hashlib.sha256(model).hexdigest() != expected:
            raise zipfile.BadZipFile(f"the model's bytes are not those of {HASH_ENTRY}")
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, OSError, zlib.error) as error:
        raise ValueError(
            f"{str(path)!r}: expected a .tflite that fedsup export wrote, with {ENTRY} behind the "
            f"model, received a file without it or a damaged one ({error}). Export it again or "
            "copy it whole."
        ) from error
    return model, ModelMetadata.from_json(text)
