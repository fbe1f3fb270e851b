"""A stage of a search space: a sequence of blocks and the sizes that they may have."""

import dataclasses

from fedsup_tf.architecture import DIMENSIONS
from fedsup_tf.files.json_schema import quoted, whole_numbers
from fedsup_tf.files.validation import check_choice

# Limits on what is enumerated or allocated, since a space may come from someone else's file. They
# are far beyond what a phone or a server could train.
MAX_VALUE = {"widths": 2**14, "depths": 64, "kernels": 63}
_MAX_CHOICES = 64
MAX_NAME = 200


@dataclasses.dataclass(frozen=True)
class Stage:
    """A sequence of blocks that share a width and a kernel.

    Attributes:
      name: Name of the stage and prefix of its variables' names.
      widths: Allowed numbers of output channels, in ascending order.
      depths: Allowed numbers of blocks, in ascending order.
      kernels: Allowed sides of the square depthwise kernels, odd, in ascending order.
      stride: Stride of the first block; 1 or 2.
    """

    name: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    stride: int = 1

    def __post_init__(self):
        if (
            not isinstance(self.name, str)
            or not self.name.isprintable()
            or not 0 < len(self.name) <= MAX_NAME
            or "/" in self.name
        ):
            raise ValueError(
                f"A stage's name is text of 1 to {MAX_NAME} characters without a /, since it "
                f"begins its tensors' names; received {quoted(self.name)}."
            )
        for dimension in DIMENSIONS:
            values = whole_numbers(getattr(self, dimension), f"Stage {self.name!r}: {dimension}")
            object.__setattr__(self, dimension, values)
            if len(values) > _MAX_CHOICES or max(values) > MAX_VALUE[dimension]:
                raise ValueError(
                    f"Stage {self.name!r}: expected at most {_MAX_CHOICES} {dimension} of up to "
                    f"{MAX_VALUE[dimension]:,}, received {len(values)} of up to {max(values):,}. "
                    "Give smaller ones."
                )
            if list(values) != sorted(set(values)) or values[0] < 1:
                raise ValueError(
                    f"Stage {self.name!r}: expected {dimension} to be rising positive whole "
                    f"numbers, received {list(values)}."
                )
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(
                f"Stage {self.name!r}: expected odd kernels (a smaller kernel is the centre of a "
                f"larger one), received {list(self.kernels)}."
            )
        check_choice(self.stride, "stride", (1, 2), what=f"Stage {self.name!r}")
