"""The update file that a phone sends back: the change of its subnet's weights, in safetensors.

Any safetensors library can write this file, and the format is simple enough to write without one:

    8 bytes       length N of the header, an unsigned little-endian integer
    N bytes       the header, a JSON object in UTF-8; it may end in spaces
    the rest      the tensors' values, float32, little-endian, row-major, without gaps

    {"__metadata__": {"fedsup-tf": TEXT},
     "stem/kernel": {"dtype": "F32", "shape": [3, 3, 1, 16], "data_offsets": [0, 576]}, ...}

`data_offsets` are the offsets of a tensor's first byte and of the byte after its last, counted from
the end of the header. The tensors are trained minus received weights: all tensors of the subnet,
with the supernet's names and the subnet's shapes. Since safetensors metadata can only be text, TEXT
is JSON in a string:

    {"kind": "fedsup-tf update", "version": 1, "metadata": {
      "architecture": {"widths": [16, 32], "depths": [1, 1], "kernels": [3, 3]},
      "base_hash": "64 hexadecimal digits", "base_round": 60, "examples": 120,
      "loss_before": 1.93, "loss_after": 0.71, "class_names": ["cat", "dog"],
      "client": "any text, or null, or left out"}}

The architecture, `base_hash`, `base_round` and `class_names` are copied from the `architecture`,
`supernet_hash`, `round` and `class_names` of the model's metadata; here, label 0 is a cat. Files of
earlier versions have no `class_names`. Frozen mean squares are not part of an update.

Reading trusts nothing: a file's size is bounded, and its names, shapes and types are compared with
those of the architecture that it declares before memory is allocated for its values.
"""

import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.files import checkpoint
from fedsup_tf.files.json_schema import expect_keys, is_hash, quoted
from fedsup_tf.files.reading import reading
from fedsup_tf.files.validation import check_tensors, check_whole_number
from fedsup_tf.search.costs import count_parameters
from fedsup_tf.space import SearchSpace

# Maps an architecture to the shapes of its subnet's tensors by name, without absent tensors.
SubnetShapes = Callable[[Architecture], Mapping[str, tuple[int, ...]]]

# Maximum count: the largest Java int, which a phone can count to.
_MOST = 2**31 - 1
# Maximum size of the header: names and shapes of the tensors, and the metadata.
_HEADER_BYTES = 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class DeviceUpdate:
    """Change of a subnet's weights by training on one phone's examples.

    Attributes:
      delta: Trained minus received weights by tensor name, float32, with the subnet's shapes; only
        tensors that the subnet has.
      architecture: Architecture of the subnet.
      base_hash: `checkpoint.fingerprint` of the supernet that the subnet was extracted from.
      base_round: Number of rounds that this supernet was trained for.
      examples: Number of training examples, at least 1.
      loss_before: Mean loss on these examples before training.
      loss_after: Mean loss on these examples after training.
      client: Name of the client, if any.
      class_names: Name of each label in training; None if the client did not report them.
    """

    delta: Mapping[str, np.ndarray]
    architecture: Architecture
    base_hash: str
    base_round: int
    examples: int
    loss_before: float
    loss_after: float
    client: str | None = None
    class_names: tuple[str, ...] | None = None

    def __post_init__(self):
        bounds = {
            "base_round": (0, "Copy it from the metadata of the model."),
            "examples": (1, "Train on at least one example and send it anew."),
        }
        for field, (minimum, advice) in bounds.items():
            value = getattr(self, field)
            value = check_whole_number(
                value, field, minimum, _MOST, what="An update", advice=advice
            )
            object.__setattr__(self, field, value)
        for field in ("loss_before", "loss_after"):
            value = getattr(self, field)
            if not isinstance(value, float | np.floating) or not np.isfinite(value):
                raise ValueError(
                    f"An update: expected a finite number as {field}, received {quoted(value)}. "
                    "Train with a smaller learning rate and send it anew."
                )
            object.__setattr__(self, field, float(value))
        if not is_hash(self.base_hash):
            raise ValueError(
                "An update: expected base_hash as 64 hexadecimal digits, received "
                f"{quoted(self.base_hash)}. Copy it from the metadata of the model."
            )
        if self.client is not None and not isinstance(self.client, str):
            raise ValueError(
                f"An update: expected text or nothing as client, received {quoted(self.client)}. "
                "Send it anew."
            )
        if self.class_names is not None and not _are_texts(self.class_names):
            raise ValueError(
                "An update: expected a tuple of names as class_names, or nothing, received "
                f"{quoted(self.class_names)}. Copy them from the metadata of the model."
            )
        # Tensors read from a file were checked all together, in a tenth of the time.
        unchecked = {} if isinstance(self.delta, checkpoint.FiniteTensors) else self.delta
        for name, value in unchecked.items():
            if value.dtype != np.float32 or not np.isfinite(value).all():
                received = value.dtype if value.dtype != np.float32 else "NaN or infinity"
                raise ValueError(
                    f"An update: expected finite float32 values in tensor {name!r}, received "
                    f"{received}. Train with a smaller learning rate and send it anew."
                )

    @functools.cached_property
    def identity(self) -> str:
        """SHA-256 of the delta, the architecture and the base hash, to recognize duplicates.

        The other fields are not hashed: the same weights from another client are still duplicates.
        """
        content = [self.base_hash, self.architecture.to_json(), checkpoint.fingerprint(self.delta)]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()

    def metadata(self) -> dict[str, Any]:
        """Returns all fields but `delta`, as the file stores them."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["delta"]
        return {**fields, "architecture": self.architecture.fields()}


def write_update(path: str | os.PathLike, update: DeviceUpdate) -> None:
    """Atomically writes an update."""
    checkpoint.write_tensors(path, "update", update.delta, update.metadata())


def read_update(
    path: str | os.PathLike, space: SearchSpace, subnet_shapes: SubnetShapes
) -> DeviceUpdate:
    """Reads an update of a subnet of `space` from an untrusted file.

    Args:
      path: File to read.
      space: Search space that the update must belong to.
      subnet_shapes: Function that returns the shapes of an architecture's tensors by name, such as
        `received_updates.subnet_shapes` of a supernet.

    Raises:
      ValueError: If the file is not a complete update of this space; the message says why.
    """
    bounds = {"max_bytes": _max_bytes(space), "max_header_bytes": _HEADER_BYTES}
    read = functools.partial(checkpoint.read_tensors, **bounds)
    return _checked_update(read, path, space, subnet_shapes)


def parse_update(
    name: str, data: bytes, space: SearchSpace, subnet_shapes: SubnetShapes
) -> DeviceUpdate:
    """Parses the bytes of an update file as `read_update` does; errors refer to it by `name`.

    The caller has to limit the size of `data`.
    """

    def read(name, kind, check):
        return checkpoint.parse_tensors(name, data, kind, check, _HEADER_BYTES)

    return _checked_update(read, name, space, subnet_shapes)


def _checked_update(
    read: Callable, path: str | os.PathLike, space: SearchSpace, subnet_shapes: SubnetShapes
) -> DeviceUpdate:
    fields = {}

    def check(metadata, forms):
        fields.update(_fields(metadata))
        types = {name: form.dtype for name, form in forms.items()}
        wrong = sorted(name for name, dtype in types.items() if dtype != "F32")
        if wrong:
            raise ValueError(
                f"An update: expected tensors of type F32, received {types[wrong[0]]} for "
                f"{quoted(wrong[0])}. Send float32 values."
            )
        shapes = {name: form.shape for name, form in forms.items()}
        check_shapes(shapes, fields["architecture"], space, subnet_shapes)

    with reading(path, "an update"):
        delta, _ = read(path, "update", check)
        return DeviceUpdate(delta=delta, **fields)


@functools.lru_cache(maxsize=16)
def _max_bytes(space: SearchSpace) -> int:
    """Returns the maximum size in bytes of an update of any subnet of a space."""
    return max_update_bytes(count_parameters(space, space.largest()))


def max_update_bytes(parameters: int) -> int:
    """Returns the maximum size in bytes of an update of a subnet with `parameters` parameters."""
    return 4 * parameters + _HEADER_BYTES


def check_shapes(
    shapes: Mapping[str, tuple[int, ...]],
    architecture: Architecture,
    space: SearchSpace,
    subnet_shapes: SubnetShapes,
) -> None:
    """Raises a ValueError unless `shapes` are those of the architecture's tensors in the space."""
    space.check(architecture)
    what = f"An update of {architecture} in search space {space.name!r}"
    advice = "Send all tensors of the subnet that it declares, and no other."
    check_tensors(shapes, subnet_shapes(architecture), what, advice)


def check_class_names(update: DeviceUpdate, class_names: Sequence[str] | None) -> None:
    """Raises a ValueError if the class names of an update differ from those of the supernet.

    Args:
      update: Update to check; an update without class names is accepted.
      class_names: Class names of the supernet; None to accept any.
    """
    if class_names is None or update.class_names is None:
        return
    pairs = itertools.zip_longest(class_names, update.class_names)
    for label, (expected, received) in enumerate(pairs):
        if expected != received:
            raise ValueError(
                f"Expected an update of the supernet's classes, {len(class_names)} of which "
                f"{label} is {quoted(expected)}, received one of {len(update.class_names)}, of "
                f"which {label} is {quoted(received)}. Merge it into the supernet of its classes."
            )


def _fields(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `DeviceUpdate` except `delta`, which it still has to validate."""
    names = {field.name for field in dataclasses.fields(DeviceUpdate)} - {"delta"}
    expect_keys(metadata, names, names - {"client", "class_names"}, "An update's metadata")
    try:
        architecture = Architecture.from_fields(metadata["architecture"])
        losses = {name: _float(metadata[name]) for name in ("loss_before", "loss_after")}
    except OverflowError as error:
        raise ValueError(
            f"An update: expected finite numbers as losses, received one too large ({error}). "
            "Train with a smaller learning rate and send it anew."
        ) from error
    fields = {**metadata, **losses, "architecture": architecture}
    if isinstance(fields.get("class_names"), list):
        fields["class_names"] = tuple(fields["class_names"])
    return fields


def _are_texts(values: Any) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, str) for value in values)


def _float(value: Any) -> Any:
    """Converts an int to a float, since some languages write 2.0 as 2 in JSON."""
    return float(value) if type(value) is int else value
