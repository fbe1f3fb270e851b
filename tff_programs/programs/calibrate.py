"""fedsup calibrate SUPERNET: fits normalizations and classifiers of subnets to clients' images.

Each client sums, over its own images, the statistics of each normalization and the gradients used
to fit new classifiers; the server only learns sums. A table shows test accuracy by the number of
images that are inferred together: before calibration (images in a batch are normalized together)
and after it (each image is normalized independently).
"""

import os
from collections.abc import Sequence

import tensorflow as tf

from fedsup_tf.accuracy import count_correct
from fedsup_tf.calibration import split_calibration
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.resizing import resize_images
from tff_programs.programs.calibration_files import calibrate_tiers, write_calibration
from tff_programs.programs.checkpoint import name_architectures
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.calibration_flags import (
    classifier_penalty,
    define_calibration_flags,
)
from tff_programs.programs.flags.checkpoint_flags import load_trained_from_flags
from tff_programs.programs.flags.data_flags import define_data_flags
from tff_programs.programs.flags.program_flags import FlagDefiner, parse_with_path
from tff_programs.reports import report

_BATCH_SIZES = (1, 8, 32, 256)


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_data_flags(define)
    define.output_folder("out", None, "Folder for one NAME.calibration.safetensors per subnet.")
    define.paths(
        "architectures",
        ["tiers"],
        "Subnets to calibrate: tiers (all tiers of the training), the name of a tier, smallest, "
        "largest, an architecture's JSON file, or bounds on the number of parameters.",
    )
    define_calibration_flags(define)
    define.integer("test_images", 10_000, "Number of test images for the table.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    """Calibrates subnets of the supernet that the first argument names."""
    options, path = parse_with_path(define_flags, argv, "the supernet's file")
    trained = load_trained_from_flags(options, path)
    space = trained.supernet.space
    tiers = name_architectures(
        options.architectures, space, trained.information, trained.data_settings.seed
    )
    supernet_hash = fingerprint(trained.weights)
    images = trained.data.dataset.test_images[: options.test_images]
    labels = trained.data.dataset.test_labels[: options.test_images]
    rows = [("subnet", "", *(f"batch {size}" for size in _BATCH_SIZES))]
    calibrated = calibrate_tiers(
        trained,
        tiers,
        options.images_per_client,
        print_line,
        classifier_penalty=classifier_penalty(options),
    )
    for tier, calibration in zip(tiers, calibrated, strict=True):
        if options.out:
            path = os.path.join(options.out, f"{tier.name}.calibration.safetensors")
            write_calibration(path, calibration, tier.architecture, supernet_hash)
        subnet = trained.supernet.extract(tier.architecture)
        resized = resize_images(images, *subnet.space.image_shape[:2])
        weights = subnet.values_by_name()
        parts = split_calibration(calibration)
        calibrated_weights = {**weights, **parts.mean_squares}
        ways = {"before": weights, "calibrated": {**calibrated_weights, **parts.classifier}}
        for label, used in ways.items():
            shares = _accuracies(subnet, used, resized, labels, trained.preprocessing)
            rows.append((tier.name, label, *(f"{100 * share:.1f} %" for share in shares)))
    print(f"\nTest accuracy on {len(labels):,} images against the batch of inference")
    print(report.format_table(rows))


def _accuracies(subnet, weights, images, labels, preprocessing) -> list[float]:
    weights = {name: tf.constant(value) for name, value in weights.items()}

    @tf.function(autograph=False)
    def count(images, labels, batch_size):
        return count_correct(subnet, weights, images, labels, batch_size, preprocessing)

    arrays = (tf.constant(images), tf.constant(labels))
    return [int(count(*arrays, tf.constant(size))) / len(labels) for size in _BATCH_SIZES]
