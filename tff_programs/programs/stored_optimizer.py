"""Server optimizer for rounds whose clients send files; its state is stored in a file."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from fedsup_tf import slicing
from fedsup_tf.architecture import Architecture
from fedsup_tf.files import checkpoint
from fedsup_tf.files.json_schema import expect_keys
from fedsup_tf.supernet import Supernet
from tff_programs.learning.server_optimizer import build_server_optimizer
from tff_programs.learning.server_update import ServerUpdate
from tff_programs.types import MeanUpdate

_KIND = "fleet optimizer"
# Settings of a training that determine the optimizer.
OPTIMIZER_SETTINGS = ("server_optimizer", "server_learning_rate", "server_momentum")


class StoredOptimizer:
    """Updates a supernet's weights as the server of its training does.

    Attributes:
      optimizer: The optimizer; None if the mean update is added unchanged.
    """

    def __init__(self, settings: Mapping[str, Any], supernet: Supernet):
        """Creates the optimizer in its state before the first round.

        Args:
          settings: Settings `server_optimizer`, `server_learning_rate` and `server_momentum`, as in
            a training.
          supernet: Supernet that defines the shapes and slices of the tensors.

        Raises:
          ValueError: If the settings name an unknown optimizer.
        """
        self.optimizer = build_server_optimizer(
            settings.get("server_optimizer", "none"),
            settings.get("server_learning_rate"),
            settings.get("server_momentum", 0.9),
        )
        self._supernet = supernet
        self._update = ServerUpdate(self.optimizer)
        self.reset()

    def reset(self) -> None:
        """Resets the state to that before the first round."""
        zeros = tuple(tf.zeros(shape) for shape in self._supernet.weight_shapes.values())
        # The rest of the state is the average over the rounds, which only the training computes.
        self._state, _ = self._update.initialize(zeros)

    def step(
        self,
        before: Mapping[str, np.ndarray],
        merged: Mapping[str, np.ndarray],
        architectures: Iterable[Architecture],
    ) -> dict[str, np.ndarray]:
        """Returns the weights after a round.

        Args:
          before: The supernet's weights before the round, by tensor name.
          merged: Those weights plus the mean update.
          architectures: The subnets whose updates are part of the mean.
        """
        if self.optimizer is None:
            return dict(merged)
        grids = self._supernet.grids
        counts = slicing.count_covering(grids, map(self._supernet.slices, set(architectures)))
        mean = MeanUpdate(
            delta=tuple(tf.constant(merged[name] - before[name]) for name in grids),
            covered=tuple(grids[name].spread(counts[name] > 0) for name in grids),
        )
        weights = tuple(tf.constant(before[name]) for name in grids)
        # Only the average depends on the round number.
        (self._state, _), weights = self._update.next((self._state, ()), weights, mean, 0)
        return {name: np.asarray(value) for name, value in zip(grids, weights, strict=True)}

    def write(self, path: str | os.PathLike) -> None:
        """Writes the state to a file; does nothing without an optimizer."""
        if self.optimizer is None:
            return
        tensors, numbers = {}, {}
        for key, value in self._state.items():
            if isinstance(value, tuple | list):
                named = zip(self._supernet.grids, value, strict=True)
                tensors |= {f"{key}/{name}": np.asarray(part) for name, part in named}
            else:
                numbers[key] = np.asarray(value).item()
        checkpoint.write_tensors(path, _KIND, tensors, {"numbers": numbers})

    def read(self, path: str | os.PathLike) -> None:
        """Restores the state from a file that `write` wrote; does nothing without an optimizer.

        Raises:
          ValueError: If there is no such file, or it holds the state of another optimizer.
        """
        if self.optimizer is None:
            return
        expected = {
            f"{key}/{name}": tuple(part.shape)
            for key, value in self._state.items()
            if isinstance(value, tuple | list)
            for name, part in zip(self._supernet.grids, value, strict=True)
        }
        numbers = {key for key, value in self._state.items() if not isinstance(value, tuple | list)}

        def check(metadata, forms):
            expect_keys(metadata, {"numbers"}, {"numbers"}, "A server's optimizer")
            expect_keys(metadata["numbers"], numbers, numbers, "A server's optimizer")
            if {name: form.shape for name, form in forms.items()} != expected:
                raise ValueError(
                    "expected the state of this server optimizer, received that of another. Give "
                    "the same --server_optimizer, or another --out."
                )

        tensors, metadata = checkpoint.read_tensors(path, _KIND, check)
        for key, value in self._state.items():
            if isinstance(value, tuple | list):
                names = self._supernet.grids
                self._state[key] = tuple(tf.constant(tensors[f"{key}/{name}"]) for name in names)
            else:
                found = metadata["numbers"][key]
                # Keeps the initial dtype: some optimizers count steps in integers.
                as_tensor = tf.constant(found, value.dtype) if tf.is_tensor(value) else found
                self._state[key] = as_tensor
