"""Federated calibration of a subnet: frozen mean squares, and classifiers fitted anew.

Clients compute sums over their images alone, and the server learns the sums over all clients.
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
from fedsup_tf.inference_classifier import CHOSEN, PenaltyChoice
from fedsup_tf.supernet import Supernet
from tff_programs.blocking import run_blocking
from tff_programs.learning.classifier_fit import fit_classifiers
from tff_programs.learning.subnet_sums import build_subnet_sum, subnet_mean_square_shapes
from tff_programs.types import tensors_type

# What is left after as many passes is smaller than the spread between samples of clients.
_MOST_PASSES = 16


class CalibrationPass(NamedTuple):
    """Progress of a calibration: one pass over the clients.

    Attributes:
      number: From 1.
      examples: Images that were computed.
      change: Largest relative change of a normalization's root mean square over its channels'
        mean, against the pass before; infinite in the first. None in a pass for the classifiers.
      choice: In the last pass for the classifiers, the penalty for files that only infer, if it is
        chosen.
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
    """Calibrates a subnet on the clients' images, as it is while it infers.

    The first pass normalizes by batches. Those of a client with few classes differ from the
    population's, so that further passes normalize by the last pass's mean squares, until these no
    longer change by more than `tolerance`. `inference_classifier.PASSES` more passes fit the
    classifiers, `logistic_regression.PASSES` if both kinds of files have the same.

    Args:
      supernet: The trained supernet.
      architecture: The subnet.
      preprocessing: Normalization of the images.
      client_data: A client's images each, as `clients.client_element` makes them.
      classifier_data: If given, the classifiers are fitted anew to these images, each client's
        again, see `logistic_regression` and `inference_classifier`. They take more images than the
        mean squares.
      classifier_penalty: Penalty of the squares of the classifiers' kernels, of both kinds of
        files; `CHOSEN` for `logistic_regression.PENALTY` in files that train, and one that the data
        chooses in files that only infer.
      batch_size: Images computed at once, in the first pass normalized together.
      tolerance: Relative change of a root mean square that counts as none.
      on_pass: Called after each pass.

    Returns:
      Tensors by name: the mean squares `(channels,)` as `calibration.mean_square_shapes` names
      them, none for a space of group normalization; and with `classifier_data`, the `head/kernel`
      `(features, classes)` and `head/bias` `(classes,)` to use instead of the supernet's, and, if
      files that only infer have others, `inference_classifier.TENSORS` and `INT8_TENSORS`.
      `split_calibration` tells them apart.

    Raises:
      ValueError: If there is no image for the classifier.
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
    while change >= tolerance and number < _MOST_PASSES:
        number += 1
        output = await tff.program.materialize_value(
            computation(number > 1)(weights, tuple(mean_squares.values()), client_data)
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
