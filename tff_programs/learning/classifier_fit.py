"""Federated fit of a subnet's classifiers.

Clients compute gradients over their own images. The server learns only the sums over all clients,
from which it computes the steps of `logistic_regression`.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsup_tf import logistic_regression
from fedsup_tf.architecture import Architecture
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.logistic_regression import PenaltyChoice, Regression, RegressionSums
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
    regression = Regression(*start, penalty)

    @functools.cache
    def computation(with_moments):
        return build_federated_regression_sums(
            supernet, architecture, preprocessing, batch_size, with_moments, penalty
        )

    for number in range(1, logistic_regression.PASSES + 1):
        sent = (tuple(mean_squares.values()), regression.coefficients)
        output = await tff.program.materialize_value(
            computation(number == 1)(tuple(values.values()), sent, client_data)
        )
        sums = RegressionSums(*(output[name] for name in RegressionSums._fields))
        regression.step(sums, output.get("moments"))
        is_last = number == logistic_regression.PASSES
        choice = regression.choose() if is_last else None
        is_told = is_last and penalty == logistic_regression.CHOSEN
        on_pass(number, regression.examples, None, choice if is_told else None)
    return regression.classifiers(choice)


def build_federated_regression_sums(
    supernet: Supernet,
    architecture: Architecture,
    preprocessing: Preprocessing,
    batch_size: int,
    with_moments: bool,
    penalty: float | str,
) -> tff.Computation:
    """Builds the computation of one pass of the classifiers' fit.

    Its type signature, with W, M and D* as in `calibration.build_federated_calibration`, F the
    number of features and R the fields of `RegressionSums`:

        (<weights=W@SERVER, sent=<mean_squares=M, coefficients=float32[F+1,fits,classes]>@SERVER,
          client_data={D*}@CLIENTS> -> R@SERVER)

    With moments, the result also has `moments=float32[F+1,F+1]`. If a penalty has to be chosen,
    there are ten fits. For 1,024 features and 10 classes, a client then receives and sends 0.4 MB
    per pass instead of 0.04 MB, in addition to the subnet's weights of 7 MB that it receives and
    the moments of 4 MB that it sends in the first pass.

    Args:
      supernet: The supernet.
      architecture: The subnet.
      preprocessing: Normalization of the images.
      batch_size: Number of images per mini-batch.
      with_moments: Whether to sum the moments, as in the first pass.
      penalty: Penalty on the squares of the classifiers' kernels, or `CHOSEN`.
    """
    shapes = subnet_mean_square_shapes(supernet, architecture)
    features, classes = supernet.slices(architecture)[logistic_regression.KERNEL].size
    sum_shapes = logistic_regression.sum_shapes(features, classes, penalty)
    coefficients_type = tff.TensorType(np.float32, sum_shapes["gradients"])
    if with_moments:
        sum_shapes["moments"] = [features + 1, features + 1]

    def count(weights, sent, element):
        mean_squares, coefficients = sent
        weights = {**weights, **dict(zip(shapes, mean_squares, strict=True))}
        images, labels = element["images"], element["labels"]

        def batch(begin, total):
            end = begin + batch_size
            batch_features, _ = supernet.features_with_statistics(
                weights, preprocessing.normalize(images[begin:end])
            )
            some = labels[begin:end]
            held_out = logistic_regression.is_held_out(begin + tf.range(tf.shape(some)[0]))
            sums = logistic_regression.regression_sums(
                batch_features, some, held_out, coefficients
            )._asdict()
            if with_moments:
                sums["moments"] = logistic_regression.moments_of(batch_features)
            return end, OrderedDict((name, total[name] + sums[name]) for name in sum_shapes)

        zeros = OrderedDict((name, tf.zeros(shape)) for name, shape in sum_shapes.items())
        _, total = tf.while_loop(
            lambda begin, _: begin < tf.shape(labels)[0], batch, (0, zeros), parallel_iterations=1
        )
        return total

    sent_type = tff.StructWithPythonType([tensors_type(shapes), coefficients_type], tuple)
    return build_subnet_sum(supernet, architecture, count, sent_type)
