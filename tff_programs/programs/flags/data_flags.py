"""Flags that several programs share: the data set and its federated partition."""

import dataclasses
import sys
from collections.abc import Collection, Sequence
from typing import Any

from fedsup_tf.data import partition
from fedsup_tf.data.data_settings import (
    DEFAULT_CLIENTS,
    INCOMPLETE_CLIENTS,
    PARTITION_OPTIONS,
    DataSettings,
)
from fedsup_tf.data.datasets import DATASETS
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.data.pictures import PictureForm, background_colour
from fedsup_tf.data.preprocessing import PICTURE_FIELDS, RESIZES
from tff_programs.programs.flags.flag_uses import FlagUse, check_flag_uses
from tff_programs.programs.flags.number_flags import MAX_SEED
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags

_DEFAULTS = DataSettings()
# Settings that a model determines.
_OF_MODELS = ("class_names", "preprocessing")
_OF_OWN_DATA = ("resize", "background", "pixel_scale", "test_share")
_NAMES = tuple(
    field.name for field in dataclasses.fields(DataSettings) if field.name not in _OF_MODELS
)


def define_data_flags(define: FlagDefiner) -> None:
    """Defines the flags for `data_settings_from_flags`."""
    define.dataset(
        "dataset",
        _DEFAULTS.dataset,
        "Data set: a name, or the path of own data, which is a folder of CLASS/PICTURE or "
        "CLIENT/CLASS/PICTURE, a .csv file of path,label,client,split, or an .npz file.",
    )
    define.path(
        "data_dir", None, "Folder of the data set's official archive, or the archive itself."
    )
    define.list(
        "image_shape",
        None,
        "Shape height,width,channels, such as 32,32,3, that images are padded to and own pictures "
        "are scaled to. By default, the data set's own shape.",
    )
    define.enum(
        "partition",
        _DEFAULTS.partition,
        (partition.NATURAL, *partition.PARTITIONS),
        "Division of the examples among clients. By default natural for own data with clients, "
        "otherwise shard.",
    )
    define.integer(
        "clients",
        _DEFAULTS.clients,
        "Number of clients, unless --partition=natural. By default 20, or fewer for few examples.",
        lower_bound=1,
    )
    define.integer(
        "classes_per_client",
        _DEFAULTS.classes_per_client,
        "Number of classes per client, with --partition=shard.",
        lower_bound=1,
    )
    define.float(
        "beta",
        _DEFAULTS.beta,
        "Concentration, with --partition=dirichlet; the smaller, the fewer classes per client.",
        above=0,
    )
    define.float(
        "quantity",
        _DEFAULTS.quantity,
        "Standard deviation of the logarithm of the clients' numbers of examples; 0 for equal "
        "numbers.",
        lower_bound=0,
        upper_bound=10,
    )
    define.enum(
        "incomplete_clients",
        _DEFAULTS.incomplete_clients,
        INCOMPLETE_CLIENTS,
        "Treatment of clients without training or test examples.",
    )
    define.enum(
        "resize",
        _DEFAULTS.resize,
        RESIZES,
        "Resizing of own pictures to the aspect ratio of --image_shape: crop cuts them, fit adds "
        "background. By default as for the pictures of a net's training, otherwise crop.",
    )
    define.string(
        "background",
        _DEFAULTS.background,
        "Colour behind transparent pixels of own pictures, such as white or #ff8000. By default as "
        "for the pictures of a net's training, otherwise white.",
    )
    define.float(
        "pixel_scale",
        _DEFAULTS.pixel_scale,
        "Value of full brightness in own arrays, and in own pictures of more than 8 bits, such as "
        "4095 for 12 bits. By default determined by their types and files.",
        above=0,
    )
    define.float(
        "test_share",
        _DEFAULTS.test_share,
        "Share of own data used for the test, if it has no test part.",
        above=0,
        below=1,
    )
    define.integer(
        "seed",
        _DEFAULTS.seed,
        "Seed of all random choices.",
        lower_bound=0,
        upper_bound=MAX_SEED,
    )
    define.validator(
        "image_shape",
        lambda values: not values or (len(values) == 3 and all(map(str.isdecimal, values))),
        "Expected three whole numbers, height,width,channels, such as 32,32,3.",
    )
    define.validator(
        "background",
        lambda text: text is None or bool(background_colour(text)),
        "Expected a colour such as white or #ff8000.",
    )


def data_settings_from_flags(
    options: ProgramFlags, image_shape: tuple[int, int, int] | None = None
) -> DataSettings:
    """Returns the data that the flags name.

    Args:
      options: The program's flags.
      image_shape: Shape of the images without --image_shape; the data set's own by default.
    """
    settings = DataSettings(**{name: options[name].value for name in _NAMES})
    shape = options.image_shape
    shape = tuple(map(int, shape)) if shape else image_shape
    return dataclasses.replace(settings, image_shape=shape, data_dir=settings.data_dir or None)


def data_settings_of_run(options: ProgramFlags, data: FederatedDataset) -> dict[str, Any]:
    """Returns the settings that identify a run's data, which do not include `data_dir`."""
    settings = {name: options[name].value for name in _NAMES if name != "data_dir"}
    settings["partition"] = data.partition
    for name in PICTURE_FIELDS:
        settings[name] = settings[name] or getattr(PictureForm, name)
    if settings["clients"] is None:
        is_natural = data.partition == partition.NATURAL
        settings["clients"] = DEFAULT_CLIENTS if is_natural else len(data)
    # Omitted at their defaults, so that runs of versions without these settings can be continued.
    for name in ("quantity", "incomplete_clients", "pixel_scale"):
        if settings[name] == getattr(_DEFAULTS, name):
            del settings[name]
    if options.dataset in DATASETS:
        # Named data sets do not use the settings of own data.
        return {name: value for name, value in settings.items() if name not in _OF_OWN_DATA}
    return {**settings, "data_hash": data.fingerprint()}


def given_data_settings(options: ProgramFlags, apart_from: Collection[str] = ()) -> dict[str, Any]:
    """Returns the data settings whose flags are given, by name.

    An image shape in a flag file is not one of them, since the supernet determines it.
    """
    names = [name for name in _NAMES if name != "image_shape" and name not in apart_from]
    given = {name: options[name].value for name in names if options[name].present}
    if options.image_shape and options.is_on_command_line("image_shape"):
        given["image_shape"] = tuple(map(int, options.image_shape))
    return given


def load_data(options: ProgramFlags, settings: DataSettings) -> FederatedDataset:
    """Loads data, refuses flags that have no effect on it, and prints notes on unused data.

    Args:
      options: The program's flags.
      settings: Settings of the data.

    Raises:
      ValueError: If the data cannot be loaded, or a flag has no effect on it.
    """
    data = settings.load()
    check_data_options(options, settings, data.partition)
    print_notes(data.notes)
    return data


def print_notes(notes: Sequence[str]) -> None:
    """Prints notes on unused data to standard error."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr, flush=True)


def check_data_options(options: ProgramFlags, settings: DataSettings, chosen: str) -> None:
    """Refuses flags on the command line that the data or its partition does not use.

    Such flags are allowed in a flag file, which may have been written for other choices.

    Args:
      options: The program's flags.
      settings: Settings of the data.
      chosen: Kind of its partition.

    Raises:
      ValueError: If there is such a flag.
    """
    own = FlagUse(_OF_OWN_DATA, "a path of own data as --dataset", lambda _: settings.is_own)
    named = FlagUse(("data_dir",), "a data set's name as --dataset", lambda _: not settings.is_own)
    check_flag_uses(options, [own, named])
    for option, kinds in PARTITION_OPTIONS.items():
        if chosen not in kinds and options.is_on_command_line(option):
            raise ValueError(
                f"--{option} goes with --partition={' or '.join(kinds)}, received "
                f"--partition={chosen}. Leave one of them out."
            )
