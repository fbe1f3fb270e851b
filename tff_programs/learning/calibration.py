"""Federated calibration of a subnet: frozen mean squares and a refitted classifier.

Clients compute sums over their own images. The server learns only the sums over all clients.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf.architecture import Architecture
from fedsup_tf.calibration import sum_mean_squares
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.logistic_regression import CHOSEN, PenaltyChoice
from fedsup_tf.supernet import Supernet
from tff_programs.blocking import run_blocking
from tff_programs.learning.classifier_fit import fit_classifiers
from tff_programs.learning.subnet_sums import build_subnet_sum, subnet_mean_square_shapes
from tff_programs.types import tensors_type

# After this many passes, the remaining change is less than the spread between client samples.
_MAX_PASSES = 16


class CalibrationPass(NamedTuple):
    """Progress report of a calibration, made after each pass over the clients.

    Attributes:
      number: Number of the pass, from 1.
      examples: Number of images processed.
      change: Largest relative change of any normalization's root mean squares since the previous
        pass, averaged over its channels; infinite in the first pass, None in a pass that fits the
        classifiers.
      choice: Penalties of the classifiers, in the last pass that fits them if the data choose
        them; otherwise None.
    """

    number: int
    examples: int
    change: float | None
    choice: PenaltyChoice | None = None


def build_federated_calibration(
    supernet: Supernet,
    architecture: Architecture,
    preprocessing: Preprocessing,
    batch_size: int,
    frozen: bool,
) -> tff.Computation:
    """Builds the computation of one calibration pass.

    Its type signature, with W the tuple of the supernet's weights, M the tuple of the subnet's mean
    squares and D* as in `types.client_data_type`:

        (<weights=W@SERVER, mean_squares=M@SERVER, client_data={D*}@CLIENTS> ->
         <sums=M, examples=float32>@SERVER)

    The server learns only sums over all clients' images, one number per channel.

    Args:
      supernet: The supernet.
      architecture: Subnet to calibrate.
      preprocessing: Normalization of the images.
      batch_size: Number of images per mini-batch.
      frozen: Whether to normalize with the given mean squares instead of each batch's own.
    """
    shapes = subnet_mean_square_shapes(supernet, architecture)

    def count(weights, mean_squares, element):
        if frozen:
            weights = {**weights, **dict(zip(shapes, mean_squares, strict=True))}
        sums = sum_mean_squares(supernet, weights, element["images"], batch_size, preprocessing)
        examples = tf.cast(tf.shape(element["labels"])[0], tf.float32)
        return OrderedDict(sums=tuple(sums.values()), examples=examples)

    return build_subnet_sum(supernet, architecture, count, tensors_type(shapes))


async def calibrate_federated_async(
    supernet: Supernet,
    architecture: Architecture,
    preprocessing: Preprocessing,
    client_data: Sequence[tf.data.Dataset],
    *,
    classifier_data: Sequence[tf.data.Dataset] | None = None,
    classifier_penalty: float | str = CHOSEN,
    batch_size: int = 50,
    tolerance: float = 5e-3,
    on_pass: Callable[[CalibrationPass], None] = lambda _: None,
) -> dict[str, np.ndarray]:
    """Calibrates a subnet for inference on the clients' images.

    The first pass normalizes with batch statistics. For a client with few classes, these differ
    from the population's, so further passes normalize with the mean squares of the previous pass
    until their change is below `tolerance`, at most 15 of them. Another
    `logistic_regression.PASSES` passes fit the classifiers.

    Args:
      supernet: The trained supernet.
      architecture: The subnet.
      preprocessing: Normalization of the images.
      client_data: One dataset per client, as `clients.client_element` makes it.
      classifier_data: If given, the classifiers are refitted to these images, again one dataset per
        client; see `logistic_regression`. Classifiers need more images than mean squares.
      classifier_penalty: Penalty on the squares of the classifiers' kernels; `CHOSEN` has the data
        choose it.
      batch_size: Number of images per mini-batch, normalized together in the first pass.
      tolerance: Relative change of the root mean squares below which they count as converged.
      on_pass: Called after each pass.

    Returns:
      Tensors by name: the mean squares `(channels,)`, named as in `calibration.mean_square_shapes`
      (none for a space with group normalization). With `classifier_data`, also the `head/kernel`
      `(features, classes)` and `head/bias` `(classes,)` to use instead of the supernet's, and the
      other tensors that `logistic_regression.Regression.classifiers` returns. `split_calibration`
      separates them.

    Raises:
      ValueError: If no client has an image.
    """
    shapes = subnet_mean_square_shapes(supernet, architecture)
    weights = tuple(supernet.values_by_name().values())
    mean_squares = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    number = 0

    @functools.cache
    def computation(frozen):
        return build_federated_calibration(
            supernet, architecture, preprocessing, batch_size, frozen
        )

    change = float("inf") if shapes else 0
    while change >= tolerance and number < _MAX_PASSES:
        number += 1
        output = await tff.program.materialize_value(
            computation(number > 1)(weights, tuple(mean_squares.values()), client_data)
        )
        if not output["examples"]:
            raise ValueError(
                "Expected calibration images of at least one client, received none. Give clients "
                "that have examples."
            )
        latest = {
            name: np.asarray(total) / output["examples"]
            for name, total in zip(shapes, output["sums"], strict=True)
        }
        if number > 1:
            change = largest_change(mean_squares, latest)
        mean_squares = latest
        on_pass(CalibrationPass(number, int(output["examples"]), change))
    if classifier_data is None:
        return mean_squares
    classifiers = await fit_classifiers(
        supernet,
        architecture,
        preprocessing,
        mean_squares,
        classifier_data,
        classifier_penalty,
        batch_size,
        lambda step, *result: on_pass(CalibrationPass(number + step, *result)),
    )
    return {**mean_squares, **classifiers}


def calibrate_federated(*arguments, **options) -> dict[str, np.ndarray]:
    """Calls `calibrate_federated_async` and waits for its result."""
    return run_blocking(
        calibrate_federated_async(*arguments, **options), "calibrate_federated_async"
    )


def largest_change(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """Returns the largest relative change of any layer's root mean squares.

    Args:
      before: Mean squares by name, one value per channel.
      after: Mean squares of a later pass, with the same names.
    """
    changes = []
    for name in after:
        old, new = np.sqrt(before[name]), np.sqrt(after[name])
        # All channels of a layer may be dead.
        changes.append(np.abs(new - old).mean() / max(new.mean(), 1e-30))
    return float(max(changes))
