"""fedsup certify FILE.tflite --supernet=CHECKPOINT: holds an exported model against its subnet.

What each installed runtime (tflite_runtime, ai_edge_litert, TensorFlow's own interpreter) computes
from the file is compared with what TensorFlow's operations compute from the checkpoint: inference,
every weight after each training step, save and restore, threads. --measure adds time, memory and
size beside TensorFlow's; --flex compares with the usual export, whose training needs the Flex
delegate, and takes some minutes. FILE.certificate.json holds it all. The exit code is 0 if every
check holds, else 1.
"""

import os
import sys
from collections.abc import Sequence

import numpy as np

from fedsup_tf.data import datasets
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.files.atomic_write import write_json
from fedsup_tf.supernet import Supernet
from tff_programs.programs.checkpoint import preprocessing_of
from tff_programs.programs.flags.data_flags import define_data_flags
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags, parse_flags
from tff_programs.reports import certificate_report
from tflite.certify.certify import certify_tflite
from tflite.profiling.compare_engines import measure

# Enough for a few steps of different examples; more only take longer to load into memory.
_MOST_IMAGES = 2048


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_data_flags(define)
    define.path("supernet", None, "The checkpoint that the file was exported from.")
    define.integer("steps", 10, "Training steps that are compared.", lower_bound=1)
    define.list(
        "runtimes",
        [],
        "Runtimes that compute the file: tflite_runtime, ai_edge_litert, tensorflow; by default "
        "all that are installed.",
    )
    define.bool("measure", False, "Measures time, memory and size too.")
    define.bool("flex", False, "Measures the usual export with the Flex delegate too.")


def main(argv: Sequence[str]) -> None:
    """Certifies the file that the argument names."""
    options, arguments = parse_flags(define_flags, argv)
    if len(arguments) != 1:
        raise ValueError(f"Expected one argument, the .tflite file; received {arguments}.")
    if not options.supernet:
        raise ValueError(
            "Expected --supernet=CHECKPOINT, the supernet that the file was exported from."
        )
    path = arguments[0]
    supernet, information = Supernet.load_checkpoint(options.supernet)
    preprocessing = preprocessing_of(information, options.supernet)
    images, labels, name = _examples(options, supernet, information)
    certificate = certify_tflite(
        path,
        supernet,
        preprocessing,
        images,
        labels,
        options.steps,
        runtimes=options.runtimes,
    )
    print(certificate_report.checks_table(certificate, name), flush=True)
    fields = {**certificate.to_fields(), "examples": name}
    if options.measure or options.flex:
        subnet = supernet.extract(certificate.metadata.architecture)
        fields["measured"] = measure(path, subnet, preprocessing, with_flex=options.flex)
        print("\n" + certificate_report.measured_table(fields["measured"]))
    certificate_path = f"{path}.certificate.json"
    write_json(certificate_path, fields)
    failed = [
        f"{check.name} ({check.runtime})" if check.runtime else check.name
        for check in certificate.checks
        if not check.holds
    ]
    verdict = f"does not hold: {', '.join(failed)}" if failed else "holds"
    print(f"\n{os.path.basename(path)} {verdict}; {certificate_path}")
    sys.exit(1 if failed else 0)


def _examples(
    options: ProgramFlags, supernet: Supernet, information: dict
) -> tuple[np.ndarray, np.ndarray, str]:
    """Images and labels of the training's data set, or random ones where it is not at hand."""
    space = supernet.space
    name = information.get("settings", {}).get("dataset")
    if options["dataset"].present or name is None:
        name = options.dataset
    random = np.random.default_rng(options.seed)
    try:
        dataset = _load(options, name, supernet, information)
    except ValueError as error:
        print(f"random images in place of {name}: {error}", file=sys.stderr)
        images = random.integers(0, 256, (_MOST_IMAGES // 8, *space.image_shape), np.uint8)
        return images, random.integers(0, space.classes, len(images), np.int32), "random images"
    if len(dataset.class_names) > space.classes:
        raise ValueError(
            f"Expected a data set of at most {space.classes} classes, received {name}. Give "
            "--dataset, the one of the training."
        )
    chosen = random.permutation(len(dataset.test_labels))[:_MOST_IMAGES]
    return dataset.test_images[chosen], dataset.test_labels[chosen], f"{name}, test part"


def _load(
    options: ProgramFlags, name: str, supernet: Supernet, information: dict
) -> datasets.ImageDataset:
    space = supernet.space
    if name in datasets.DATASETS:
        return datasets.load_dataset(name, options.data_dir, space.image_shape)
    own = FederatedDataset.from_path(
        name,
        image_shape=space.image_shape,
        resize=options.resize,
        background=options.background,
        class_names=information.get("class_names"),
        preprocessing=preprocessing_of(information, options.supernet),
        test_share=options.test_share,
        seed=options.seed,
    )
    return own.dataset
