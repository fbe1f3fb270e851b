"""Flags of simulated time: the devices' speed and availability, and when a round ends."""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

from fedsup_tf.architecture import Architecture
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.space import SearchSpace
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags
from tff_programs.simulation.availability import (
    DEFAULT_UTC_OFFSETS_HOURS,
    AvailabilityTrace,
    diurnal_trace,
    load_trace,
)
from tff_programs.simulation.device_speed import (
    DeviceTime,
    default_devices,
    devices_to_json,
    load_devices,
)
from tff_programs.simulation.round_clock import SimulatedTime
from tff_programs.simulation.tiers import Tier


def define_time_flags(define: FlagDefiner) -> None:
    """Defines the flags for simulated time."""
    define.path(
        "devices",
        None,
        "JSON file of each tier's device: multiply-accumulates, bytes down and up per second, and "
        "latency. By default the measured speed of one core with an assumed factor for each tier, "
        "and an assumed network.",
    )
    define.path(
        "availability_trace",
        None,
        "Availability of clients in simulated time: a JSON file of intervals, or diurnal for "
        "phones that charge at night. By default always.",
    )
    define.list(
        "utc_offsets",
        [f"{hours:g}" for hours in DEFAULT_UTC_OFFSETS_HOURS],
        "Time zones of --availability_trace=diurnal, in hours from UTC.",
    )
    define.integer(
        "over_asked",
        0,
        "Clients asked in addition to --clients_per_round; the first updates to arrive are used.",
        lower_bound=0,
    )
    define.float(
        "round_deadline",
        None,
        "Maximum simulated seconds of a round; clients that have not finished are lost.",
        above=0,
    )


def simulated_time_from_flags(
    options: ProgramFlags,
    space: SearchSpace,
    tiers: Sequence[Tier],
    examples: Sequence[int],
    training: LocalTraining,
    count_bytes: Callable[[Architecture], tuple[int, int]],
    architecture: Architecture | None,
    seed: int,
) -> SimulatedTime:
    """Builds the simulated time of rounds from the flags.

    Args:
      options: The program's flags.
      space: The architectures' search space.
      tiers: The classes of devices.
      examples: Number of each client's training examples.
      training: The clients' hyper-parameters.
      count_bytes: Function from an architecture to the bytes that its client receives and sends.
      architecture: The one net that all clients train; None if each trains its own.
      seed: Seed of a drawn trace.

    Raises:
      ValueError: If a flag or a file that it names is invalid.
    """
    devices = (
        load_devices(options.devices, tiers) if options.devices else default_devices(space, tiers)
    )
    deadline = math.inf if options.round_deadline is None else options.round_deadline
    return SimulatedTime(
        DeviceTime(space, devices, training, tuple(examples), count_bytes, architecture),
        _trace_from_flags(options, len(examples), seed),
        options.over_asked,
        deadline,
    )


def time_settings(time: SimulatedTime, tiers: Sequence[Tier]) -> dict[str, Any]:
    """Returns the content of the flags' files for a run's settings; of a trace, its SHA-256."""
    digest = None
    if time.trace is not None:
        digest = hashlib.sha256(time.trace.to_json().encode()).hexdigest()
    return {
        "devices": devices_to_json(time.client_seconds.devices, tiers),
        "availability_trace": digest,
    }


def _trace_from_flags(options: ProgramFlags, clients: int, seed: int) -> AvailabilityTrace | None:
    if not options.availability_trace:
        return None
    if options.availability_trace != "diurnal":
        return load_trace(options.availability_trace)
    try:
        offsets = [float(hours) for hours in options.utc_offsets]
    except ValueError as error:
        raise ValueError(
            f"--utc_offsets: expected hours such as -8,-5, received {options.utc_offsets}."
        ) from error
    return diurnal_trace(clients, seed, offsets)
