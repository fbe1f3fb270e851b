"""Flags that several programs share: the data set and its federated partition."""

import dataclasses
from collections.abc import Collection
from typing import Any

from fedsup_tf.data import datasets, partition
from fedsup_tf.data.data_settings import PARTITION_OPTIONS, DataSettings
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags

_DEFAULTS = DataSettings()
_NAMES = tuple(field.name for field in dataclasses.fields(DataSettings))


def define_data_flags(define: FlagDefiner) -> None:
    """Defines the flags of `data_settings_from_flags`."""
    define.enum("dataset", _DEFAULTS.dataset, datasets.DATASETS, "Data set.")
    define.path(
        "data_dir", None, "Folder of the data set's official archive, or the archive itself."
    )
    define.list(
        "image_shape",
        None,
        "Pads images to height,width,channels, such as 32,32,3. The data set's own by default.",
    )
    define.enum(
        "partition",
        _DEFAULTS.partition,
        partition.PARTITIONS,
        "How examples are spread over clients.",
    )
    define.integer("clients", _DEFAULTS.clients, "Number of clients.", lower_bound=1)
    define.integer(
        "classes_per_client",
        _DEFAULTS.classes_per_client,
        "Classes a client holds, with --partition=shard.",
        lower_bound=1,
    )
    define.float(
        "beta",
        _DEFAULTS.beta,
        "Concentration, with --partition=dirichlet: the smaller, the fewer classes.",
        above=0,
    )
    define.integer("seed", _DEFAULTS.seed, "Decides everything that is random.", lower_bound=0)
    define.validator(
        "image_shape",
        lambda values: values is None or (len(values) == 3 and all(map(str.isdecimal, values))),
        "Expected three whole numbers, height,width,channels, such as 32,32,3.",
    )


def data_settings_from_flags(
    options: ProgramFlags, image_shape: tuple[int, int, int] | None = None
) -> DataSettings:
    """Returns the data that the flags name.

    Args:
      options: The program's flags.
      image_shape: Of the images where --image_shape is not given; the data set's own by default.

    Raises:
      ValueError: If the command line gives a value that the chosen partition does not use.
    """
    check_partition_options(options, options.partition)
    settings = DataSettings(**{name: options[name].value for name in _NAMES})
    shape = options.image_shape
    shape = image_shape if shape is None else tuple(map(int, shape))
    return dataclasses.replace(settings, image_shape=shape)


def given_data_settings(options: ProgramFlags, apart_from: Collection[str] = ()) -> dict[str, Any]:
    """Returns the data settings whose flags are given, by name; the image shape is a supernet's."""
    names = [name for name in _NAMES if name != "image_shape" and name not in apart_from]
    return {name: options[name].value for name in names if options[name].present}


def check_partition_options(options: ProgramFlags, chosen: str) -> None:
    """Refuses a value on the command line that the partition does not use.

    In a flag file it may stand: the file was written for another choice.

    Raises:
      ValueError: If there is one.
    """
    for kind, option in PARTITION_OPTIONS.items():
        if kind != chosen and options.is_typed(option):
            raise ValueError(
                f"--{option} goes with --partition={kind}, received --partition={chosen}. Leave "
                "one of them out."
            )
