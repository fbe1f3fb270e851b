"""An update that is included in a merge, with its weight."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsup_tf import slicing
from fedsup_tf.supernet import Supernet
from tflite.merge.cohort import Decision, UpdateSummary
from tflite.merge.influence import Row
from tflite.merge.received_updates import load_update, whole_delta


class WeightedUpdate(NamedTuple):
    """A valid update that is included in a merge.

    Attributes:
      summary: Summary of the update, without its tensors.
      decision: Number of examples and scale with which the update counts.
      weight: Weight of the update in the mean.
    """

    summary: UpdateSummary
    decision: Decision
    weight: float

    def cut_to(self, factor: float) -> "WeightedUpdate":
        """Returns the update with its weight and its delta multiplied by `factor`."""
        if factor == 1:
            return self
        examples = round(factor * self.decision.examples)
        decision = Decision(examples, factor * self.decision.scale)
        return WeightedUpdate(self.summary, decision, float(np.float32(factor * self.weight)))

    def contribution(self, supernet: Supernet) -> slicing.Overlap:
        """Rereads the update and returns its contribution to the weighted sum."""
        delta, slices = self._read(supernet)
        weight = tf.constant(self.weight, tf.float32)
        return slicing.overlap(delta, slices, supernet.grids, weight)

    def row(self, supernet: Supernet) -> Row:
        """Rereads the update and returns it as a row of all entries of the supernet."""
        delta, slices = self._read(supernet)
        values, covered = [], []
        for name, shape in supernet.weight_shapes.items():
            value, cover = np.zeros(shape), np.zeros(shape, bool)
            box = slices[name].indices()
            value[box], cover[box] = delta[name], True
            values.append(np.ravel(value))
            covered.append(np.ravel(cover))
        return Row(np.concatenate(values), np.concatenate(covered), self.weight)

    def _read(self, supernet):
        update = load_update(self.summary.source, supernet)
        if update.identity != self.summary.identity:
            raise ValueError(
                "Expected the update that was read before, received another one: the file changed "
                "meanwhile. Merge again."
            )
        delta = whole_delta(supernet, update)
        if self.decision.scale < 1:
            scale = np.float32(self.decision.scale)
            delta = {name: value * scale for name, value in delta.items()}
        return delta, supernet.slices(update.architecture)
