"""Calibration of subnets on clients' images, and the files that store it."""

import json
import os
from collections.abc import Callable, Sequence

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.calibration import CLASSIFIER, EARLIER_TENSORS
from fedsup_tf.files import checkpoint
from fedsup_tf.files.json_schema import expect_keys, quoted
from fedsup_tf.logistic_regression import CHOSEN, INT8_TENSORS, PenaltyChoice
from tff_programs.blocking import run_blocking
from tff_programs.execution.contexts import local_execution
from tff_programs.learning.calibration import CalibrationPass, calibrate_federated_async
from tff_programs.programs.checkpoint import TrainedSupernet
from tff_programs.simulation.clients import client_element
from tff_programs.simulation.tiers import Tier

# Default number of images of all clients for the classifiers. After a long training, four times as
# many improve accuracy by up to 1.5 percentage points.
_ALL_IMAGES = 40_000
# Bounds for one client.
_MIN_IMAGES, _MAX_IMAGES = 100, 400
# The mean squares take more passes and need fewer images.
_IMAGES_OF_MEAN_SQUARES = 30
# Random number stream that selects the images a client calibrates on.
_IMAGES = 6


async def calibrate_tiers_async(
    trained: TrainedSupernet,
    tiers: Sequence[Tier],
    images_per_client: int | None = None,
    on_progress: Callable[[str], None] = lambda line: None,
    *,
    classifier_penalty: float | str | None = CHOSEN,
) -> list[dict[str, np.ndarray]]:
    """Calibrates subnets on some training images of every client.

    Args:
      trained: The supernet and its clients.
      tiers: The subnets.
      images_per_client: Maximum number of images that each client calibrates on; `default_images`
        by default.
      on_progress: Called with a line of text about each subnet and each pass over the clients.
      classifier_penalty: Penalty of the refitted classifiers, as in `calibrate_federated_async`;
        None keeps the trained ones. They are always kept after a training with differential
        privacy, whose account does not cover the sums that the fit needs. It does not cover the
        mean squares either.

    Returns:
      Each subnet's calibration, as returned by `calibrate_federated_async`.
    """
    space = trained.supernet.space
    if images_per_client is None:
        images_per_client = default_images(len(trained.data))
    if classifier_penalty is not None and is_private(trained):
        on_progress(
            "The training was private: classifiers are kept, not fitted to clients' images. The "
            "account does not cover the mean squares of normalizations, which are means over these "
            "images without noise."
        )
        classifier_penalty = None
    calibrated = []
    with local_execution():
        for tier in tiers:
            on_progress(f"{tier.name}: {tier.architecture}")

            def client_data(count, architecture=tier.architecture):
                return [
                    client_element(
                        space,
                        *calibration_examples(trained, client, count),
                        architecture,
                        client,
                        np.zeros(2),
                    )
                    for client in range(len(trained.data))
                ]

            fit = {}
            if classifier_penalty is not None:
                fit["classifier_data"] = client_data(images_per_client)
                fit["classifier_penalty"] = classifier_penalty
            calibrated.append(
                await calibrate_federated_async(
                    trained.supernet,
                    tier.architecture,
                    trained.preprocessing,
                    client_data(min(images_per_client, _IMAGES_OF_MEAN_SQUARES)),
                    **fit,
                    on_pass=lambda done: on_progress(_pass_line(done)),
                )
            )
    return calibrated


def is_private(trained: TrainedSupernet) -> bool:
    """Returns whether a training had differential privacy, so that its classifiers are kept."""
    return bool(trained.information["settings"].get("noise_multiplier", 0))


def default_images(clients: int) -> int:
    """Returns the default number of images that each client calibrates on, from 100 to 400."""
    return min(_MAX_IMAGES, max(_MIN_IMAGES, _ALL_IMAGES // clients))


def calibration_examples(
    trained: TrainedSupernet, client: int, images_per_client: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns up to `images_per_client` images and labels on which a client calibrates."""
    images, labels = trained.data.train_examples(client)
    rng = np.random.default_rng([client, _IMAGES])
    chosen = rng.permutation(len(labels))[:images_per_client]
    return images[chosen], labels[chosen]


def calibrate_tiers(*arguments, **options) -> list[dict[str, np.ndarray]]:
    """Runs `calibrate_tiers_async` to completion."""
    return run_blocking(calibrate_tiers_async(*arguments, **options), "calibrate_tiers_async")


def _pass_line(done: CalibrationPass) -> str:
    if done.change is None:
        state = "classifier"
    elif done.number == 1:
        state = "normalized by batches"
    else:
        state = f"changed by {100 * done.change:.1f} %"
    line = f"  calibration {done.number}: {done.examples:,} clients' images, {state}"
    return line if done.choice is None else f"{line}\n{_choice_line(done.choice)}"


def _choice_line(choice: PenaltyChoice) -> str:
    if not choice.is_chosen:
        return (
            f"  Classifier's penalty: {choice.penalty:g}; {choice.held_out} images could be held "
            "out to choose a smaller one, which are too few."
        )
    shares = ", ".join(f"{penalty:g}: {100 * x:.1f} %" for penalty, x in choice.right.items())
    return (
        f"  Classifier's penalty: {choice.penalty:g} (int8: {choice.int8_penalty:g}), the least "
        f"cross-entropy on {choice.held_out:,} images that were held out; right answers on them by "
        f"penalty: {shares}"
    )


def write_calibration(
    path: str | os.PathLike,
    calibration: dict[str, np.ndarray],
    architecture: Architecture,
    supernet_hash: str,
) -> None:
    """Writes a calibration, with the subnet and the hash of the supernet that it belongs to."""
    metadata = {"architecture": json.loads(architecture.to_json()), "supernet_hash": supernet_hash}
    checkpoint.write_tensors(path, "calibration", calibration, metadata)


def read_calibration(
    path: str | os.PathLike, architecture: Architecture, supernet_hash: str
) -> dict[str, np.ndarray]:
    """Reads a calibration that `write_calibration` wrote.

    Raises:
      ValueError: If the file is damaged, or belongs to another subnet or supernet.
    """

    def check(metadata, forms):
        names = {"architecture", "supernet_hash"}
        expect_keys(metadata, names, names, "A calibration")
        found = Architecture.from_fields(metadata["architecture"])
        if found != architecture or metadata["supernet_hash"] != supernet_hash:
            raise ValueError(
                f"expected the calibration of {architecture} of this supernet, received that of "
                f"{found} of supernet {quoted(metadata['supernet_hash'])[1:13]}. Calibrate anew."
            )
        penalties = [name for name in forms if name.endswith("penalty")]
        wrong = [name for name in penalties if tuple(forms[name].shape) != (1,)]
        if wrong:
            raise ValueError(
                f"expected one number as {wrong[0]}, received an array of shape "
                f"{tuple(forms[wrong[0]].shape)}. Calibrate anew."
            )
        # Calibrations of earlier versions have no penalty of `CLASSIFIER`.
        for names in (CLASSIFIER, EARLIER_TENSORS, INT8_TENSORS):
            missing = sorted(set(names) - forms.keys())
            if 0 < len(missing) < len(names):
                raise ValueError(
                    "expected all tensors of a classifier or none, missing are "
                    f"{missing}. Calibrate anew."
                )

    calibration, _ = checkpoint.read_tensors(path, "calibration", check)
    return calibration
