"""Federated calibration of a subnet: frozen mean squares, and classifiers fitted anew.

Clients compute sums over their images alone, and the server learns the sums over all clients.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf import inference_classifier, logistic_regression
from fedsup_tf.architecture import Architecture
from fedsup_tf.calibration import mean_square_shapes, sum_mean_squares
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.inference_classifier import CHOSEN, CandidateSums, InferenceClassifiers
from fedsup_tf.resizing import resize_in_graph
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
        mean, against the pass before; infinite in the first. None in a pass for the classifiers.
      choice: In the last pass for the classifiers, the penalty for files that only infer, if it is
        chosen.
    """

    number: int
    examples: int
    change: float | None
    choice: inference_classifier.PenaltyChoice | None = None


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
    shapes = _shapes(supernet, architecture)

    def count(weights, mean_squares, element):
        if frozen:
            weights = {**weights, **dict(zip(shapes, mean_squares, strict=True))}
        sums = sum_mean_squares(supernet, weights, element["images"], batch_size, preprocessing)
        examples = tf.cast(tf.shape(element["labels"])[0], tf.float32)
        return OrderedDict(sums=tuple(sums.values()), examples=examples)

    return _build_sum(supernet, architecture, count, tensors_type(shapes))


def build_federated_regression_sums(
    supernet: Supernet,
    architecture: Architecture,
    preprocessing: Preprocessing,
    batch_size: int,
    with_moments: bool,
    with_candidates: bool,
) -> tff.Computation:
    """Builds one pass of the fit of the classifiers.

    Its type signature, with W, M and D* as of `build_federated_calibration` and F features:

        (<weights=W@SERVER, sent=<mean_squares=M, coefficients=float32[F+1,classes]>@SERVER,
          client_data={D*}@CLIENTS> -> <gradient=float32[F+1,classes]>@SERVER)

    With moments the result has `moments=float32[F+1,F+1]`, too. With candidates `sent` has
    `float32[F+1,fits,classes]` as well, and the result the fields of `CandidateSums`, of which the
    gradients are as large. With four small penalties these are 9 more matrices of coefficients. For
    1,024 features and 10 classes a client receives and sends 0.4 MB in a pass instead of 0.04 MB,
    beside the subnet's weights of 7 MB that it receives, and the moments of 4 MB that it sends in
    the first pass.

    Args:
      supernet: The supernet.
      architecture: The subnet.
      preprocessing: Normalization of the images.
      batch_size: Images computed at once.
      with_moments: Whether this is the first pass.
      with_candidates: Whether files that only infer get a classifier of their own.
    """
    shapes = _shapes(supernet, architecture)
    features, classes = supernet.slices(architecture)[logistic_regression.KERNEL].size
    sum_shapes = {"gradient": [features + 1, classes]}
    if with_moments:
        sum_shapes["moments"] = [features + 1, features + 1]
    candidate_shapes = inference_classifier.candidate_shapes(features, classes)
    if with_candidates:
        sum_shapes.update(candidate_shapes)

    def count(weights, sent, element):
        mean_squares, coefficients, *candidates = sent
        weights = {**weights, **dict(zip(shapes, mean_squares, strict=True))}
        images, labels = element["images"], element["labels"]

        def batch(begin, total):
            end = begin + batch_size
            batch_features, _ = supernet.features_with_statistics(
                weights, preprocessing.normalize(images[begin:end])
            )
            some = labels[begin:end]
            sums = logistic_regression.regression_sums(
                batch_features, some, coefficients, with_moments
            )._asdict()
            if with_candidates:
                positions = begin + tf.range(tf.shape(some)[0])
                sums |= inference_classifier.candidate_sums(
                    batch_features, some, inference_classifier.is_held_out(positions), *candidates
                )._asdict()
            return end, OrderedDict((name, total[name] + sums[name]) for name in sum_shapes)

        zeros = OrderedDict((name, tf.zeros(shape)) for name, shape in sum_shapes.items())
        _, total = tf.while_loop(
            lambda begin, _: begin < tf.shape(labels)[0], batch, (0, zeros), parallel_iterations=1
        )
        return total

    coefficients_type = tff.TensorType(np.float32, [features + 1, classes])
    sent = [tensors_type(shapes), coefficients_type]
    if with_candidates:
        sent.append(tff.TensorType(np.float32, candidate_shapes["gradients"]))
    sent_type = tff.StructWithPythonType(sent, tuple)
    return _build_sum(supernet, architecture, count, sent_type)


def _build_sum(
    supernet: Supernet, architecture: Architecture, count: Callable, sent_type: tff.Type
) -> tff.Computation:
    """Builds the sum over clients of `count(weights, sent, element)`."""
    distribution = broadcast_subnet(supernet, architecture)
    data_type = client_data_type(supernet.space)
    height, width, _ = supernet.space.image_shape_of(architecture)

    @tff.tensorflow.computation(distribution.received_type, sent_type, data_type)
    def on_client(received, sent, data):
        element = data.get_single_element()
        element = {**element, "images": resize_in_graph(element["images"], height, width)}
        return count(distribution.open(received, element).weights, sent, element)

    @tff.federated_computation(
        tff.FederatedType(tensors_type(supernet.weight_shapes), tff.SERVER),
        tff.FederatedType(sent_type, tff.SERVER),
        tff.FederatedType(data_type, tff.CLIENTS),
    )
    def sum_over_clients(weights, sent, client_data):
        received = distribution.send(weights, client_data)
        return tff.federated_sum(
            tff.federated_map(on_client, (received, tff.federated_broadcast(sent), client_data))
        )

    return sum_over_clients


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
    shapes = _shapes(supernet, architecture)
    weights = tuple(supernet.values_by_name().values())
    mean_squares = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    number = 0
    while shapes and number < _MOST_PASSES:
        number += 1
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
    if classifier_data is None:
        return mean_squares

    features, _ = supernet.slices(architecture)[logistic_regression.KERNEL].size
    values = supernet.values_by_name()
    start = values[logistic_regression.KERNEL][:features], values[logistic_regression.BIAS]
    is_chosen = classifier_penalty == CHOSEN
    regression = logistic_regression.LogisticRegression(
        *start, logistic_regression.PENALTY if is_chosen else classifier_penalty
    )
    candidates = InferenceClassifiers(*start) if is_chosen else None
    frozen = tuple(mean_squares.values())
    choice, chosen = None, {}
    passes = inference_classifier.PASSES if is_chosen else logistic_regression.PASSES
    for step in range(passes):
        # At most two are built: the first pass's and the others'.
        if step <= 1:
            computation = build_federated_regression_sums(
                supernet,
                architecture,
                preprocessing,
                batch_size,
                with_moments=step == 0,
                with_candidates=is_chosen,
            )
        sent = [frozen, regression.coefficients]
        if is_chosen:
            sent.append(candidates.coefficients)
        output = await tff.program.materialize_value(
            computation(weights, tuple(sent), classifier_data)
        )
        moments = output.get("moments")
        if step < logistic_regression.PASSES:
            regression.step(logistic_regression.RegressionSums(output["gradient"], moments))
        if is_chosen:
            sums = CandidateSums(*(output[name] for name in CandidateSums._fields))
            candidates.step(sums, moments)
        if is_chosen and step == passes - 1:
            choice = candidates.choose()
            chosen = candidates.classifiers(choice)
        on_pass(CalibrationPass(number + step + 1, regression.examples, None, choice))
    return {**mean_squares, **regression.classifier(), **chosen}


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
