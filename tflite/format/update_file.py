"""The update file that a phone sends back: the change of its subnet's weights, in safetensors.

The file is what any safetensors writer makes, and simple enough to write without one:

    8 bytes       length N of the header, an unsigned little-endian whole number
    N bytes       the header, a JSON object in UTF-8; it may end in spaces
    the rest      the tensors' values, float32, little-endian, row-major, without gaps

    {"__metadata__": {"fedsup-tf": TEXT},
     "stem/kernel": {"dtype": "F32", "shape": [3, 3, 1, 16], "data_offsets": [0, 576]}, ...}

`data_offsets` are a tensor's first byte and the one after its last, counted from the header's end.
The tensors are trained minus received weights: all that the subnet has, under the supernet's names
and of the subnet's shapes. Safetensors allows text alone as metadata, so TEXT is JSON in a string:

    {"kind": "fedsup-tf update", "version": 1, "metadata": {
      "architecture": {"widths": [16, 32], "depths": [1, 1], "kernels": [3, 3]},
      "base_hash": "64 hexadecimal digits", "base_round": 60, "examples": 120,
      "loss_before": 1.93, "loss_after": 0.71, "class_names": ["cat", "dog"],
      "client": "any text, or null, or left out"}}

The architecture is that of the model's metadata, `base_hash` its `supernet_hash`, `base_round` its
`round`, `class_names` its `class_names`: label 0 is a cat here. Files of earlier versions have no
`class_names`. What the model keeps frozen, such as mean squares, is no part of an update.

Reading trusts nothing: a file's size is bounded, and its names, shapes and types are compared with
those of the architecture that it declares before room is made for its values.
"""

import dataclasses
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.files import checkpoint
from fedsup_tf.files.json_schema import expect_keys, quoted
from fedsup_tf.files.reading import reading
from fedsup_tf.files.validation import check_tensors, check_whole_number
from fedsup_tf.search.costs import count_parameters
from fedsup_tf.space import SearchSpace

# A subnet's tensors by name with their shapes, absent ones left out.
SubnetShapes = Callable[[Architecture], Mapping[str, tuple[int, ...]]]

# Of a Java int, so that a phone can count as far as a server reads.
_MOST = 2**31 - 1
# Room for the names and shapes of the tensors and for the metadata.
_HEADER_BYTES = 2**20
_HASH = re.compile("[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, eq=False)
class DeviceUpdate:
    """The change that one phone's own examples made to its subnet.

    Attributes:
      delta: Trained minus received weights by tensor name, float32, of the subnet's shapes; only
        tensors that the subnet has.
      architecture: The subnet.
      base_hash: `checkpoint.fingerprint` of the supernet that the subnet was cut from.
      base_round: Rounds that this supernet was trained for.
      examples: Number of examples trained on, from 1.
      loss_before: Mean loss on them before training.
      loss_after: Mean loss on them after it.
      class_names: The name of each label that was trained; None if the sender did not tell.
      client: The sender's name, if it has one.
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
        for field, (least, advice) in bounds.items():
            value = getattr(self, field)
            value = check_whole_number(value, field, least, _MOST, what="An update", advice=advice)
            object.__setattr__(self, field, value)
        for field in ("loss_before", "loss_after"):
            value = getattr(self, field)
            if not isinstance(value, float | np.floating) or not np.isfinite(value):
                raise ValueError(
                    f"An update: expected a finite number as {field}, received {quoted(value)}. "
                    "Train with a smaller learning rate and send it anew."
                )
            object.__setattr__(self, field, float(value))
        if not isinstance(self.base_hash, str) or not _HASH.fullmatch(self.base_hash):
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
        # Those that were read were checked at once, which takes a tenth of the time.
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
        """SHA-256 of the delta, the architecture and the base, so that they count once.

        The rest is only told: the same weights under another name are still the same weights.
        """
        content = [self.base_hash, self.architecture.to_json(), checkpoint.fingerprint(self.delta)]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()

    def metadata(self) -> dict[str, Any]:
        """Returns all but the tensors, as the file has it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["delta"]
        return {**fields, "architecture": self.architecture.fields()}


def write_update(path: str | os.PathLike, update: DeviceUpdate) -> None:
    """Writes an update, whole or not at all."""
    checkpoint.write_tensors(path, "update", update.delta, update.metadata())


def read_update(
    path: str | os.PathLike, space: SearchSpace, subnet_shapes: SubnetShapes
) -> DeviceUpdate:
    """Reads an update of a subnet of `space`, from whoever may have sent it.

    Args:
      path: The file.
      space: The search space that the update must be of.
      subnet_shapes: Gives the shapes of an architecture's tensors; only the layers know them, see
        `received.subnet_shapes`.

    Raises:
      ValueError: If the file is not a whole update of this space; the message says why.
    """
    bounds = {"max_bytes": _most_bytes(space), "max_header_bytes": _HEADER_BYTES}
    read = functools.partial(checkpoint.read_tensors, **bounds)
    return _checked_update(read, path, space, subnet_shapes)


def parse_update(
    name: str, data: bytes, space: SearchSpace, subnet_shapes: SubnetShapes
) -> DeviceUpdate:
    """Reads the bytes of an update file as `read_update` does; errors call it by a name.

    Their size is to be bounded by whoever keeps them in memory.
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
def _most_bytes(space: SearchSpace) -> int:
    """Returns the size of the largest update of a space."""
    return most_update_bytes(count_parameters(space, space.largest()))


def most_update_bytes(parameters: int) -> int:
    """Returns the size of the largest update of a subnet with so many parameters."""
    return 4 * parameters + _HEADER_BYTES


def check_shapes(
    shapes: Mapping[str, tuple[int, ...]],
    architecture: Architecture,
    space: SearchSpace,
    subnet_shapes: SubnetShapes,
) -> None:
    """Raises a ValueError unless the tensors are those of that architecture of the space."""
    space.check(architecture)
    what = f"An update of {architecture} in search space {space.name!r}"
    advice = "Send all tensors of the subnet that it declares, and no other."
    check_tensors(shapes, subnet_shapes(architecture), what, advice)


def check_class_names(update: DeviceUpdate, class_names: Sequence[str] | None) -> None:
    """Raises a ValueError if an update's labels are other classes than a supernet's.

    Args:
      update: The update; one that does not tell its names is taken as it is.
      class_names: The supernet's names; None if they are not known.
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
    """Returns the arguments of a `DeviceUpdate` but its tensors, not yet checked by it."""
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
    """Returns a whole number as a fraction: JSON of some languages writes 2.0 as 2."""
    return float(value) if type(value) is int else value
