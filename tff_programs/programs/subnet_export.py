"""Exports a trained supernet's subnets as `.tflite` files, calibrated on its clients' images."""

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedsup_tf.calibration import split_calibration
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.logistic_regression import CHOSEN, KERNEL
from fedsup_tf.resizing import resize_images
from tff_programs.programs.calibration_files import calibrate_tiers
from tff_programs.programs.checkpoint import TrainedSupernet
from tff_programs.programs.training_information import device_training
from tff_programs.simulation.tiers import Tier
from tflite.export.export import BatchSizes, Origin, export_tflite
from tflite.export.quantize import export_inference
from tflite.format.metadata import CLASSIFIERS, PRECISIONS

# Key of the trainable file, next to the precisions of the inference-only files.
TRAINABLE = "float32, trains"
# Random number stream that selects the images from which int8 ranges are measured.
_REPRESENTATIVE = 7
_REPRESENTATIVE_IMAGES = 200


class SubnetFiles(NamedTuple):
    """The files of one subnet.

    Attributes:
      tier: The subnet and its name.
      paths: Path of each file by precision; `TRAINABLE` is the key of the trainable file.
      seconds: Seconds that the export of the trainable file took.
    """

    tier: Tier
    paths: Mapping[str, str]
    seconds: float


def export_subnets(
    trained: TrainedSupernet,
    paths: Mapping[Tier, str],
    *,
    calibrations: Mapping[Tier, Mapping[str, np.ndarray]] | None = None,
    images_per_client: int | None = None,
    classifier_penalty: float | str | None = CHOSEN,
    batch_sizes: BatchSizes | None = None,
    precisions: Sequence[str] = (),
    with_train_head: bool = False,
    absent_class_weight: float | None = None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> list[SubnetFiles]:
    """Exports subnets as `.tflite` files that infer and train with the stock runtime.

    Args:
      trained: The supernet and its clients.
      paths: Path of the file to write for each subnet.
      calibrations: Calibration of each subnet; by default, subnets are calibrated on the clients'
        images.
      images_per_client: Maximum number of images that each client calibrates on; `default_images`
        by default.
      classifier_penalty: Penalty of the classifiers fitted by the calibration, as in
        `calibrate_federated_async`; None keeps the trained classifiers.
      batch_sizes: Numbers of images in a training step, an evaluation and an inference.
      precisions: Inference-only files to write in addition, of `metadata.PRECISIONS`.
      with_train_head: Whether the files can also train only the head and the normalizations.
      absent_class_weight: Weight, in the loss of a training step, of the classes that a device has
        no example of, as in `LocalTraining`; by default that of the training.
      on_progress: Called with a line of text about each pass of a calibration.

    Returns:
      The files of each subnet, in the order of `paths`.

    Raises:
      ValueError: If a precision is unknown.
    """
    unknown = [precision for precision in precisions if precision not in PRECISIONS]
    if unknown:
        raise ValueError(
            f"Expected precisions of {', '.join(PRECISIONS)}, received {unknown[0]!r}."
        )
    batch_sizes = batch_sizes or BatchSizes()
    tiers = list(paths)
    if calibrations is None:
        calibrated = calibrate_tiers(
            trained, tiers, images_per_client, on_progress, classifier_penalty=classifier_penalty
        )
        calibrations = dict(zip(tiers, calibrated, strict=True))
    training = device_training(trained.information)
    if absent_class_weight is not None:
        training = dataclasses.replace(training, absent_class_weight=absent_class_weight)
    origin = Origin(
        space=trained.supernet.space,
        supernet_hash=fingerprint(trained.weights),
        round=trained.information["round"],
        class_names=tuple(trained.information["class_names"]),
    )
    representative = _representative(trained) if precisions else None
    exported = []
    for tier, path in paths.items():
        start = time.monotonic()
        parts = split_calibration(calibrations[tier])
        if classifier_penalty is None:
            parts = parts._replace(classifier={}, int8_classifier={})
        subnet = trained.supernet.extract(tier.architecture)
        weights = subnet.values_by_name()
        subnet.assign_weights({**weights, **parts.classifier})
        origin = dataclasses.replace(origin, classifier=CLASSIFIERS[bool(parts.classifier)])
        step, rates = training, None
        if parts.classifier:
            # The classifier was fitted to the labels themselves; smoothed targets would undo this.
            step = dataclasses.replace(training, label_smoothing=0.0)
            rates = _feature_rates(weights[KERNEL], parts.classifier[KERNEL])
        export_tflite(
            path,
            subnet,
            parts.mean_squares,
            trained.preprocessing,
            step,
            origin,
            batch_sizes,
            with_train_head=with_train_head,
            feature_rates=rates,
        )
        seconds = time.monotonic() - start
        written = {TRAINABLE: path}
        for precision in precisions:
            fitted = parts.int8_classifier if precision == "int8" else parts.classifier
            subnet.assign_weights({**weights, **fitted})
            written[precision] = f"{path.removesuffix('.tflite')}.{precision}.tflite"
            export_inference(
                written[precision],
                subnet,
                parts.mean_squares,
                trained.preprocessing,
                origin,
                precision,
                batch_sizes.infer,
                resize_images(representative, *subnet.space.image_shape[:2]),
            )
        exported.append(SubnetFiles(tier, written, seconds))
    return exported


async def export_subnets_async(*arguments, **options) -> list[SubnetFiles]:
    """Runs `export_subnets` in a separate thread, for use in a running event loop."""
    return await asyncio.to_thread(export_subnets, *arguments, **options)


def subnet_paths(tiers: Sequence[Tier], folder: str) -> dict[Tier, str]:
    """Returns the path of each subnet's file in a folder, named after the tier."""
    return {tier: os.path.join(folder, f"{tier.name}.tflite") for tier in tiers}


def _feature_rates(trained: np.ndarray, fitted: np.ndarray) -> tuple[float, float]:
    """Returns the rates of the layers before a refitted classifier (see `export_tflite`).

    A fitted kernel may be a hundred times as large as the trained one. The gradients of the layers
    before it grow in proportion, and the logits follow a change of the features in proportion too.
    With the square of the ratio, a step changes the logits by as much as with the trained kernel:
    the rate where the net fits the images. With the ratio, it changes the logits by as large a
    share of their size: the rate where it does not, and has to change its predictions.

    Args:
      trained: The trained kernel, `(features, classes)`.
      fitted: The fitted kernel, of the same shape.
    """
    # The mean over the classes changes no prediction.
    norms = [np.linalg.norm(one - one.mean(1, keepdims=True), 2) for one in (trained, fitted)]
    # Without features or without a trained kernel, there is nothing to compare.
    ratio = float(min(1.0, norms[0] / norms[1])) if all(norms) else 1.0
    return ratio**2, ratio


def _representative(trained: TrainedSupernet) -> np.ndarray:
    """Returns training images, the same number from each client."""
    rng = np.random.default_rng([trained.data_settings.seed, _REPRESENTATIVE])
    each = -(-_REPRESENTATIVE_IMAGES // len(trained.data))
    chosen = [rng.permutation(client.train)[:each] for client in trained.data.clients]
    return trained.data.dataset.train_images[np.concatenate(chosen)]
