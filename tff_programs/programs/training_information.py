"""Information that is saved with a trained supernet, for programs that run after a training."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fedsup_tf.architecture import Architecture
from fedsup_tf.data.data_settings import DataSettings
from fedsup_tf.data.datasets import DATASETS
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.data.pictures import PictureForm
from fedsup_tf.data.preprocessing import PICTURE_FIELDS, Preprocessing
from fedsup_tf.local_training import DEVICE_FIELDS, LocalTraining
from tff_programs.simulation.tiers import Tier

# Settings that identify the data of a training; its location depends on the machine.
OF_DATA = (
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
    "pixel_scale",
    "test_share",
)


def training_information(
    data: FederatedDataset,
    *,
    rounds: int = 0,
    tiers: Sequence[Tier] = (),
    data_settings: DataSettings | None = None,
    local_training: LocalTraining | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the information about a training, for `Supernet.save_checkpoint`.

    Every program then finds the data, the classes, the normalization of images and the clients'
    hyper-parameters in the file, as in one written by `fedsup train`.

    ```python
    data_settings = DataSettings("digits", partition="iid", clients=20)
    data = data_settings.load()
    information = training_information(data, rounds=60, data_settings=data_settings)
    supernet.save_checkpoint("supernet.safetensors", information)
    ```

    Args:
      data: The clients of the training and their data set.
      rounds: Number of rounds that were trained.
      tiers: The classes of devices.
      data_settings: Settings of the data set and its partition. Without them, programs that load
        the data require them as flags or arguments.
      local_training: The clients' hyper-parameters.
      settings: Further settings, named like the flags of `fedsup train`, such as `learning_rate`.

    Returns:
      JSON values by name.
    """
    found = dict(settings or {})
    if data_settings is not None:
        fields = dataclasses.asdict(data_settings)
        found |= {name: fields[name] for name in OF_DATA}
        found["partition"] = data.partition
        for name in PICTURE_FIELDS:
            of_data = getattr(data.preprocessing, name) or getattr(PictureForm, name)
            found[name] = fields[name] or of_data
    if local_training is not None:
        found |= local_training.fields()
    return {
        "round": rounds,
        "settings": found,
        "preprocessing": data.preprocessing.to_json(),
        "class_names": list(data.class_names),
        "tiers": [[tier.name, tier.architecture.to_json()] for tier in tiers],
        "tier_shares": [tier.share for tier in tiers],
        "tier_limits": [
            None if tier.limit is None else {"cost": tier.cost, "limit": tier.limit}
            for tier in tiers
        ],
    }


def trained_tiers(information: Mapping[str, Any]) -> tuple[Tier, ...]:
    """Returns the tiers of a training: the subnets that were trained, their shares and limits.

    Args:
      information: Information saved with the supernet. Earlier versions did not save limits.
    """
    saved = information.get("tiers", [])
    shares = information.get("tier_shares")
    if shares is None:
        # Earlier versions only saved them in the text of the flags.
        texts = information.get("settings", {}).get("tiers") or []
        shares = [float(text.partition("@")[2] or 1) for text in texts]
    if len(shares) != len(saved):
        shares = [1.0] * len(saved)
    limits = information.get("tier_limits", [])
    if len(limits) != len(saved):
        limits = [None] * len(saved)
    return tuple(
        Tier(name, Architecture.from_json(text), share, **(limit or {}))
        for (name, text, *_), share, limit in zip(saved, shares, limits, strict=True)
    )


def saved_preprocessing(information: Mapping[str, Any]) -> Preprocessing | None:
    """Returns the preprocessing that was saved with a supernet; None if there is none."""
    text = information.get("preprocessing")
    if text is None:
        return None
    preprocessing = Preprocessing.from_json(text)
    settings = information.get("settings", {})
    if settings.get("dataset", DATASETS[0]) in DATASETS:
        return preprocessing
    # Earlier versions only saved these fields in the settings.
    known = {name: getattr(preprocessing, name) or settings.get(name) for name in PICTURE_FIELDS}
    return dataclasses.replace(preprocessing, **known)


def device_training(information: Mapping[str, Any]) -> LocalTraining:
    """Returns the hyper-parameters of training on a device: those of the training's clients.

    Args:
      information: Information saved with the supernet; defaults replace missing values.
    """
    settings = information.get("settings", {})
    # Flags that were not given are None in the settings.
    known = {name: settings.get(name) for name in DEVICE_FIELDS}
    return LocalTraining(**{name: value for name, value in known.items() if value is not None})


def left_out_flags(of_training: Mapping[str, Any], apart_from: Collection[str] = ()) -> list[str]:
    """Returns the training's server flags that have no effect if clients send files.

    Args:
      of_training: Settings of the training.
      apart_from: Names of flags that do have an effect.
    """
    neutral = {
        "server_optimizer": "none",
        "averaging": 0.0,
        "clipping": "none",
        "zeroing": "none",
        "compression": "none",
        "poisoned": 0.0,
        "noise_multiplier": 0.0,
    }
    return [
        f"--{name}={of_training[name]}"
        for name, value in neutral.items()
        if name not in apart_from and of_training.get(name, value) != value
    ]
