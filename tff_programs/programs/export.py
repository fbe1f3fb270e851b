"""fedsup export SUPERNET: subnets as `.tflite` files that infer and train with the stock runtime.

Each subnet is first calibrated on clients' images, so that its answer for an image does not depend
on the other images in the batch. `--quantize=float16,dynamic,int8` also writes FILE.float16.tflite
and so on, which only infer, next to FILE.tflite, which trains. The `int8` ranges are measured on
some training images of every client, which a server has only in simulation; elsewhere, use images
similar to the clients'.
"""

import os
from collections.abc import Sequence

import numpy as np

from fedsup_tf.files.atomic_write import check_output_folder, check_outputs
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.search.costs import architecture_cost
from fedsup_tf.space import SearchSpace
from tff_programs.programs.calibration_files import read_calibration
from tff_programs.programs.checkpoint import (
    TrainedSupernet,
    name_architectures,
)
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.calibration_flags import (
    classifier_penalty,
    define_calibration_flags,
)
from tff_programs.programs.flags.checkpoint_flags import load_trained_from_flags
from tff_programs.programs.flags.data_flags import define_data_flags
from tff_programs.programs.flags.flag_uses import FlagUse, check_flag_uses
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags, parse_with_path
from tff_programs.programs.subnet_export import (
    TRAINABLE,
    SubnetFiles,
    export_subnets,
    subnet_paths,
)
from tff_programs.reports import report
from tff_programs.reports.inference_report import inference_table
from tflite.export.export import BatchSizes
from tflite.format.metadata import PRECISIONS

_DEFAULTS = BatchSizes()
# Random number stream that selects test images.
_TEST = 8
_TEST_IMAGES = 2000


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_data_flags(define)
    define.path(
        "out", None, "The .tflite file to write, or with --all_tiers a folder for the files."
    )
    define.path(
        "architecture",
        "smallest",
        "Subnet to export: the name of a tier of the training, smallest, largest, an "
        "architecture's JSON file, or bounds on the number of parameters.",
    )
    define.bool("all_tiers", False, "Export every tier of the training.")
    define.path(
        "calibration", None, "File of fedsup calibrate; by default, the subnet is calibrated."
    )
    define_calibration_flags(define)
    define.integer(
        "train_batch_size", _DEFAULTS.train, "Number of images in a training step.", lower_bound=1
    )
    define.integer(
        "evaluate_batch_size",
        _DEFAULTS.evaluate,
        "Number of images in a call of evaluate.",
        lower_bound=1,
    )
    define.integer(
        "infer_batch_size", _DEFAULTS.infer, "Number of images in a call of infer.", lower_bound=1
    )
    define.list(
        "quantize", [], f"Inference-only files to write in addition: {', '.join(PRECISIONS)}."
    )
    define.bool(
        "train_head", False, "Add a training step for only the head and the normalizations."
    )
    define.float(
        "absent_class_weight",
        None,
        "Weight, in the softmax of a training step, of the classes that a device has no example "
        "of; by default as in the training. With a small one, such as 0.03, a device that trains "
        "on few classes forgets the others less.",
        above=0,
        upper_bound=1,
    )


def main(argv: Sequence[str]) -> None:
    """Exports subnets of the supernet that the first argument names."""
    options, path = parse_with_path(define_flags, argv, "the supernet's file")
    if not options.out:
        raise ValueError("Expected --out=FILE.tflite, or with --all_tiers a folder.")
    if options.all_tiers:
        options.let_override("all_tiers", others=("architecture", "calibration"))
        for name in ("architecture", "calibration"):
            options.let_override(name, others=("all_tiers",))
    if options.all_tiers:
        check_output_folder(options.out)
    else:
        inputs = [path, options.calibration] if options.calibration else [path]
        check_outputs([options.out], inputs)
    if options.all_tiers and options.calibration:
        raise ValueError("--calibration holds one subnet, --all_tiers exports several.")
    check_flag_uses(
        options,
        [
            FlagUse(("architecture",), "--noall_tiers", lambda options: not options.all_tiers),
            FlagUse(
                ("images_per_client", "classifier_penalty"),
                "a calibration by this program, without --calibration",
                lambda options: not options.calibration,
            ),
        ],
    )
    unknown = [precision for precision in options.quantize if precision not in PRECISIONS]
    if unknown:
        raise ValueError(
            f"Expected --quantize of {', '.join(PRECISIONS)}, received {unknown[0]!r}."
        )
    trained = load_trained_from_flags(options, path)
    entries = ["tiers"] if options.all_tiers else [options.architecture]
    tiers = name_architectures(
        entries, trained.supernet.space, trained.information, trained.data_settings.seed
    )
    calibrations = None
    if options.calibration:
        (tier,) = tiers
        supernet_hash = fingerprint(trained.weights)
        kept = read_calibration(options.calibration, tier.architecture, supernet_hash)
        calibrations = {tier: kept}
    exported = export_subnets(
        trained,
        subnet_paths(tiers, options.out) if options.all_tiers else {tiers[0]: options.out},
        calibrations=calibrations,
        images_per_client=options.images_per_client,
        classifier_penalty=classifier_penalty(options),
        batch_sizes=BatchSizes(
            options.train_batch_size, options.evaluate_batch_size, options.infer_batch_size
        ),
        precisions=options.quantize,
        with_train_head=options.train_head,
        absent_class_weight=options.absent_class_weight,
        on_progress=print_line,
    )
    rows = [("subnet", "file", "parameters", "MACs", "bytes", "x weights", "seconds")]
    rows += [_row(trained.supernet.space, files) for files in exported]
    print(report.format_table(rows))
    if options.quantize:
        for files in exported:
            print(f"\n{files.tier.name}: {_inference(options, files, trained)}")


def _inference(options: ProgramFlags, files: SubnetFiles, trained: TrainedSupernet) -> str:
    """Returns a table with the time, size and accuracy of each of a subnet's files."""
    dataset = trained.data.dataset
    rng = np.random.default_rng([trained.data_settings.seed, _TEST])
    chosen = rng.permutation(len(dataset.test_labels))[:_TEST_IMAGES]
    table = inference_table(files.paths, dataset.test_images[chosen], dataset.test_labels[chosen])
    return (
        f"inference of {options.infer_batch_size} at once on 1 thread, accuracy on {len(chosen):,} "
        f"test images\n{table}"
    )


def _row(space: SearchSpace, files: SubnetFiles) -> tuple[str, ...]:
    path = files.paths[TRAINABLE]
    cost = architecture_cost(space, files.tier.architecture)
    size = os.path.getsize(path)
    return (
        files.tier.name,
        path,
        f"{cost.parameters:,}",
        f"{cost.macs:,}",
        f"{size:,}",
        f"{size / (4 * cost.parameters):.2f}",
        f"{files.seconds:.1f}",
    )
