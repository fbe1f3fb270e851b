"""Initial weights of a supernet, copied from another trained one by tensor name and slice."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.files.reading import reading
from fedsup_tf.slicing import Slice
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet

_HEAD = ("head/kernel", "head/bias")
_MAX_NAMES = 6


class InitialWeights(NamedTuple):
    """Weights of a supernet before its first round, and their origin.

    Attributes:
      values: Every tensor of the supernet, by name.
      whole: Names of the tensors copied whole from the other supernet.
      sliced: Names of the tensors copied only in the part that both supernets contain.
      new: Names of the randomly initialized tensors.
      source_hash: `checkpoint.fingerprint` of the other supernet's weights.
    """

    values: dict[str, np.ndarray]
    whole: tuple[str, ...]
    sliced: tuple[str, ...]
    new: tuple[str, ...]
    source_hash: str

    def __str__(self):
        parts = [f"{len(self.whole)} of {len(self.values)} tensors taken whole"]
        for names, what in ((self.sliced, "in part"), (self.new, "left new")):
            parts.append(f"{len(names)} {what}{_listed(names)}")
        return f"Initial weights: {', '.join(parts)}."


def take_initial_weights(
    space: SearchSpace, source: Supernet, seed: int = 0, same_classes: bool = True
) -> InitialWeights:
    """Copies another supernet's weights as far as both supernets contain them.

    Tensors with the same name are copied in the part that both contain, cut as subnets are: the
    leading channels, and the centre of a depthwise kernel. The remainder is initialized at random.
    So is the first convolution if the number of image channels differs, and the classifier if the
    classes differ.

    Args:
      space: Search space of the new supernet.
      source: The trained supernet.
      seed: Seed of the random initialization.
      same_classes: Whether both supernets have the same classes; ignored if their numbers of
        classes differ.

    Returns:
      The weights, and the names of the copied and the new tensors.

    Raises:
      ValueError: If the normalizations differ, or the supernets have no stage in common.
    """
    if source.space.normalization != space.normalization:
        raise ValueError(
            f"Expected initial weights of a supernet with {space.normalization} normalization, "
            f"received one with {source.space.normalization}. Give the space this normalization, "
            "or initial weights of the other."
        )
    given = source.values_by_name()
    own = Supernet(space, seed).values_by_name()
    left = set()
    if source.space.image_shape[2] != space.image_shape[2]:
        left.add("stem/kernel")
    if not same_classes or source.space.classes != space.classes:
        left |= set(_HEAD)
    values, whole, sliced, new = {}, [], [], []
    for name, value in own.items():
        if name in left or name not in given:
            new.append(name)
        elif given[name].shape == value.shape:
            value = given[name]
            whole.append(name)
        else:
            into, part = _overlap(value.shape, given[name].shape)
            value = value.copy()
            value[into.indices()] = given[name][part.indices()]
            sliced.append(name)
        values[name] = value
    outside = ("stem/", "stem_norm/", "head/")
    if not any(not name.startswith(outside) for name in (*whole, *sliced)):
        stages = [stage.name for stage in space.stages]
        raise ValueError(
            f"Expected initial weights of a supernet with some of the stages {', '.join(stages)}, "
            f"received one with {', '.join(stage.name for stage in source.space.stages)}. Give a "
            "supernet of the same search space."
        )
    return InitialWeights(values, tuple(whole), tuple(sliced), tuple(new), fingerprint(given))


def load_initial_weights(
    path: str | os.PathLike,
    space: SearchSpace,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
) -> InitialWeights:
    """Copies the weights of a supernet's checkpoint (see `take_initial_weights`).

    Args:
      path: Path of the checkpoint.
      space: Search space of the new supernet.
      class_names: Class names of the new supernet. If the checkpoint has others, the classifier is
        initialized at random; by default, only if the number of classes differs.
      seed: Seed of the random initialization.

    Returns:
      The weights, and the names of the copied and the new tensors.

    Raises:
      InvalidFileError: If the file is not a complete supernet or its weights do not fit; the
        message names the file.
    """
    source, information = Supernet.load_checkpoint(path)
    with reading(path, "a supernet of the same search space"):
        same = _are_same(information, class_names)
        return take_initial_weights(space, source, seed, same)


def _are_same(information: Mapping, class_names: Sequence[str] | None) -> bool:
    before = information.get("class_names")
    if before is None or class_names is None:
        return True
    return list(before) == list(class_names)


def _overlap(own: Sequence[int], given: Sequence[int]) -> tuple[Slice, Slice]:
    """Returns the part that two tensors of the given shapes share, as a slice of each."""
    size = tuple(map(min, own, given))
    # The axes before a convolution's channels are the sides of its kernel, which is centred.
    sides = len(size) - 2 if len(size) == 4 else 0

    def centred(shape):
        begin = (
            (shape[axis] - size[axis]) // 2 if axis < sides else 0 for axis in range(len(size))
        )
        return Slice(tuple(begin), size)

    return centred(own), centred(given)


def _listed(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f" ({', '.join(names[:_MAX_NAMES])}{more})"
