"""Frozen parts of a net: first convolution, stages or classifier that training does not change."""

from collections.abc import Collection

from fedsup_tf.files.json_schema import quoted
from fedsup_tf.space import SearchSpace

_STEM, _HEAD = "stem", "head"


def parts_to_freeze(space: SearchSpace) -> tuple[str, ...]:
    """Returns the names of a net's parts that can be frozen, from the image to the classifier."""
    return (_STEM, *(stage.name for stage in space.stages), _HEAD)


def is_frozen(name: str, frozen: Collection[str]) -> bool:
    """Returns whether a tensor belongs to a frozen part.

    Args:
      name: Name of the tensor, such as `"mb1_0/depthwise/kernel"`.
      frozen: Names of the frozen parts.
    """
    layer = name.partition("/")[0]
    # The first convolution's layers are stem and stem_norm; a stage's blocks end with their number.
    return (layer if layer in (_STEM, _HEAD) else layer.rpartition("_")[0]) in frozen


def check_frozen(space: SearchSpace, frozen: Collection[str]) -> None:
    """Raises a ValueError unless all names are unambiguous parts and some part is not frozen."""
    parts = parts_to_freeze(space)
    unknown = [name for name in frozen if name not in parts]
    if unknown:
        raise ValueError(
            f"Expected frozen parts of {', '.join(parts)}, which search space {space.name!r} has, "
            f"received {quoted(', '.join(unknown))}. Name some of these."
        )
    ambiguous = [name for name in frozen if parts.count(name) > 1]
    if ambiguous:
        raise ValueError(
            f"Expected frozen parts of one meaning each, received {quoted(', '.join(ambiguous))}: "
            f"search space {space.name!r} has a stage of that name too. Rename the stage."
        )
    if set(parts) <= set(frozen):
        raise ValueError(
            f"Expected a part of {', '.join(parts)} that is trained, received all of them as "
            "frozen. Leave one out."
        )


def untrained_parts(frozen: Collection[str], new: Collection[str] | None) -> tuple[str, ...]:
    """Returns the frozen parts that have randomly initialized tensors, which are never trained.

    Args:
      frozen: Names of the frozen parts.
      new: Names of the randomly initialized tensors; None for all.
    """
    if new is None:
        return tuple(frozen)
    return tuple(part for part in frozen if any(is_frozen(name, (part,)) for name in new))
