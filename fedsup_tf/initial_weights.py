"""Initial weights of a supernet from another trained one: what fits by name and slice."""

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
_MOST_NAMES = 6


class InitialWeights(NamedTuple):
    """Weights of a supernet before its first round, and where they are from.

    Attributes:
      values: Every tensor of the supernet by name.
      whole: Names of the tensors that are the other supernet's.
      sliced: Names of those that have the part that both supernets hold from the other one.
      new: Names of those that begin at random.
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
    """Takes over another supernet's weights, as far as both supernets have them.

    A tensor of the same name is taken over in the part that both hold: the leading channels, and
    the centre of a depthwise kernel, as subnets are cut. What is left begins at random. So does the
    first convolution where the images have other channels, and the classifier where the classes
    are others.

    Args:
      space: Search space of the supernet that begins.
      source: The trained supernet.
      seed: Seed of the weights that begin at random.
      same_classes: Whether the classes mean the same; if their number differs, they do not.

    Returns:
      The weights, and the names of what was taken over.

    Raises:
      ValueError: If the supernets normalize differently, or no stage of one is in the other.
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
    """Takes over the weights of a supernet's checkpoint, see `take_initial_weights`.

    Args:
      path: The checkpoint.
      space: Search space of the supernet that begins.
      class_names: Its classes. If the checkpoint names others, the classifier begins at random; by
        default only if their number differs.
      seed: Seed of the weights that begin at random.

    Returns:
      The weights, and the names of what was taken over.

    Raises:
      InvalidFileError: If the file is no whole supernet, or none whose weights fit; the message
        names it.
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
    """Returns the part that two forms of a tensor share, as a slice of each."""
    size = tuple(map(min, own, given))
    # The axes before a convolution's channels are the sides of its kernel, which are centred.
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
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f" ({', '.join(names[:_MOST_NAMES])}{more})"
