"""Federated fit of a subnet's classifiers, for files that train and files that only infer.

Clients compute gradients over their own images. The server learns only the sums over all clients,
from which it computes the steps of `logistic_regression` and `inference_classifier`.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf import inference_classifier, logistic_regression
from fedsup_tf.architecture import Architecture
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.inference_classifier import (
    CHOSEN,
    CandidateSums,
    InferenceClassifiers,
    PenaltyChoice,
)
from fedsup_tf.supernet import Supernet
from tff_programs.learning.subnet_sums import build_subnet_sum, subnet_mean_square_shapes
from tff_programs.types import tensors_type


async def fit_classifiers(
    supernet: Supernet,
    architecture: Architecture,
    preprocessing: Preprocessing,
    mean_squares: Mapping[str, np.ndarray],
    client_data: Sequence[tf.data.Dataset],
    penalty: float | str,
    batch_size: int,
    on_pass: Callable[[int, int, None, PenaltyChoice | None], None],
) -> dict[str, np.ndarray]:
    """Fits the classifiers of a calibrated subnet for `calibration.calibrate_federated_async`.

    Args:
      supernet: The trained supernet.
      architecture: The subnet.
      preprocessing: Normalization of the images.
      mean_squares: The subnet's mean squares by name.
      client_data: One dataset per client, as `clients.client_element` makes it.
      penalty: Penalty on the squares of the classifiers' kernels, or `CHOSEN`.
      batch_size: Number of images per mini-batch.
      on_pass: Called after each pass with its number, from 1, and the other fields of a
        `CalibrationPass`.

    Returns:
      The classifiers' tensors by name.

    Raises:
      ValueError: If there are no images.
    """
    values = supernet.values_by_name()
    features, _ = supernet.slices(architecture)[logistic_regression.KERNEL].size
    start = values[logistic_regression.KERNEL][:features], values[logistic_regression.BIAS]
    is_chosen = penalty == CHOSEN
    regression = logistic_regression.LogisticRegression(
        *start, logistic_regression.PENALTY if is_chosen else penalty
    )
    candidates = [InferenceClassifiers(*start)] if is_chosen else []

    @functools.cache
    def computation(with_moments):
        return build_federated_regression_sums(
            supernet, architecture, preprocessing, batch_size, with_moments, is_chosen
        )

    choice, chosen = None, {}
    passes = inference_classifier.PASSES if is_chosen else logistic_regression.PASSES
    for number in range(1, passes + 1):
        coefficients = (fits.coefficients for fits in (regression, *candidates))
        sent = (tuple(mean_squares.values()), *coefficients)
        output = await tff.program.materialize_value(
            computation(number == 1)(tuple(values.values()), sent, client_data)
        )
        moments = output.get("moments")
        if number <= logistic_regression.PASSES:
            regression.step(logistic_regression.RegressionSums(output["gradient"], moments))
        for fits in candidates:
            fits.step(CandidateSums(*(output[name] for name in CandidateSums._fields)), moments)
            if number == passes:
                choice = fits.choose()
                chosen = fits.classifiers(choice)
        on_pass(number, regression.examples, None, choice)
    return {**regression.classifier(), **chosen}


def build_federated_regression_sums(
    supernet: Supernet,
    architecture: Architecture,
    preprocessing: Preprocessing,
    batch_size: int,
    with_moments: bool,
    with_candidates: bool,
) -> tff.Computation:
    """Builds the computation of one pass of the classifiers' fit.

    Its type signature, with W, M and D* as in `calibration.build_federated_calibration` and F the
    number of features:

        (<weights=W@SERVER, sent=<mean_squares=M, coefficients=float32[F+1,classes]>@SERVER,
          client_data={D*}@CLIENTS> -> <gradient=float32[F+1,classes]>@SERVER)

    With moments, the result also has `moments=float32[F+1,F+1]`. With candidates, `sent` also has
    `float32[F+1,fits,classes]`, and the result has the fields of `CandidateSums`, whose gradients
    are of the same size. With four small penalties these are 9 more coefficient matrices. For 1,024
    features and 10 classes, a client receives and sends 0.4 MB per pass instead of 0.04 MB, in
    addition to the subnet's weights of 7 MB that it receives and the moments of 4 MB that it sends
    in the first pass.

    Args:
      supernet: The supernet.
      architecture: The subnet.
      preprocessing: Normalization of the images.
      batch_size: Number of images per mini-batch.
      with_moments: Whether to sum the moments, as in the first pass.
      with_candidates: Whether files that only infer get their own classifier.
    """
    shapes = subnet_mean_square_shapes(supernet, architecture)
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
    return build_subnet_sum(supernet, architecture, count, sent_type)
