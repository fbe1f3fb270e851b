"""A trained supernet from its checkpoint, with the data and the clients it was trained with."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedsup_tf.architecture import Architecture
from fedsup_tf.data.data_settings import DataSettings
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet
from tff_programs.simulation.tiers import Tier, check_tiers, parse_tiers

# Hyper-parameters of the clients that a step on a phone shares; a sandwich is not trained there.
_OF_DEVICES = (
    "epochs",
    "batch_size",
    "momentum",
    "weight_decay",
    "clip_value",
    "label_smoothing",
    "frozen",
)
# Settings of a training that say which data it had; where that lies is a matter of the machine.
_OF_DATA = (
    "dataset",
    "partition",
    "clients",
    "classes_per_client",
    "beta",
    "quantity",
    "incomplete_clients",
    "seed",
    "resize",
    "background",
    "test_share",
)


class TrainedSupernet(NamedTuple):
    """Trained supernet with its data, for the programs that follow a training.

    Attributes:
      supernet: The trained supernet.
      weights: Its weights by tensor name.
      information: What was saved with it.
      data: The clients and their data set.
      preprocessing: Normalization of the images in the training.
      data_settings: Which data set and partition these are.
    """

    supernet: Supernet
    weights: dict[str, np.ndarray]
    information: dict[str, Any]
    data: FederatedDataset
    preprocessing: Preprocessing
    data_settings: DataSettings


def load_trained(
    path: str | os.PathLike, data_changes: Mapping[str, Any] | None = None
) -> TrainedSupernet:
    """Loads a checkpoint, and the data that its settings name.

    Args:
      path: The supernet's file.
      data_changes: Fields of `DataSettings` that replace those of the training, such as `data_dir`,
        where the data set's archive lies on this machine.

    Raises:
      ValueError: If the file is not a whole supernet, or not that of a training, or its data cannot
        be loaded.
    """
    supernet, information = Supernet.load_checkpoint(path)
    _check_information(information, ("settings", "preprocessing"), path)
    of_training = information["settings"]
    settings = DataSettings(
        **{name: of_training[name] for name in _OF_DATA if of_training.get(name) is not None},
        image_shape=supernet.space.image_shape,
        class_names=_class_names(information),
        preprocessing=preprocessing_of(information, path),
    )
    changes = dict(data_changes or {})
    of_training, settings = settings, dataclasses.replace(settings, **changes)
    if settings.dataset != of_training.dataset and (of_training.is_own or settings.is_own):
        # Who has which examples of own data has nothing to do with the training's partition.
        settings = dataclasses.replace(settings, partition=changes.get("partition"))
    data = settings.load()
    if len(data.class_names) != supernet.space.classes:
        raise ValueError(
            f"{os.fspath(path)!r}: expected data of the supernet's {supernet.space.classes} "
            f"classes, received {data.name} of {len(data.class_names)}. Give the data set of the "
            "training."
        )
    return TrainedSupernet(
        supernet=supernet,
        weights=supernet.values_by_name(),
        information=information,
        data=data,
        preprocessing=settings.preprocessing,
        data_settings=settings,
    )


def preprocessing_of(information: Mapping[str, Any], path: str | os.PathLike) -> Preprocessing:
    """Returns the preprocessing that was saved with a supernet.

    Args:
      information: What was saved with it.
      path: The supernet's file, for the error.

    Raises:
      ValueError: If there is none, or it is damaged.
    """
    _check_information(information, ("preprocessing",), path)
    return Preprocessing.from_json(information["preprocessing"])


def _check_information(information, names: Sequence[str], path) -> None:
    missing = [name for name in names if name not in information]
    if missing:
        raise ValueError(
            f"{os.fspath(path)!r}: expected the {' and '.join(missing)} of a training in it, found "
            "none. Give a supernet that `fedsup train` wrote."
        )


def _class_names(information: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Returns the class names that were saved with a supernet, None if there are none."""
    names = information.get("class_names")
    return None if names is None else tuple(names)


def device_training(information: dict[str, Any]) -> LocalTraining:
    """Returns the hyper-parameters of training on a device: those of the training's clients.

    Args:
      information: What was saved with the supernet; defaults replace what is not in it.
    """
    settings = information.get("settings", {})
    # A flag that is not given has no value in the settings.
    known = {name: settings.get(name) for name in _OF_DEVICES}
    return LocalTraining(**{name: value for name, value in known.items() if value is not None})


def trained_tiers(information: Mapping[str, Any]) -> tuple[Tier, ...]:
    """Returns the tiers of a training, with the subnets that were trained and their shares.

    Args:
      information: What was saved with the supernet.
    """
    saved = information.get("tiers", [])
    shares = information.get("tier_shares")
    if shares is None:
        # A supernet of an earlier version has them in the text of its flags alone.
        texts = information.get("settings", {}).get("tiers") or []
        shares = [float(text.partition("@")[2] or 1) for text in texts]
    if len(shares) != len(saved):
        shares = [1.0] * len(saved)
    return tuple(
        Tier(name, Architecture.from_json(text), share)
        for (name, text), share in zip(saved, shares, strict=True)
    )


def name_architectures(
    entries: Sequence[str], space: SearchSpace, information: dict[str, Any], seed: int
) -> list[Tier]:
    """Returns the subnets that the entries name, each with its name.

    Args:
      entries: Each `tiers` (all those of the training), the name of one of them, or what
        `tiers.parse_tiers` takes: `smallest`, `largest`, an architecture's JSON file, or
        bounds of parameters.
      space: The supernet's search space.
      information: What was saved with the supernet.
      seed: Decides the architecture that is drawn within bounds.

    Raises:
      ValueError: If an entry is none of these.
    """
    trained = trained_tiers(information)
    by_name = {tier.name: tier for tier in trained}
    chosen = []
    for entry in entries:
        if entry == "tiers":
            chosen += trained
        elif entry in by_name:
            chosen.append(by_name[entry])
        else:
            chosen += parse_tiers(space, [entry], seed)
    # A subnet named twice is kept once; two that share a name would overwrite each other's files.
    chosen = list(dict.fromkeys(chosen))
    check_tiers(chosen)
    return chosen
