"""Limits on the costs of an architecture (`Budget`), and their computation (`CostModel`)."""

import dataclasses
import functools
import math

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.files.validation import check_number, check_whole_number
from fedsup_tf.search import costs
from fedsup_tf.search.cost_parts import Part, parts_of
from fedsup_tf.search.latency import LatencyTable
from fedsup_tf.space import SearchSpace

_FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Budget:
    """Upper limits on the costs of an architecture; None for no limit.

    Attributes:
      parameters: Number of trainable parameters.
      macs: Number of multiply-accumulate operations for one image.
      file_bytes: Size of the `.tflite` file in bytes.
      train_memory_bytes: Peak memory of a training step in bytes.
      infer_latency_ms: Latency of an inference in milliseconds.
      train_latency_ms: Latency of a training step in milliseconds.

    Raises:
      ValueError: If a limit is not a finite number above 0.

    Example:
      >>> from fedsup_tf import Budget
      >>> Budget(parameters=30_000, macs=1e6).limits
      {'parameters': 30000, 'macs': 1000000.0}
    """

    parameters: float | None = None
    macs: float | None = None
    file_bytes: float | None = None
    train_memory_bytes: float | None = None
    infer_latency_ms: float | None = None
    train_latency_ms: float | None = None

    def __post_init__(self):
        for name, limit in dataclasses.asdict(self).items():
            if limit is not None:
                advice = "Give None for no limit."
                check_number(limit, name, above=0, what="A budget", advice=advice)

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are not None, by name."""
        return {name: limit for name, limit in dataclasses.asdict(self).items() if limit}


COSTS = tuple(field.name for field in dataclasses.fields(Budget))


class CostModel:
    """Computes the costs named in `COSTS` for the architectures of a search space.

    Every cost is a sum over the parts of an architecture (`cost_parts`):

    - `parameters`, `macs`: computed by `costs.part_cost`.
    - `file_bytes`: the upper bound that `fedsup certify` checks, computed from
      `costs.FILE_BYTES_PER_PARAMETER`, `costs.FILE_OVERHEAD_BYTES`, `costs.FILE_BYTES_PER_BLOCK`
      and `costs.constant_bytes`, and rounded up for each part. The signature `train_head`
      adds up to `costs.train_head_bytes`.
    - `train_memory_bytes`: an estimate from the sizes of the feature maps. Between the forward and
      the backward pass, memory holds the weights, their momenta, and all feature maps that a
      gradient needs: the input of each convolution, and the input and output of each
      normalization. The gradients of the weights are counted too, although they are allocated while
      feature maps are freed. Temporary memory of operations and the interpreter itself are not
      counted.
    - `infer_latency_ms`, `train_latency_ms`: sums of a `LatencyTable`'s rows; available only with a
      table.

    Example:
      >>> from fedsup_tf import CostModel, fedsup_cifar
      >>> space = fedsup_cifar()
      >>> CostModel(space).costs(space.smallest())["parameters"]
      163946
    """

    def __init__(
        self, space: SearchSpace, latencies: LatencyTable | None = None, train_batch_size: int = 16
    ):
        """Creates the cost model of `space`.

        Args:
          space: The search space of the architectures.
          latencies: Latency table of a device, measured for the same space.
          train_batch_size: Batch size of a training step, for `train_memory_bytes`.

        Raises:
          ValueError: If the table is for another space, or the batch size is below 1.
        """
        check_whole_number(train_batch_size, "train_batch_size", 1)
        if latencies is not None:
            latencies.check_space(space)
        self.space = space
        self.latencies = latencies
        self.train_batch_size = train_batch_size
        self.names = COSTS if latencies is not None else COSTS[:4]
        self._part = functools.cache(self._uncached_part)

    def costs(self, architecture: Architecture) -> dict[str, int | float]:
        """Computes all available costs of an architecture, by name."""
        total = self.vector(architecture)
        return {
            name: float(value) if name.endswith("_ms") else int(value)
            for name, value in zip(self.names, total, strict=True)
        }

    def vector(self, architecture: Architecture) -> np.ndarray:
        """Computes the costs of an architecture in the order of `names`, `(costs,)`, float64."""
        vectors = [self.part(part) for part in parts_of(self.space, architecture)]
        # Sums from the head to the stem as `constraints` does, so that both round identically.
        return functools.reduce(lambda total, part: part + total, reversed(vectors))

    def part(self, part: Part) -> np.ndarray:
        """Computes the contribution of a part to each cost, `(costs,)` in the order of `names`."""
        return self._part(part)

    def _uncached_part(self, part: Part) -> np.ndarray:
        cost = costs.part_cost(self.space, part)
        maps = {"stem": self._stem_maps, "stage": self._stage_maps, "head": self._head_maps}
        values = maps[part.kind](part)
        overhead = costs.FILE_OVERHEAD_BYTES if part.kind == "stem" else 0
        if part.kind == "stage":
            overhead += costs.FILE_BYTES_PER_BLOCK * part.depth
        overhead += costs.constant_bytes(self.space, part)
        vector = [
            cost.parameters,
            cost.macs,
            math.ceil(costs.FILE_BYTES_PER_PARAMETER * cost.parameters) + overhead,
            # Weights, momenta, gradients.
            _FLOAT_BYTES * (3 * cost.parameters + self.train_batch_size * values),
        ]
        if self.latencies is not None:
            vector += self.latencies.rows[part]
        return np.array(vector, np.float64)

    # The methods below count the feature-map values per image that the backward pass needs. The
    # output of a part is counted as the input of the next one.

    @property
    def _maps_of_a_norm(self) -> int:
        """Number of feature maps that a normalization keeps in addition to its output."""
        return 1 if self.space.normalization == "parametric" else 2

    def _stem_maps(self, part: Part) -> int:
        image = math.prod(self.space.image_shape_at(part.resolution))
        pixels = math.prod(costs.map_size(self.space, 0, part.resolution))
        return image + self._maps_of_a_norm * pixels * self.space.stem_width

    def _stage_maps(self, part: Part) -> int:
        in_pixels = math.prod(costs.map_size(self.space, part.stage, part.resolution))
        pixels = math.prod(costs.map_size(self.space, part.stage + 1, part.resolution))
        in_width, width = part.in_width, part.width
        values = 0
        for _ in range(part.depth):
            values += in_pixels * in_width
            # The first normalization, including its output, the pointwise convolution's input.
            values += (self._maps_of_a_norm + 1) * pixels * in_width
            values += self._maps_of_a_norm * pixels * width
            if in_width != width and in_pixels != pixels:
                # The pooled input of the shortcut's convolution.
                values += pixels * in_width
            in_pixels, in_width = pixels, width
        return values

    def _head_maps(self, part: Part) -> int:
        last = len(self.space.stages)
        pixels = math.prod(costs.map_size(self.space, last, part.resolution))
        return (pixels + 1) * part.in_width + self.space.classes
