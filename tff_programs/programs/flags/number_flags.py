"""Numeric flags with bounds: NaN is refused, and so is infinity unless a flag allows it.

Flags without their own bounds are limited to the range of the types that TensorFlow computes with.
"""

import math
from typing import Any

from absl import flags

# Flags belong to the modules that call these functions.
flags.disclaim_key_flags()

MAX_INTEGER = 2**31 - 1
MAX_SEED = 2**63 - 1
# Largest number of parameters or operations that JSON and NumPy represent exactly.
MAX_COUNT = 2**53
# Range of float32: smaller numbers become 0, greater ones infinite.
_MIN_FLOAT, _MAX_FLOAT = 2.0**-126, 2.0**128 - 2.0**104


class FiniteFloatParser(flags.ArgumentParser):
    """Parses a number within bounds."""

    def __init__(
        self,
        lower_bound: float | None = None,
        upper_bound: float | None = None,
        above: float | None = None,
        below: float | None = None,
        allow_infinity: bool = False,
    ):
        """Creates the parser.

        Args:
          lower_bound: Minimum, inclusive.
          upper_bound: Maximum, inclusive.
          above: Lower bound, exclusive.
          below: Upper bound, exclusive.
          allow_infinity: Whether infinity is accepted.
        """
        super().__init__()
        self._tests = [
            (f"from {lower_bound:g}", lambda value: value >= lower_bound)
            if lower_bound is not None
            else None,
            (f"above {above:g}", lambda value: value > above) if above is not None else None,
            (f"below {below:g}", lambda value: value < below) if below is not None else None,
            (f"up to {upper_bound:g}", lambda value: value <= upper_bound)
            if upper_bound is not None
            else None,
        ]
        self._tests = [test for test in self._tests if test is not None]
        self._allow_infinity = allow_infinity
        kind = "a number or infinity" if allow_infinity else "a finite number"
        bounds = " and ".join(text for text, _ in self._tests)
        self.syntactic_help = f"{kind} {bounds}".strip()

    def flag_type(self) -> str:
        """Returns the name of the type for the flag's help."""
        return "float"

    def parse(self, argument: Any) -> float:
        """Returns the parsed number.

        Raises:
          ValueError: If the argument is not a number, or out of bounds.
        """
        try:
            value = float(argument)
        except (TypeError, ValueError):
            value = math.nan
        is_number = not math.isnan(value) and (self._allow_infinity or math.isfinite(value))
        if (
            isinstance(argument, bool)
            or not is_number
            or not all(holds(value) for _, holds in self._tests)
        ):
            raise ValueError(f"expected {self.syntactic_help}, received {argument!r}")
        if value and math.isfinite(value) and not _MIN_FLOAT <= abs(value) <= _MAX_FLOAT:
            raise ValueError(
                f"expected 0 or a number of float32, from {_MIN_FLOAT:.2g} to "
                f"{_MAX_FLOAT:.2g}, received {argument!r}"
            )
        return value


def define_float(
    name: str,
    default: float | None,
    help: str,
    flag_values: flags.FlagValues,
    **bounds: Any,
) -> None:
    """Defines a floating-point flag.

    Args:
      name: Name of the flag.
      default: Default value.
      help: Help text.
      flag_values: Flags to add it to.
      **bounds: Arguments of `FiniteFloatParser`.
    """
    flags.DEFINE(
        FiniteFloatParser(**bounds),
        name,
        default,
        help,
        flag_values=flag_values,
        serializer=flags.ArgumentSerializer(),
    )


def define_integer(
    name: str,
    default: int | None,
    help: str,
    flag_values: flags.FlagValues,
    lower_bound: int,
    upper_bound: int = MAX_INTEGER,
) -> None:
    """Defines an integer flag.

    Args:
      name: Name of the flag.
      default: Default value.
      help: Help text.
      flag_values: Flags to add it to.
      lower_bound: Minimum, inclusive.
      upper_bound: Maximum, inclusive.
    """
    flags.DEFINE_integer(
        name,
        default,
        help,
        flag_values=flag_values,
        lower_bound=lower_bound,
        upper_bound=upper_bound,
    )
