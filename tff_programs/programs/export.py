"""fedsup export SUPERNET: subnets as `.tflite` files that infer and train with the stock runtime.

Each subnet is calibrated on clients' images first, so that it gives the same answer for an image
alone and among others. `--quantize=float16,dynamic,int8` writes beside FILE.tflite, which trains,
FILE.float16.tflite and so on, which only infer. The ranges of `int8` are those of some training
images of every client, as a server has them in simulation alone; elsewhere take images that are
like the clients'.
"""

import os
import time

import numpy as np
from absl import flags

from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.search.costs import architecture_cost
from tff_programs.programs.calibration_files import calibrate_tiers, read_calibration
from tff_programs.programs.checkpoint import (
    TrainedSupernet,
    device_training,
    load_trained,
    name_architectures,
)
from tff_programs.programs.flags.data_flags import define_data_flags
from tff_programs.reports import report
from tff_programs.reports.inference_report import inference_table
from tff_programs.simulation.tiers import Tier
from tflite.export.export import BatchSizes, Origin, export_tflite
from tflite.export.quantize import PRECISIONS, export_inference

FLAGS = flags.FLAGS
_DEFAULTS = BatchSizes()
# Streams of random numbers: which images.
_REPRESENTATIVE, _TEST = 7, 8
_REPRESENTATIVE_IMAGES = 200
_TEST_IMAGES = 2000

define_data_flags()
flags.DEFINE_string("out", None, "The .tflite to write; with --all_tiers a folder for them.")
flags.DEFINE_string(
    "architecture",
    "smallest",
    "Which subnet: a tier of the training by name, smallest, largest, an architecture's JSON file, "
    "or bounds of parameters.",
)
flags.DEFINE_bool("all_tiers", False, "Export every tier of the training.")
flags.DEFINE_string("calibration", None, "A file of fedsup calibrate; by default calibrates anew.")
flags.DEFINE_integer("images_per_client", 30, "Images that a client calibrates on.", lower_bound=1)
flags.DEFINE_integer("train_batch_size", _DEFAULTS.train, "Images of a step.", lower_bound=1)
flags.DEFINE_integer("evaluate_batch_size", _DEFAULTS.evaluate, "Of evaluate.", lower_bound=1)
flags.DEFINE_integer("infer_batch_size", _DEFAULTS.infer, "Images of infer.", lower_bound=1)
flags.DEFINE_list(
    "quantize", [], f"Files that only infer to write beside it, of {', '.join(PRECISIONS)}."
)
flags.DEFINE_bool("train_head", False, "Add a step for the head and normalizations alone.")


def main(argv) -> None:
    """Exports subnets of the supernet that the first argument names."""
    if len(argv) != 2:
        raise ValueError(f"Expected one argument, the supernet's file; received {argv[1:]}.")
    if not FLAGS.out:
        raise ValueError("Expected --out=FILE.tflite, or with --all_tiers a folder.")
    if FLAGS.all_tiers and FLAGS.calibration:
        raise ValueError("--calibration holds one subnet, --all_tiers exports several.")
    unknown = [precision for precision in FLAGS.quantize if precision not in PRECISIONS]
    if unknown:
        raise ValueError(
            f"Expected --quantize of {', '.join(PRECISIONS)}, received {unknown[0]!r}."
        )
    trained = load_trained(argv[1])
    entries = ["tiers"] if FLAGS.all_tiers else [FLAGS.architecture]
    tiers = name_architectures(entries, trained.supernet.space, trained.information, FLAGS.seed)
    supernet_hash = fingerprint(trained.weights)
    if FLAGS.calibration:
        (tier,) = tiers
        found = [read_calibration(FLAGS.calibration, tier.architecture, supernet_hash)]
    else:
        found = calibrate_tiers(trained, tiers, FLAGS.images_per_client)
    origin = Origin(
        space=trained.supernet.space,
        supernet_hash=supernet_hash,
        round=trained.information["round"],
        class_names=trained.dataset.class_names,
    )
    training = device_training(trained.information)
    batch_sizes = BatchSizes(
        FLAGS.train_batch_size, FLAGS.evaluate_batch_size, FLAGS.infer_batch_size
    )
    tables = []
    rows = [("subnet", "file", "parameters", "MACs", "bytes", "x weights", "seconds")]
    for tier, mean_squares in zip(tiers, found, strict=True):
        path = os.path.join(FLAGS.out, f"{tier.name}.tflite") if FLAGS.all_tiers else FLAGS.out
        start = time.monotonic()
        subnet = trained.supernet.extract(tier.architecture)
        export_tflite(
            path,
            subnet,
            mean_squares,
            trained.preprocessing,
            training,
            origin,
            batch_sizes,
            with_train_head=FLAGS.train_head,
        )
        rows.append(_row(trained.supernet.space, tier, path, time.monotonic() - start))
        if FLAGS.quantize:
            arguments = (subnet, mean_squares, trained.preprocessing, origin)
            tables.append(f"\n{tier.name}: {_export_inference(path, arguments, trained)}")
    print(report.format_table(rows), *tables, sep="\n")


def _export_inference(path: str, arguments: tuple, trained: TrainedSupernet) -> str:
    """Writes the files that only infer beside `path`, and returns the table of all."""
    representative = _representative(trained)
    paths = {"float32, trains": path}
    for precision in FLAGS.quantize:
        paths[precision] = f"{path.removesuffix('.tflite')}.{precision}.tflite"
        export_inference(
            paths[precision], *arguments, precision, FLAGS.infer_batch_size, representative
        )
    dataset = trained.dataset
    rng = np.random.default_rng([FLAGS.seed, _TEST])
    chosen = rng.permutation(len(dataset.test_labels))[:_TEST_IMAGES]
    table = inference_table(paths, dataset.test_images[chosen], dataset.test_labels[chosen])
    return (
        f"inference of {FLAGS.infer_batch_size} at once on 1 thread, accuracy on {len(chosen):,} "
        f"test images\n{table}"
    )


def _representative(trained: TrainedSupernet) -> np.ndarray:
    """As many training images of each client."""
    rng = np.random.default_rng([FLAGS.seed, _REPRESENTATIVE])
    each = -(-_REPRESENTATIVE_IMAGES // len(trained.partition))
    chosen = [rng.permutation(indices.train)[:each] for indices in trained.partition]
    return trained.dataset.train_images[np.concatenate(chosen)]


def _row(space, tier: Tier, path: str, seconds: float) -> tuple[str, ...]:
    cost = architecture_cost(space, tier.architecture)
    size = os.path.getsize(path)
    return (
        tier.name,
        path,
        f"{cost.parameters:,}",
        f"{cost.macs:,}",
        f"{size:,}",
        f"{size / (4 * cost.parameters):.2f}",
        f"{seconds:.1f}",
    )
