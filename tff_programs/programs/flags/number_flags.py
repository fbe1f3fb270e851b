"""Flags of numbers with bounds: NaN is no number, and infinity only where a flag allows it.

A flag without bounds of its own has those of the types that TensorFlow computes with.
"""

import math
from typing import Any

from absl import flags

# Flags belong to the module that defines them through here.
flags.disclaim_key_flags()

MOST_INTEGER = 2**31 - 1
MOST_SEED = 2**63 - 1
# Counts of a net's parts, which JSON and NumPy hold exactly.
MOST_COUNT = 2**53
# Of float32: smaller ones are 0 there, greater ones infinite.
_LEAST_FLOAT, _MOST_FLOAT = 2.0**-126, 2.0**128 - 2.0**104


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
        """Makes a parser.

        Args:
          lower_bound: Least number.
          upper_bound: Greatest number.
          above: Number that is itself too small.
          below: Number that is itself too large.
          allow_infinity: Whether infinity is a number here.
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
        """Returns the name of the type in a flag's help."""
        return "float"

    def parse(self, argument: Any) -> float:
        """Returns the number.

        Raises:
          ValueError: If it is not a number, or out of bounds.
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
        if value and math.isfinite(value) and not _LEAST_FLOAT <= abs(value) <= _MOST_FLOAT:
            raise ValueError(
                f"expected 0 or a number of float32, from {_LEAST_FLOAT:.2g} to "
                f"{_MOST_FLOAT:.2g}, received {argument!r}"
            )
        return value


def define_float(
    name: str,
    default: float | None,
    help: str,
    flag_values: flags.FlagValues,
    **bounds: Any,
) -> None:
    """Defines a flag of a number.

    Args:
      name: The flag's name.
      default: Its value where it is not given.
      help: What it is for.
      flag_values: Where it is defined.
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
    upper_bound: int = MOST_INTEGER,
) -> None:
    """Defines a flag of a whole number.

    Args:
      name: The flag's name.
      default: Its value where it is not given.
      help: What it is for.
      flag_values: Where it is defined.
      lower_bound: Least number.
      upper_bound: Greatest number.
    """
    flags.DEFINE_integer(
        name,
        default,
        help,
        flag_values=flag_values,
        lower_bound=lower_bound,
        upper_bound=upper_bound,
    )
