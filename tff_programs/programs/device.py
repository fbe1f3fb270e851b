"""fedsup device MODEL.tflite --out=FOLDER: trains an exported subnet on one person's examples.

Does what the app on a phone does, with the same file and the same runtime, without TensorFlow. The
examples are those of one client of a data set (--dataset, --client), or those of --data: a folder
with a subfolder of pictures for each class, a .csv table of pictures, or an .npz file of `images`
and `labels`. Afterwards, FOLDER holds update.safetensors, for `fedsup merge`, and training.png. If
a run is killed, the same command continues after its last complete epoch.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from fedsup_tf.data.own_data import split_by_class
from fedsup_tf.divergence import guessing_loss, largest_sound_loss
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.files.reading import reading
from tff_programs.programs.flags.data_flags import (
    data_settings_from_flags,
    define_data_flags,
    load_data,
    print_notes,
)
from tff_programs.programs.flags.flag_uses import FlagUse, check_flag_uses
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags, parse_with_path
from tff_programs.programs.flags.runtime_flags import define_runtime_flag
from tff_programs.programs.personal_examples import (
    Examples,
    at_resolution,
    check_form,
    client_examples,
    client_number,
    for_model,
    read_examples,
)
from tff_programs.reports import device_report
from tff_programs.reports.device_report import Scores
from tflite.device.trainer import DeviceTrainer
from tflite.format.update_file import write_update

# Flags that select a client of a data set; --data replaces them.
_OF_DATASET = ("dataset", "data_dir", "image_shape", "partition", "clients", "client")


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_data_flags(define)
    define.output_folder("out", None, "Folder for the update, the plot and the checkpoint.")
    define.path("data", None, "Path of one person's own data, instead of a data set.")
    define.string("client", "0", "Name or number of the data set's client that trains.")
    define.integer("epochs", 10, "Total number of passes over the examples.", lower_bound=1)
    define.float("learning_rate", 0.02, "Learning rate of every step.", above=0)
    define.integer(
        "patience",
        None,
        "Hold out --held_out_share of the examples, and stop after this many epochs without a "
        "lower loss on them; the best epoch is kept.",
        lower_bound=1,
    )
    define.float(
        "held_out_share",
        0.2,
        "Share of the examples that is held out, with --patience.",
        above=0,
        below=1,
    )
    define.bool(
        "trusted",
        False,
        "Open the model without first trying it in a separate process; for trusted files.",
    )
    define_runtime_flag(define)
    define.bool("head_only", False, "Train only the classifier and the normalizations.")
    define.integer(
        "threads",
        1,
        "Maximum number of threads; a step runs on one or on all, whichever is faster.",
        lower_bound=1,
        upper_bound=1024,
    )


def main(argv: Sequence[str]) -> None:
    """Trains the model that the argument names."""
    options, path = parse_with_path(define_flags, argv, "the model's .tflite file")
    if not options.out:
        raise ValueError("Expected --out=FOLDER, where the update is written.")
    check_flag_uses(
        options,
        [FlagUse(("held_out_share",), "--patience", lambda options: options.patience is not None)],
    )
    trainer = DeviceTrainer(path, options.threads, options.trusted, options.runtime)
    examples = at_resolution(examples_from_flags(options, trainer, path), trainer.metadata)
    kept = np.arange(len(examples.labels))
    held_out = None
    if options.patience is not None:
        kept, aside = split_by_class(examples.labels, options.held_out_share, options.seed)
        held_out = examples.images[aside], examples.labels[aside]
    images, labels = examples.images[kept], examples.labels[kept]
    before = _scores(trainer, examples, images, labels)
    checkpoint = os.path.join(options.out, "checkpoint.safetensors")
    settings = _settings(options, images, labels)
    if os.path.exists(checkpoint):
        _check_settings(options, trainer.load_checkpoint(checkpoint), settings)
    done = trainer.epochs_done
    print(_describe(trainer, examples, len(labels), held_out, path), flush=True)
    if done:
        print(f"goes on after epoch {done}, from {checkpoint}", flush=True)

    def on_epoch(report):
        # Saved before the line is printed, so that a reported epoch is never lost.
        trainer.save_checkpoint(checkpoint, settings)
        line = device_report.epoch_line(report, options.epochs, len(labels), before.loss)
        print(line, flush=True)

    history = trainer.fit(
        images,
        labels,
        epochs=max(0, options.epochs - done),
        learning_rate=options.learning_rate,
        seed=options.seed,
        held_out=held_out,
        patience=options.patience,
        head_only=options.head_only,
        on_epoch=on_epoch,
    )
    # Mean squares are not part of the update, but they affect the scores of the person's model.
    trainer.refresh_mean_squares(images, labels, seed=options.seed)
    after = _scores(trainer, examples, images, labels)
    _check_losses(options, before.loss, after.loss, len(trainer.metadata.class_names))
    update = trainer.update(
        examples=len(labels),
        loss_before=before.loss,
        loss_after=after.loss,
        # The name of a person's own data is private.
        client=None if options.data else examples.name,
    )
    paths = [os.path.join(options.out, name) for name in ("update.safetensors", "training.png")]
    write_update(paths[0], update)
    title = f"{trainer.metadata.architecture} on {examples.name}"
    device_report.draw_training(paths[1], title, trainer.history, before, after)
    print(device_report.gain_line(before, after, len(examples.test_labels)))
    # Epochs of an earlier call may have run on another machine.
    if history:
        print(device_report.speed_line(history, len(labels)))
    print(", ".join(paths))


def examples_from_flags(options: ProgramFlags, trainer: DeviceTrainer, path: str) -> Examples:
    """Loads the examples that the flags name.

    Args:
      options: The program's flags.
      trainer: Trainer of the model that learns from them.
      path: Path of the model's file, for messages.

    Raises:
      ValueError: If the examples cannot be read, or their form differs from that of the model's
        training data.
    """
    metadata = trainer.metadata
    # A flag file may set either; the command line takes precedence.
    if options.data:
        options.let_override("data", others=_OF_DATASET)
    options.let_override("dataset", others=("data",))
    settings = data_settings_from_flags(options)
    if options.data:
        clash = [name for name in _OF_DATASET if options[name].present]
        if clash:
            raise ValueError(f"--data is instead of --{clash[0]}. Leave one of them out.")
        settings = dataclasses.replace(settings, dataset=options.data)
        examples, notes = read_examples(for_model(settings, metadata))
        print_notes(notes)
        return examples
    settings = for_model(settings, metadata)
    data = load_data(options, settings)
    with reading(path, "a model that fedsup export wrote"):
        check_form(data, metadata)
    client = client_number(data, options.client)
    return client_examples(data, client, f"client {data.client_names[client]} of {data.name}")


def _scores(trainer, examples: Examples, images, labels) -> Scores:
    test_loss, test_accuracy = trainer.evaluate(examples.test_images, examples.test_labels)
    return Scores(trainer.evaluate(images, labels)[0], test_loss, test_accuracy)


def _settings(options: ProgramFlags, images: np.ndarray, labels: np.ndarray) -> dict:
    """Returns the settings that must not change when a run is continued."""
    names = ("learning_rate", "seed", "patience", "held_out_share", "head_only")
    examples = fingerprint({"images": images, "labels": labels})
    return {**{name: options[name].value for name in names}, "examples": examples}


def _check_settings(options: ProgramFlags, before: dict, now: dict) -> None:
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise ValueError(
            f"--out={options.out} holds a run with other settings: expected {changed[0]} "
            f"{before.get(changed[0])}, received {now[changed[0]]}. Give the same, or another "
            "folder."
        )


def _check_losses(options: ProgramFlags, before: float, after: float, classes: int) -> None:
    """Raises an error if the training diverged, so that no update is written."""
    if after > max(before, largest_sound_loss(classes)):
        raise ValueError(
            "The training diverged: expected a loss below that of guessing, "
            f"{guessing_loss(classes):.2f}, received {after:.4g}, after {before:.4g} before it. No "
            f"update is written. Give a --learning_rate below {options.learning_rate:g}, and "
            "another --out."
        )


def _describe(trainer, examples: Examples, count: int, held_out, path: str) -> str:
    metadata = trainer.metadata
    classes = len(np.unique(examples.labels))
    parts = [f"{count} training images", f"{len(examples.test_labels)} for the test"]
    if held_out is not None:
        parts.insert(1, f"{len(held_out[1])} held out")
    return (
        f"model      {path}: {metadata.architecture}, {metadata.parameters:,} parameters, "
        f"{metadata.macs:,} MACs, supernet of round {metadata.round}\n"
        f"examples   {examples.name}: {', '.join(parts)}, {classes} of "
        f"{len(metadata.class_names)} classes"
    )
