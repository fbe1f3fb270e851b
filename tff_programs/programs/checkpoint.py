"""Loads a trained supernet from its checkpoint, with the data and clients of its training."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedsup_tf.data.data_form import DataForm
from fedsup_tf.data.data_settings import DataSettings
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.reading import reading
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet
from tff_programs.programs.training_information import (
    OF_DATA,
    saved_preprocessing,
    trained_tiers,
    training_information,
)
from tff_programs.simulation.tiers import Tier, check_tiers, parse_tiers


class TrainedSupernet(NamedTuple):
    """Trained supernet with its data, for programs that run after a training.

    Attributes:
      supernet: The trained supernet.
      weights: Its weights, by tensor name.
      information: Information saved with it; fields that the file lacks are taken from the data.
      data: The clients and their data set.
      preprocessing: Normalization of the images in the training.
      data_settings: Settings of the data set and its partition.
    """

    supernet: Supernet
    weights: dict[str, np.ndarray]
    information: dict[str, Any]
    data: FederatedDataset
    preprocessing: Preprocessing
    data_settings: DataSettings


def load_trained(
    path: str | os.PathLike,
    data_changes: Mapping[str, Any] | None = None,
    on_progress: Callable[[str], None] = lambda line: None,
    *,
    data: FederatedDataset | None = None,
) -> TrainedSupernet:
    """Loads a checkpoint and the data that its settings name.

    If the checkpoint lacks class names or preprocessing, as does one written by
    `Supernet.save_checkpoint` without information, they are taken from the data.

    Args:
      path: The supernet's file.
      data_changes: Fields of `DataSettings` that override those of the training, such as
        `data_dir`, the location of the data set's archive on this machine.
      on_progress: Called with a line of text if class names or preprocessing come from the data.
      data: The clients and their data set, if they are loaded already.

    Raises:
      ValueError: If the file is not a complete supernet, its data is not named or cannot be loaded,
        or the data differs from the training's in its classes, image shape or pixel scale.
    """
    supernet, information = Supernet.load_checkpoint(path)
    changes = dict(data_changes or {})
    of_training = information.get("settings", {})
    if "dataset" not in {**of_training, **changes}:
        raise ValueError(
            f"{os.fspath(path)!r}: expected the data set of a training in it, received none. Name "
            "it (--dataset, --partition and so on; in Python data_changes), or save the supernet "
            "with training_information."
        )
    form = trained_form(supernet, information)
    settings = settings_of_data(form, of_training, changes)
    if data is None:
        data = settings.load()
    if settings.dataset == of_training.get("dataset"):
        # The images are the same, however the training normalized them.
        form = form._replace(preprocessing=None)
    with reading(path, "the supernet of a training"):
        form.check(data.name, DataForm.of_dataset(data.dataset))
    of_data = training_information(data, data_settings=settings)
    missing = [name for name in ("class_names", "preprocessing") if name not in information]
    if missing:
        on_progress(
            f"{os.fspath(path)} does not tell its {' and '.join(missing).replace('_', ' ')}: "
            f"{data.name} does."
        )
    if "dataset" not in of_training:
        of_training = {**of_data["settings"], **of_training}
    information = {**of_data, **information, "settings": of_training}
    return TrainedSupernet(
        supernet=supernet,
        weights=supernet.values_by_name(),
        information=information,
        data=data,
        preprocessing=saved_preprocessing(information),
        data_settings=settings,
    )


def settings_of_data(
    form: DataForm, of_training: Mapping[str, Any], changes: Mapping[str, Any]
) -> DataSettings:
    """Returns the data settings for a trained net.

    Args:
      form: Form of the data, as returned by `trained_form`.
      of_training: Settings of the training.
      changes: Fields that override those of the training.
    """
    before = DataSettings(
        **{name: of_training[name] for name in OF_DATA if of_training.get(name) is not None},
        image_shape=form.image_shape,
        class_names=form.class_names,
        preprocessing=form.preprocessing,
    )
    settings = dataclasses.replace(before, **changes)
    if settings.dataset != before.dataset and (before.is_own or settings.is_own):
        # The clients and the pixel scale of own data are unrelated to those of another data set.
        own = {name: changes.get(name) for name in ("partition", "clients", "pixel_scale")}
        settings = dataclasses.replace(settings, **own)
    return settings


def trained_form(supernet: Supernet, information: Mapping[str, Any]) -> DataForm:
    """Returns the form of the data that a supernet was trained on, as far as its file states it.

    Args:
      supernet: The supernet.
      information: Information saved with the supernet.
    """
    names = information.get("class_names")
    return DataForm(
        supernet.space.classes,
        tuple(supernet.space.image_shape),
        None if names is None else tuple(names),
        saved_preprocessing(information),
    )


def name_architectures(
    entries: Sequence[str], space: SearchSpace, information: dict[str, Any], seed: int
) -> list[Tier]:
    """Returns the subnets that the entries name, as tiers.

    Args:
      entries: Names of subnets. Each is `tiers` (all tiers of the training; the smallest and the
        largest subnet if it has none), the name of one tier, or an entry of `tiers.parse_tiers`:
        `smallest`, `largest`, an architecture's JSON file, or bounds such as `500000-900000`
        (parameters).
      space: The supernet's search space.
      information: Information saved with the supernet.
      seed: Seed of the architectures that are drawn within bounds.

    Raises:
      ValueError: If an entry is none of these.
    """
    trained = trained_tiers(information)
    by_name = {tier.name: tier for tier in trained}
    chosen = []
    for entry in entries:
        if entry == "tiers":
            chosen += trained or parse_tiers(space, ["smallest", "largest"], seed)
        elif entry in by_name:
            chosen.append(by_name[entry])
        else:
            chosen += parse_tiers(space, [entry], seed)
    # A subnet named twice is kept once; two that share a name would overwrite each other's files.
    chosen = list(dict.fromkeys(chosen))
    check_tiers(chosen)
    return chosen
