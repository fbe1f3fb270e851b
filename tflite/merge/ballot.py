"""An update that counts in a merge, and as how much."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsup_tf import slicing
from fedsup_tf.supernet import Supernet
from tflite.merge.cohort import Verdict, Vote
from tflite.merge.influence import Row
from tflite.merge.received_updates import load_update, whole_delta


class Ballot(NamedTuple):
    """A valid update that counts.

    Attributes:
      vote: The update, without its tensors.
      verdict: How far it is believed.
      weight: Its weight in the mean.
    """

    vote: Vote
    verdict: Verdict
    weight: float

    def cut_to(self, share: float) -> "Ballot":
        """Returns it with that share of its weight and of its delta."""
        if share == 1:
            return self
        examples = round(share * self.verdict.examples)
        verdict = Verdict(examples, share * self.verdict.scale)
        return Ballot(self.vote, verdict, float(np.float32(share * self.weight)))

    def contribution(self, supernet: Supernet) -> slicing.Overlap:
        """Reads the update again and returns its part of the weighted sum."""
        delta, slices = self._read(supernet)
        weight = tf.constant(self.weight, tf.float32)
        return slicing.overlap(delta, slices, supernet.grids, weight)

    def row(self, supernet: Supernet) -> Row:
        """Reads the update again and returns it over all entries of the supernet."""
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
        update = load_update(self.vote.source, supernet)
        if update.identity != self.vote.identity:
            raise ValueError(
                "Expected the update that was read before, received another one: the file changed "
                "meanwhile. Merge again."
            )
        delta = whole_delta(supernet, update)
        if self.verdict.scale < 1:
            scale = np.float32(self.verdict.scale)
            delta = {name: value * scale for name, value in delta.items()}
        return delta, supernet.slices(update.architecture)
