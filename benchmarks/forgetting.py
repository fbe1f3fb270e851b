"""Measures what phones forget when they train an exported subnet on the few classes that they have.

    uv run fedsup train --flagfile=experiments/fashion_mnist.flags --out=runs/fashion
    uv run python benchmarks/forgetting.py runs/fashion/supernet.safetensors

Exports the smallest and the largest tier's subnet with several weights of absent classes, trains
each file on some clients' examples, and prints the accuracy before and after, as means of the
clients: on the test images of the client's own classes, and on those of all classes.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import tempfile

import numpy as np

from tff_programs.execution.contexts import local_execution
from tff_programs.programs.calibration_files import calibrate_tiers
from tff_programs.programs.checkpoint import TrainedSupernet, load_trained
from tff_programs.programs.subnet_export import export_subnets
from tff_programs.programs.training_information import trained_tiers
from tff_programs.reports.report import format_table
from tflite.device.trainer import DeviceTrainer

_CALIBRATION_IMAGES = 100


def accuracies(trainer: DeviceTrainer, labels: np.ndarray, test) -> list[float]:
    """Returns the accuracy on the test images of the classes in `labels`, and on all of them."""
    test_images, test_labels = test
    own = np.isin(test_labels, labels)
    return [
        trainer.evaluate(images, of_images)[1]
        for images, of_images in ((test_images[own], test_labels[own]), test)
    ]


def train_on_clients(path: str, trained: TrainedSupernet, options) -> np.ndarray:
    """Returns the accuracies before and after training, `(2, 2)`, means of the clients."""
    dataset = trained.data.dataset
    test = dataset.test_images[: options.test_images], dataset.test_labels[: options.test_images]
    found = []
    for client in options.clients:
        images, labels = trained.data.train_examples(client)
        images, labels = images[: options.examples], labels[: options.examples]
        trainer = DeviceTrainer(path, trusted=True)
        before = accuracies(trainer, labels, test)
        trainer.fit(
            images, labels, epochs=options.epochs, learning_rate=options.learning_rate, seed=0
        )
        trainer.refresh_mean_squares(images, labels, seed=0)
        found.append([before, accuracies(trainer, labels, test)])
    return np.mean(found, axis=0)


def main() -> None:
    """Prints a row for each subnet and weight."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("supernet", help="file of a trained supernet")
    parser.add_argument("--weights", type=float, nargs="+", default=[1, 0.1, 0.03, 0.01, 0.001])
    parser.add_argument("--clients", type=int, nargs="+", default=[3, 17, 40, 77])
    parser.add_argument("--examples", type=int, default=300, help="examples of a client")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning_rate", type=float, default=0.02)
    parser.add_argument("--test_images", type=int, default=2000)
    options = parser.parse_args()
    trained = load_trained(options.supernet)
    first, *_, last = trained_tiers(trained.information)
    with local_execution():
        calibrated = calibrate_tiers(trained, (first, last), _CALIBRATION_IMAGES)
    calibrations = dict(zip((first, last), calibrated, strict=True))
    rows = [("subnet", "weight", "own classes", "then", "all classes", "then")]
    with tempfile.TemporaryDirectory() as folder:
        for weight in options.weights:
            paths = {
                tier: os.path.join(folder, f"{tier.name}-{weight}.tflite") for tier in calibrations
            }
            export_subnets(trained, paths, calibrations=calibrations, absent_class_weight=weight)
            for tier, path in paths.items():
                before, after = 100 * train_on_clients(path, trained, options)
                numbers = (before[0], after[0], before[1], after[1])
                rows.append((tier.name, f"{weight:g}", *(f"{number:.1f}" for number in numbers)))
                print(*rows[-1], flush=True)
    print(format_table(rows))


if __name__ == "__main__":
    main()
