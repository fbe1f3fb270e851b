"""The server's optimizer in a fleet, with its states in files beside the supernet."""

import glob
import os
from collections.abc import Mapping
from typing import Any

from fedsup_tf.supernet import Supernet
from tff_programs.programs.stored_optimizer import StoredOptimizer


class FleetOptimizer(StoredOptimizer):
    """Steps a fleet's supernet as the server of its training does.

    The state of a round lies in a file of its own, written before the round's supernet: a fleet
    that is killed between both makes the round again from the state before it.
    """

    def __init__(self, settings: Mapping[str, Any], supernet: Supernet, folder: str):
        """Makes the optimizer before the first round.

        Args:
          settings: Those of the training.
          supernet: The supernet, for the form of its tensors and slices.
          folder: The fleet's.

        Raises:
          ValueError: If the settings name an optimizer that there is not.
        """
        super().__init__(settings, supernet)
        self._folder = folder

    def save(self, rounds: int) -> None:
        """Writes the state after so many rounds of the fleet."""
        self.write(self._path(rounds))

    def load(self, rounds: int) -> None:
        """Goes on with the state after so many rounds of the fleet.

        Raises:
          ValueError: If there is no such file, or it is that of another optimizer.
        """
        self.read(self._path(rounds))

    def forget_before(self, rounds: int) -> None:
        """Removes the states of earlier rounds."""
        for path in glob.glob(os.path.join(glob.escape(self._folder), "optimizer_*.safetensors")):
            if path < self._path(rounds):
                os.remove(path)

    def _path(self, rounds: int) -> str:
        return os.path.join(self._folder, f"optimizer_{rounds:06d}.safetensors")
