"""fedsup certify FILE.tflite --supernet=CHECKPOINT: compares an exported model with its subnet.

The results that each installed runtime (tflite_runtime, ai_edge_litert, TensorFlow's own
interpreter) computes from the file are compared with those of TensorFlow's operations on the
checkpoint: inference, every weight after each training step, save and restore, and threads.
--measure also compares time, memory and size with TensorFlow's; --flex also compares with the usual
export, whose training needs the Flex delegate, and takes some minutes. All results are written to
FILE.tflite.certificate.json. The exit code is 0 if every check holds, otherwise 1.
"""

import os
import sys
from collections.abc import Sequence

import numpy as np

from fedsup_tf.data import datasets
from fedsup_tf.data.data_form import DataForm
from fedsup_tf.data.data_settings import DataSettings
from fedsup_tf.files.atomic_write import check_output_file, write_json
from fedsup_tf.files.reading import reading
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet
from tff_programs.programs.checkpoint import settings_of_data, trained_form
from tff_programs.programs.flags.data_flags import (
    define_data_flags,
    given_data_settings,
    print_notes,
)
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags, parse_with_path
from tff_programs.programs.training_information import saved_preprocessing
from tff_programs.reports import certificate_report
from tflite.certify.certify import certify_tflite
from tflite.profiling.compare_engines import measure

# Enough for a few steps on different examples; more would only take longer to load.
_MAX_IMAGES = 2048


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_data_flags(define)
    define.path("supernet", None, "Checkpoint of the supernet that the file was exported from.")
    define.integer("steps", 10, "Number of training steps to compare.", lower_bound=1)
    define.list(
        "runtimes",
        [],
        "Runtimes to run the file in: tflite_runtime, ai_edge_litert, tensorflow; by default, all "
        "that are installed.",
    )
    define.bool("measure", False, "Also measure time, memory and size.")
    define.bool("flex", False, "Also measure the usual export with the Flex delegate.")


def main(argv: Sequence[str]) -> None:
    """Certifies the file that the argument names."""
    options, path = parse_with_path(define_flags, argv, "the .tflite file")
    if not options.supernet:
        raise ValueError(
            "Expected --supernet=CHECKPOINT, the supernet that the file was exported from."
        )
    supernet, information = Supernet.load_checkpoint(options.supernet)
    dataset, name = dataset_from_flags(options, supernet, information)
    preprocessing = saved_preprocessing(information)
    if preprocessing is None and dataset is not None:
        preprocessing = dataset.preprocessing
    if preprocessing is None:
        raise ValueError(
            f"{options.supernet!r}: expected the preprocessing of a training in it, received none. "
            "Give --dataset, on which it was trained, with --data_dir if need be."
        )
    images, labels = _examples(dataset, supernet.space, options.seed)
    certificate = certify_tflite(
        path,
        supernet,
        preprocessing,
        images,
        labels,
        options.steps,
        runtimes=options.runtimes,
        class_names=information.get("class_names"),
    )
    print(certificate_report.checks_table(certificate, name), flush=True)
    fields = {**certificate.to_fields(), "examples": name}
    if options.measure or options.flex:
        subnet = supernet.extract(certificate.metadata.architecture)
        fields["measured"] = measure(path, subnet, preprocessing, with_flex=options.flex)
        print("\n" + certificate_report.measured_table(fields["measured"]))
    certificate_path = f"{path}.certificate.json"
    check_output_file(certificate_path)
    write_json(certificate_path, fields)
    failed = [
        f"{check.name} ({check.runtime})" if check.runtime else check.name
        for check in certificate.checks
        if not check.holds
    ]
    verdict = f"does not hold: {', '.join(failed)}" if failed else "holds"
    print(f"\n{os.path.basename(path)} {verdict}; {certificate_path}")
    sys.exit(1 if failed else 0)


def dataset_from_flags(
    options: ProgramFlags, supernet: Supernet, information: dict
) -> tuple[datasets.ImageDataset | None, str]:
    """Loads the data set that `--dataset` names, by default that of the training.

    Returns:
      The data set and its name. The data set is None, for random images, if the flag is not given
      and the training's data set is unknown or cannot be loaded.

    Raises:
      ValueError: If the data set that the flag names cannot be read, or its form differs from that
        of the data set that the supernet was trained on.
    """
    of_training = information.get("settings", {}).get("dataset")
    name = options.dataset if options["dataset"].present else of_training
    if name is None:
        return None, "random images"
    form = trained_form(supernet, information)
    changes = given_data_settings(options) | {"dataset": name}
    settings = settings_of_data(form, information.get("settings", {}), changes)
    try:
        dataset = _load(settings)
    except ValueError as error:
        if options["dataset"].present:
            raise
        print(f"random images in place of {name}: {error}", file=sys.stderr)
        return None, "random images"
    if name == of_training:
        form = form._replace(preprocessing=None)
    with reading(options.supernet, "the supernet of a training"):
        form.check(name, DataForm.of_dataset(dataset))
    return dataset, f"{name}, test part"


def _examples(
    dataset: datasets.ImageDataset | None, space: SearchSpace, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of the data set's test part, or random ones without a data set."""
    random = np.random.default_rng(seed)
    if dataset is None:
        images = random.integers(0, 256, (_MAX_IMAGES // 8, *space.image_shape), np.uint8)
        return images, random.integers(0, space.classes, len(images), np.int32)
    chosen = random.permutation(len(dataset.test_labels))[:_MAX_IMAGES]
    return dataset.test_images[chosen], dataset.test_labels[chosen]


def _load(settings: DataSettings) -> datasets.ImageDataset:
    if not settings.is_own:
        return datasets.load_dataset(settings.dataset, settings.data_dir, settings.image_shape)
    data = settings.load_own()
    print_notes(data.notes)
    return data.dataset
