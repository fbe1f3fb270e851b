"""Duration of a device's round, from its compute speed and its network."""

import collections
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence

from fedsup_tf.architecture import DIMENSIONS, Architecture
from fedsup_tf.files.json_schema import expect_keys, parse_json, read_json
from fedsup_tf.files.validation import check_number
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.search.cost_parts import parts_of_space
from fedsup_tf.search.costs import architecture_cost, part_cost
from fedsup_tf.space import SearchSpace
from tff_programs.simulation.tiers import Tier

# A step computes the outputs, the gradients of the activations and the gradients of the weights,
# each with about the same number of multiply-accumulates.
_FORWARD_AND_BACKWARD = 3
# Measured with exported files on one thread of an AMD EPYC core: 3 x 1.64 M MACs x 32 images in
# 12.5 ms for the smallest net of `fedsup_cifar` (24.4e9 for the largest). See the README's Export.
REFERENCE_MACS_PER_SECOND = 12.6e9
# Assumptions, not measurements: devices of the slowest tier compute at an eighth of the reference
# speed, those of the fastest tier at the reference speed; all have the same network.
_SLOWEST_SHARE = 1 / 8
_DOWN_BYTES_PER_SECOND = 1.25e6
_UP_BYTES_PER_SECOND = 0.25e6
_LATENCY_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Device:
    """Compute and network speed of a device.

    Attributes:
      macs_per_second: Multiply-accumulates per second in training.
      down_bytes_per_second: Download speed in bytes per second.
      up_bytes_per_second: Upload speed in bytes per second.
      latency_seconds: Fixed time per round in seconds, such as for connections.
    """

    macs_per_second: float
    down_bytes_per_second: float
    up_bytes_per_second: float
    latency_seconds: float = 0.0

    def __post_init__(self):
        check_number(self.latency_seconds, "latency_seconds", minimum=0, what="Device")
        for name in ("macs_per_second", "down_bytes_per_second", "up_bytes_per_second"):
            # Infinity models a device that needs no time for something.
            check_number(getattr(self, name), name, above=0, allow_infinity=True, what="Device")

    def slowed(self, factor: float) -> "Device":
        """Returns a device whose compute and network are `factor` times slower, not its latency."""
        return Device(
            self.macs_per_second / factor,
            self.down_bytes_per_second / factor,
            self.up_bytes_per_second / factor,
            self.latency_seconds,
        )


def default_devices(space: SearchSpace, tiers: Sequence[Tier]) -> tuple[Device, ...]:
    """Returns a device for each tier, faster for tiers whose net has more multiply-accumulates.

    The reference speed is measured; the tiers' speeds relative to it, the network and the latency
    are assumptions.
    """
    macs = sorted({architecture_cost(space, tier.architecture).macs for tier in tiers})
    devices = []
    for tier in tiers:
        rank = macs.index(architecture_cost(space, tier.architecture).macs)
        place = rank / (len(macs) - 1) if len(macs) > 1 else 1.0
        devices.append(
            Device(
                REFERENCE_MACS_PER_SECOND * _SLOWEST_SHARE ** (1 - place),
                _DOWN_BYTES_PER_SECOND,
                _UP_BYTES_PER_SECOND,
                _LATENCY_SECONDS,
            )
        )
    return tuple(devices)


def load_devices(path: str, tiers: Sequence[Tier]) -> tuple[Device, ...]:
    """Reads the devices of all tiers, in the tiers' order, from a JSON file.

    The file has an entry for each tier by its name; `latency_seconds` may be omitted:

        {"smallest": {"macs_per_second": 1.5e9, "down_bytes_per_second": 1250000,
                      "up_bytes_per_second": 250000, "latency_seconds": 0.2}, ...}

    Raises:
      ValueError: If a tier or field is missing, unknown or invalid.
    """
    return read_json(
        path, "each tier's device (--devices)", lambda text: devices_from_json(text, tiers)
    )


def devices_from_json(text: str, tiers: Sequence[Tier]) -> tuple[Device, ...]:
    """Parses the devices of all tiers, in the tiers' order, from a file's text.

    Raises:
      ValueError: If a tier or field is missing, unknown or invalid.
    """
    fields = parse_json(text, "Devices by tier")
    names = {tier.name for tier in tiers}
    expect_keys(fields, names, names, "Devices by tier")
    known = {field.name for field in dataclasses.fields(Device)}
    devices = {}
    for name, values in fields.items():
        expect_keys(values, known, known - {"latency_seconds"}, f"Devices, tier {name!r}")
        try:
            devices[name] = Device(**values)
        except ValueError as error:
            raise ValueError(f"Devices, tier {name!r}: {error}") from error
    return tuple(devices[tier.name] for tier in tiers)


def devices_to_json(devices: Sequence[Device], tiers: Sequence[Tier]) -> str:
    """Returns the text of a file that `load_devices` reads."""
    named: Mapping[str, Device] = {t.name: d for t, d in zip(tiers, devices, strict=True)}
    return json.dumps({name: dataclasses.asdict(device) for name, device in named.items()})


@dataclasses.dataclass(frozen=True)
class DeviceTime:
    """Computes the duration of clients' rounds in seconds.

    Attributes:
      space: Search space of the architectures.
      devices: The device of each tier.
      training: Hyperparameters of the clients' training.
      examples: Number of training examples of each client.
      count_bytes: Maps an architecture to the bytes that its client receives and sends.
      architecture: The one net that all clients train; None if each trains its own.
    """

    space: SearchSpace
    devices: tuple[Device, ...]
    training: LocalTraining
    examples: tuple[int, ...]
    count_bytes: Callable[[Architecture], tuple[int, int]]
    architecture: Architecture | None = None

    def __call__(self, client: int, tier: int, architecture: Architecture) -> float:
        """Returns the seconds between asking a client to train and receiving its full update."""
        architecture = self.architecture or architecture
        device = self.devices[tier]
        down, up = self.count_bytes(architecture)
        macs = training_macs(self.space, architecture, self.training) * self.examples[client]
        return (
            device.latency_seconds
            + down / device.down_bytes_per_second
            + macs / device.macs_per_second
            + up / device.up_bytes_per_second
        )


def training_macs(space: SearchSpace, architecture: Architecture, training: LocalTraining) -> float:
    """Returns the multiply-accumulates of one example in all epochs of a round.

    The random nets of a sandwich are counted with their mean.
    """
    macs = architecture_cost(space, architecture).macs
    if training.sandwich > 1:
        # All nets of a step compute images of the received net's resolution.
        smallest = dataclasses.replace(space.smallest(), resolution=architecture.resolution)
        macs += architecture_cost(space, smallest).macs
        macs += (training.sandwich - 2) * mean_macs_within(space, architecture)
    return _FORWARD_AND_BACKWARD * training.epochs * macs


def mean_macs_within(space: SearchSpace, architecture: Architecture) -> float:
    """Returns the mean multiply-accumulates per image of uniformly drawn subnets of a subnet."""
    space.check(architecture)
    limits = zip(architecture.widths, architecture.depths, architecture.kernels, strict=True)
    stages = tuple(
        dataclasses.replace(
            stage,
            **{
                dimension: tuple(value for value in getattr(stage, dimension) if value <= limit)
                for dimension, limit in zip(DIMENSIONS, limits_of_stage, strict=True)
            },
        )
        for stage, limits_of_stage in zip(space.stages, limits, strict=True)
    )
    macs = collections.defaultdict(list)
    height, *_ = image_shape = space.image_shape_of(architecture)
    resolutions = space.resolutions and (height,)
    within = dataclasses.replace(
        space, stages=stages, image_shape=image_shape, resolutions=resolutions
    )
    for part in parts_of_space(within):
        macs[part.kind, part.stage].append(part_cost(space, part).macs)
    return sum(sum(choices) / len(choices) for choices in macs.values())
