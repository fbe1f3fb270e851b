"""A trained supernet from its checkpoint, with the data and the clients it was trained with."""

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
    """Trained supernet with its data, for the programs that follow a training.

    Attributes:
      supernet: The trained supernet.
      weights: Its weights by tensor name.
      information: What was saved with it; what is not in the file is that of the data.
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
    path: str | os.PathLike,
    data_changes: Mapping[str, Any] | None = None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> TrainedSupernet:
    """Loads a checkpoint, and the data that its settings name.

    Class names and preprocessing are those of the checkpoint. One that has neither, such as that
    of `Supernet.save_checkpoint` without information, takes them from the data.

    Args:
      path: The supernet's file.
      data_changes: Fields of `DataSettings` that replace those of the training, such as `data_dir`,
        where the data set's archive lies on this machine.
      on_progress: Called with a line of text if they have to come from the data.

    Raises:
      ValueError: If the file is not a whole supernet, its data cannot be loaded or is not named,
        or the data has other classes, images of another shape or pixels of another scale than the
        supernet was trained on.
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
    data = settings.load()
    if settings.dataset == of_training.get("dataset"):
        # The same images, whatever their normalization was in the training.
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
    """Returns the settings of data for a trained net.

    Args:
      form: What `trained_form` returns.
      of_training: Settings of the training.
      changes: Fields that replace those of the training.
    """
    before = DataSettings(
        **{name: of_training[name] for name in OF_DATA if of_training.get(name) is not None},
        image_shape=form.image_shape,
        class_names=form.class_names,
        preprocessing=form.preprocessing,
    )
    settings = dataclasses.replace(before, **changes)
    if settings.dataset != before.dataset and (before.is_own or settings.is_own):
        # Who has which examples of own data, and how bright they are, has nothing to do with those
        # of the training.
        own = {name: changes.get(name) for name in ("partition", "clients", "pixel_scale")}
        settings = dataclasses.replace(settings, **own)
    return settings


def trained_form(supernet: Supernet, information: Mapping[str, Any]) -> DataForm:
    """Returns the form of the data that a supernet was trained on, as far as its file says it.

    Args:
      supernet: The supernet.
      information: What was saved with it.
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
    """Returns the subnets that the entries name, each with its name.

    Args:
      entries: Each `tiers` (all those of the training; the smallest and the largest subnet if it
        has none), the name of one of them, or what `tiers.parse_tiers` takes: `smallest`,
        `largest`, an architecture's JSON file, or bounds of parameters.
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
            chosen += trained or parse_tiers(space, ["smallest", "largest"], seed)
        elif entry in by_name:
            chosen.append(by_name[entry])
        else:
            chosen += parse_tiers(space, [entry], seed)
    # A subnet named twice is kept once; two that share a name would overwrite each other's files.
    chosen = list(dict.fromkeys(chosen))
    check_tiers(chosen)
    return chosen
