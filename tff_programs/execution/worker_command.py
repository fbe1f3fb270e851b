"""How TFF's worker is started: its binary, its environment, and a name that tells the versions.

TFF's protocol does not say which versions meet. A worker is therefore started under a name (the
first word of a command line, which its process can read) that says what was installed there.
"""

import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Mapping

NAME = "fedsup-worker"
_PACKAGES = ("fedsup-tf", "tensorflow-federated", "tensorflow")
_CLIENTS_AT_ONCE = "max_concurrent_computation_calls"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def binary_path() -> str:
    """TFF's worker, which comes with its package; found without loading TFF."""
    package = importlib.util.find_spec("tensorflow_federated")
    path = os.path.join(os.path.dirname(package.origin), "data", "worker_binary")
    if not os.access(path, os.X_OK):
        raise RuntimeError(
            f"Expected TFF's worker at {path}, found no program there. TFF's package holds it on "
            "64-bit Linux alone: run on such a machine."
        )
    return path


def versions() -> dict[str, str]:
    """Versions installed here that a program and its workers must share, by package."""
    return {package: importlib.metadata.version(package) for package in _PACKAGES}


def arguments(port: int, clients_at_once: int) -> list[str]:
    """The command line of a worker, its name first."""
    told = (f"{package}={version}" for package, version in versions().items())
    return [" ".join((NAME, *told)), f"--port={port}", f"--{_CLIENTS_AT_ONCE}={clients_at_once}"]


def read_arguments(command_line: bytes) -> tuple[dict[str, str] | None, int]:
    """Inverts `arguments`, given as the system keeps them.

    Args:
      command_line: Words, each ended by a zero byte.

    Returns:
      Versions by package, None if it is no worker of `arguments`; and the clients at once.
    """
    words = command_line.decode(errors="replace").split("\0")
    name, *told = words[0].split(" ")
    at_once = re.search(rf"--{_CLIENTS_AT_ONCE}=(\d+)", " ".join(words[1:]))
    capacity = max(1, int(at_once[1])) if at_once else 1
    if name != NAME:
        return None, capacity
    return dict(word.partition("=")[::2] for word in told), capacity


def environment(clients_at_once: int) -> Mapping[str, str]:
    """This process's environment for a worker.

    One thread for each of `clients_at_once` clients is on a CPU faster than one client after the
    other with all threads.
    """
    return {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": str(clients_at_once),
        "MALLOC_ARENA_MAX": "2",
    }
