"""Binary, environment and command line of TFF's worker.

TFF's protocol does not exchange versions or show whether two addresses lead to the same worker. A
worker is therefore started under a name (the first word of its command line, which its process can
read) that states the installed versions and the worker's identity.
"""

import importlib.metadata
import importlib.util
import os
import re
import secrets
from collections.abc import Mapping
from typing import NamedTuple

NAME = "fedsup-worker"
_PACKAGES = ("fedsup-tf", "tensorflow-federated", "tensorflow")
_IDENTITY = "identity"
_CLIENTS_AT_ONCE = "max_concurrent_computation_calls"


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def binary_path() -> str:
    """Returns the path of the worker binary in TFF's package, without importing TFF."""
    package = importlib.util.find_spec("tensorflow_federated")
    path = os.path.join(os.path.dirname(package.origin), "data", "worker_binary")
    if not os.access(path, os.X_OK):
        raise RuntimeError(
            f"Expected TFF's worker at {path}, found no program there. TFF's package holds it on "
            "64-bit Linux alone: run on such a machine."
        )
    return path


def versions() -> dict[str, str]:
    """Returns the versions that a program and its workers must share, by package."""
    return {package: importlib.metadata.version(package) for package in _PACKAGES}


class WorkerDescription(NamedTuple):
    """Description of a worker, read from its command line.

    Attributes:
      versions: Versions by package; None if the command line was not made by `arguments`.
      identity: Text that is unique to the worker; empty if there is none.
      capacity: Number of clients that the worker computes concurrently.
    """

    versions: dict[str, str] | None
    identity: str
    capacity: int


def arguments(clients_at_once: int) -> list[str]:
    """Returns the command line of a new worker, beginning with its name, without its port."""
    words = {**versions(), _IDENTITY: secrets.token_hex(8)}
    name = " ".join((NAME, *(f"{word}={value}" for word, value in words.items())))
    return [name, f"--{_CLIENTS_AT_ONCE}={clients_at_once}"]


def read_arguments(command_line: bytes) -> WorkerDescription:
    """Parses a command line that `arguments` made.

    Args:
      command_line: Words as the system stores them, each ended by a zero byte.
    """
    words = command_line.decode(errors="replace").split("\0")
    name, *pairs = words[0].split(" ")
    at_once = re.search(rf"--{_CLIENTS_AT_ONCE}=(\d+)", " ".join(words[1:]))
    capacity = max(1, int(at_once[1])) if at_once else 1
    if name != NAME:
        return WorkerDescription(None, "", capacity)
    values = dict(pair.partition("=")[::2] for pair in pairs)
    identity = values.pop(_IDENTITY, "")
    return WorkerDescription(values, identity, capacity)


def environment(clients_at_once: int) -> Mapping[str, str]:
    """Returns a worker's environment, based on this process's.

    On a CPU, one thread for each of `clients_at_once` clients is faster than computing one client
    after another with all threads.
    """
    return {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": str(clients_at_once),
        "MALLOC_ARENA_MAX": "2",
    }
