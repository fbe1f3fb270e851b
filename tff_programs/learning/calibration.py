"""Federated calibration: clients sum a subnet's mean squares, the server freezes their mean."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.architecture import Architecture
from fedsup_tf.calibration import mean_square_shapes, sum_mean_squares
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.supernet import Supernet
from tff_programs.blocking import run_blocking
from tff_programs.learning.distribution import broadcast_subnet
from tff_programs.types import client_data_type, tensors_type

# What is left after as many passes is smaller than the spread between samples of clients.
_MOST_PASSES = 16


class CalibrationPass(NamedTuple):
    """Progress of a calibration: one pass over the clients.

    Attributes:
      number: From 1.
      examples: Images that were computed.
      change: Largest relative change of a normalization's root mean square over its channels'
        mean, against the pass before; infinite in the first.
    """

    number: int
    examples: int
    change: float


def build_federated_calibration(
    supernet: Supernet,
    architecture: Architecture,
    preprocessing: Preprocessing,
    batch_size: int,
    frozen: bool,
) -> tff.Computation:
    """Builds one pass of a calibration.

    Its type signature, with W the tuple of the supernet's weights, M the tuple of the subnet's mean
    squares and D* as in `types.client_data_type`:

        (<weights=W@SERVER, mean_squares=M@SERVER, client_data={D*}@CLIENTS> ->
         <sums=M, examples=float32>@SERVER)

    The server learns sums over all clients' images alone, a number per channel.

    Args:
      supernet: The supernet.
      architecture: The subnet that is calibrated.
      preprocessing: Normalization of the images.
      batch_size: Images computed at once.
      frozen: Whether the net computes with the given mean squares; else with its batch's.
    """
    distribution = broadcast_subnet(supernet, architecture)
    data_type = client_data_type(supernet.space)
    shapes = _shapes(supernet, architecture)
    mean_squares_type = tensors_type(shapes)

    @tff.tensorflow.computation(distribution.received_type, mean_squares_type, data_type)
    def count(received, mean_squares, data):
        element = data.get_single_element()
        weights = distribution.open(received, element).weights
        if frozen:
            weights = {**weights, **dict(zip(shapes, mean_squares, strict=True))}
        sums = sum_mean_squares(supernet, weights, element["images"], batch_size, preprocessing)
        examples = tf.cast(tf.shape(element["labels"])[0], tf.float32)
        return OrderedDict(sums=tuple(sums.values()), examples=examples)

    @tff.federated_computation(
        tff.FederatedType(tensors_type(supernet.weight_shapes), tff.SERVER),
        tff.FederatedType(mean_squares_type, tff.SERVER),
        tff.FederatedType(data_type, tff.CLIENTS),
    )
    def calibrate(weights, mean_squares, client_data):
        received = distribution.send(weights, client_data)
        frozen_at_clients = tff.federated_broadcast(mean_squares)
        return tff.federated_sum(
            tff.federated_map(count, (received, frozen_at_clients, client_data))
        )

    return calibrate


async def calibrate_federated_async(
    supernet: Supernet,
    architecture: Architecture,
    preprocessing: Preprocessing,
    client_data: Sequence[tf.data.Dataset],
    *,
    batch_size: int = 50,
    tolerance: float = 5e-3,
    on_pass: Callable[[CalibrationPass], None] = lambda _: None,
) -> dict[str, np.ndarray]:
    """Computes a subnet's mean squares on the clients' images, as they are while it infers.

    The first pass normalizes by batches. Those of a client with few classes differ from the
    population's, so that further passes normalize by the last pass's mean squares, until these no
    longer change by more than `tolerance`.

    Args:
      supernet: The trained supernet.
      architecture: The subnet.
      preprocessing: Normalization of the images.
      client_data: A client's images each, as `clients.client_element` makes them.
      batch_size: Images computed at once, in the first pass normalized together.
      tolerance: Relative change of a root mean square that counts as none.
      on_pass: Called after each pass.

    Returns:
      `(channels,)` by name, as `calibration.mean_square_shapes` names them; none for a space of
      group normalization.
    """
    shapes = _shapes(supernet, architecture)
    weights = tuple(supernet.values_by_name().values())
    mean_squares = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    if not shapes:
        return mean_squares
    for number in range(1, _MOST_PASSES + 1):
        # At most two are built: the first pass's and the others'.
        if number <= 2:
            computation = build_federated_calibration(
                supernet, architecture, preprocessing, batch_size, frozen=number > 1
            )
        output = await tff.program.materialize_value(
            computation(weights, tuple(mean_squares.values()), client_data)
        )
        latest = {
            name: np.asarray(total) / output["examples"]
            for name, total in zip(shapes, output["sums"], strict=True)
        }
        change = largest_change(mean_squares, latest) if number > 1 else float("inf")
        mean_squares = latest
        on_pass(CalibrationPass(number, int(output["examples"]), change))
        if change < tolerance:
            break
    return mean_squares


def calibrate_federated(*arguments, **options) -> dict[str, np.ndarray]:
    """Calls `calibrate_federated_async`, and waits until it is done."""
    return run_blocking(
        calibrate_federated_async(*arguments, **options), "calibrate_federated_async"
    )


def largest_change(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """Returns by how much a layer's root mean squares changed, relative to them, at most.

    Args:
      before: Mean squares by name, one value a channel.
      after: Those of a later pass, of the same names.
    """
    changes = []
    for name in after:
        old, new = np.sqrt(before[name]), np.sqrt(after[name])
        # All channels of a layer may be dead.
        changes.append(np.abs(new - old).mean() / max(new.mean(), 1e-30))
    return float(max(changes))


def _shapes(supernet: Supernet, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    slices = supernet.slices(architecture)
    return mean_square_shapes({name: part.size for name, part in slices.items()})
