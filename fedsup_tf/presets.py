"""Preset search spaces by name, and search spaces loaded from JSON files."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from fedsup_tf.files.json_schema import parse_json, read_json
from fedsup_tf.files.reading import parsing
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage


def fedsup_cifar(classes: int = 10, **changes: Any) -> SearchSpace:
    """Returns the space of the FedSup paper's CIFAR experiments (arXiv 2206.01366, section 4).

    It has 10,368 subnets with 0.16 to 1.86 million parameters, for images of 32 x 32 x 3.

    Args:
      classes: Number of classes.
      **changes: Other fields of the `SearchSpace` to replace.
    """
    kernels = (3, 5, 7)
    fields = dict(
        name="fedsup_cifar",
        image_shape=(32, 32, 3),
        classes=classes,
        stem_width=32,
        stem_stride=2,
        stages=(
            Stage("mb1", (32, 64), (1,), kernels, 1),
            Stage("mb2", (64, 128), (1, 2), kernels, 2),
            Stage("mb3", (128, 256), (1, 2), kernels, 2),
            Stage("mb4", (512, 1024), (1, 2), kernels, 2),
        ),
    )
    return SearchSpace(**{**fields, **changes})


def digits_small(classes: int = 10, **changes: Any) -> SearchSpace:
    """Returns a space of 384 small subnets for 8 x 8 (or larger) grey images.

    Args:
      classes: Number of classes.
      **changes: Other fields of the `SearchSpace` to replace, such as `image_shape`.
    """
    fields = dict(
        name="digits_small",
        image_shape=(8, 8, 1),
        classes=classes,
        stem_width=16,
        stem_stride=1,
        stages=(
            Stage("mb1", (16, 32), (1,), (3, 5), 1),
            Stage("mb2", (32, 64), (1, 2), (3, 5), 2),
            Stage("mb3", (64, 96, 128), (1, 2), (3, 5), 2),
        ),
    )
    return SearchSpace(**{**fields, **changes})


def camera_96(classes: int = 10, **changes: Any) -> SearchSpace:
    """Returns a space of MobileNet-like subnets for camera pictures of 96 x 96 x 3.

    It has 165,888 subnets with 0.43 to 3.50 million parameters, divided evenly between the
    resolutions 48, 64 and 96.

    Args:
      classes: Number of classes.
      **changes: Other fields of the `SearchSpace` to replace.
    """
    fields = dict(
        name="camera_96",
        image_shape=(96, 96, 3),
        classes=classes,
        stem_width=32,
        stem_stride=2,
        resolutions=(48, 64, 96),
        stages=(
            Stage("mb1", (32, 64), (1,), (3, 5), 1),
            Stage("mb2", (64, 128), (1, 2), (3, 5), 2),
            Stage("mb3", (128, 256), (1, 2), (3, 5, 7), 2),
            Stage("mb4", (256, 512), (2, 3, 4), (3, 5, 7), 2),
            Stage("mb5", (512, 1024), (1, 2), (3, 5), 2),
        ),
    )
    return SearchSpace(**{**fields, **changes})


def camera_224(classes: int = 10, **changes: Any) -> SearchSpace:
    """Returns a space of MobileNet-like subnets for camera pictures of 224 x 224 x 3.

    It has 165,888 subnets with 0.43 to 3.50 million parameters, divided evenly between the
    resolutions 112, 160 and 224.

    Args:
      classes: Number of classes.
      **changes: Other fields of the `SearchSpace` to replace.
    """
    stages = camera_96().stages
    strides = (2, 2, 2, 1, 2)
    fields = dict(
        name="camera_224",
        image_shape=(224, 224, 3),
        resolutions=(112, 160, 224),
        stages=tuple(
            dataclasses.replace(stage, stride=stride)
            for stage, stride in zip(stages, strides, strict=True)
        ),
    )
    return camera_96(classes, **{**fields, **changes})


PRESETS = {
    "fedsup_cifar": fedsup_cifar,
    "digits_small": digits_small,
    "camera_96": camera_96,
    "camera_224": camera_224,
}


def load_space(name_or_path: str, **wanted: Any) -> SearchSpace:
    """Returns the preset with the given name, or the space in the given JSON file.

    Args:
      name_or_path: A key of `PRESETS`, or the path of a file in the format of
        `SearchSpace.to_json`.
      **wanted: Required values of fields such as `classes` or `image_shape`; None accepts any
        value. A preset is created with them; in a file, they only supply the fields that it omits.

    Raises:
      ValueError: If `name_or_path` is neither, the file does not hold a valid space, or a field of
        the file differs from the required value.
    """
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if name_or_path in PRESETS:
        return PRESETS[name_or_path](**wanted)
    name_or_path = os.path.expanduser(name_or_path)
    if not os.path.exists(name_or_path) or os.path.isdir(name_or_path):
        raise ValueError(
            f"Expected a search space's name ({', '.join(PRESETS)}) or the path of its JSON file, "
            f"received {name_or_path!r}, which is neither."
        )
    return read_json(name_or_path, "a search space", lambda text: _wanted_space(text, wanted))


@parsing("A search space")
def _wanted_space(text: str, wanted: Mapping[str, Any]) -> SearchSpace:
    """Parses a space from JSON, taking from `wanted` only the fields that the text omits."""
    fields = parse_json(text, "A search space")
    space = SearchSpace.from_fields({**wanted, **fields})
    for name, value in wanted.items():
        own = getattr(space, name)
        if own != (tuple(value) if isinstance(value, list) else value):
            raise ValueError(
                f"Search space {space.name!r}: expected {name} {value!r}, received {own!r} in its "
                "file. Fields in a space's file are never overridden: edit the file, or leave the "
                "other value out."
            )
    return space
