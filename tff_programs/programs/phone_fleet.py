"""A fleet of simulated phones: each visit runs in its own process, a limited number at a time."""

import collections
import concurrent.futures
import dataclasses
import heapq
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.files.atomic_write import make_folder, replace_file
from tff_programs.programs.cli import END_WITH
from tff_programs.programs.phone_process import EXAMPLES
from tflite.format.metadata import ModelMetadata, read_metadata
from tflite.together.address import ServerAddress
from tflite.together.errors import FederationError

_KILLED_WAIT_SECONDS = 1


@dataclasses.dataclass(frozen=True)
class PhonesSettings:
    """Settings of the phones.

    Attributes:
      clients: Number of phones.
      processes: Maximum number of concurrent visits.
      rounds: Number of server rounds after which the phones stop; None for no limit.
      tiers: Tier names assigned to the phones in turn; empty for phones that can train any subnet.
      shares: Probability of each fault, see `phone_faults.draw_fault`.
      seed: Seed of the faults.
      runtime: Name of the phones' runtime; None for the first one that is installed.
      application: Name and version that the phones send.
    """

    clients: int
    processes: int
    rounds: int | None
    tiers: tuple[str, ...]
    shares: Mapping[str, float]
    seed: int
    runtime: str | None
    application: str


class PhoneFleet:
    """Starts a process for each visit when it is due.

    Attributes:
      counts: Number of visits by event.
    """

    def __init__(
        self,
        address: ServerAddress,
        folder: str,
        settings: PhonesSettings,
        load_examples: Callable[[ModelMetadata], FederatedDataset],
        on_progress: Callable[[str], None],
    ):
        """Creates the fleet.

        Args:
          address: The server.
          folder: Parent of the phones' own folders.
          settings: Settings of the phones.
          load_examples: Loads the pictures of all phones, given a model's metadata.
          on_progress: Called with a line of text after each step of progress.
        """
        self.counts = collections.Counter()
        self._address = address
        self._folder = folder
        self._settings = settings
        self._load_examples = load_examples
        self._on_progress = on_progress
        self._outcomes: dict[str, tuple[str, str]] = {}
        self._first_round: int | None = None
        self._last_message = ""
        self._is_done = False

    def run(self) -> None:
        """Runs the phones until the server's rounds are over.

        Raises:
          FederationError: If no phone can take part any more; the message is the last phone's.
        """
        due = [(0.0, number) for number in range(self._settings.clients)]
        running: dict[concurrent.futures.Future, int] = {}
        with concurrent.futures.ThreadPoolExecutor(self._settings.processes) as pool:
            while due or running:
                while due and len(running) < self._settings.processes and not self._is_done:
                    if due[0][0] > time.monotonic():
                        break
                    _, number = heapq.heappop(due)
                    running[pool.submit(self._start, number)] = number
                if self._is_done and not running:
                    return
                wait = max(0.0, due[0][0] - time.monotonic()) if due else None
                if not running:
                    time.sleep(wait or 0.0)
                    continue
                full = len(running) == self._settings.processes
                done, _ = concurrent.futures.wait(
                    running,
                    None if full or self._is_done else wait,
                    concurrent.futures.FIRST_COMPLETED,
                )
                for future in done:
                    number = running.pop(future)
                    seconds = self._take(number, future.result())
                    if seconds is not None:
                        heapq.heappush(due, (time.monotonic() + seconds, number))
                    elif not due and not running:
                        raise FederationError(self._last_message)

    def outcomes(self) -> dict[str, int]:
        """Returns the number of updates that the server accepted, by their state and its reason."""
        return dict(
            collections.Counter(": ".join(filter(None, f)) for f in self._outcomes.values())
        )

    def _start(self, number: int) -> dict[str, Any]:
        """Runs one visit and returns its fields."""
        settings = self._settings
        tier = settings.tiers[number % len(settings.tiers)] if settings.tiers else None
        # Enough for every subnet.
        able = {"capability": {"parameters": 2**53 - 1, "macs": 2**53 - 1}}
        fields = {"tier": tier} if tier else able
        return start_visit(
            {
                "address": dataclasses.asdict(self._address),
                "folder": phone_folder(self._folder, number),
                "fields": {**fields, "application": settings.application},
                "runtime": settings.runtime,
                "faults": [dict(settings.shares), settings.seed, number],
            }
        )

    def _take(self, number: int, visit: dict[str, Any]) -> int | None:
        """Handles the result of a visit; returns the seconds until the next one, None for none."""
        event = visit["event"]
        if event == "needs_examples":
            # They may have been written since, with those of another phone.
            if not os.path.exists(os.path.join(phone_folder(self._folder, number), EXAMPLES)):
                self._give_examples(visit["model"])
            return 0
        self.counts[event] += 1
        if event == "ended":
            self._last_message = visit["message"]
            self._on_progress(f"phone {number} takes part no more: {visit['message']}")
            return None
        if event != "waits":
            self._on_progress(visit_line(number, visit))
        status = visit.get("status")
        if status is not None:
            if self._first_round is None:
                self._first_round = status["round"]
            rounds = self._settings.rounds
            self._is_done |= rounds is not None and status["round"] - self._first_round >= rounds
            for update in status["updates"]:
                self._outcomes[update["update"]] = (update["state"], update["reason"])
        return visit["wait_seconds"]

    def _give_examples(self, model: str) -> None:
        """Writes each phone's pictures into its folder, in the form that the model expects."""
        data = clients_of_phones(self._load_examples(read_metadata(model)), self._on_progress)
        for number in range(self._settings.clients):
            write_examples(
                phone_folder(self._folder, number), *data.train_examples(number % len(data))
            )


def phone_folder(folder: str, number: int) -> str:
    """Returns the folder of a phone's files."""
    return os.path.join(folder, f"phone_{number:04d}")


def clients_of_phones(
    data: FederatedDataset, on_progress: Callable[[str], None]
) -> FederatedDataset:
    """Returns the clients that phones can represent; a line of text names the others."""
    trainable = data.trainable()
    if trainable is not data:
        on_progress(f"note: {trainable.reading_notes[-1]}")
    return trainable


def write_examples(folder: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes a phone's pictures and labels into its folder."""
    make_folder(folder)
    path = os.path.join(folder, EXAMPLES)
    replace_file(path, lambda temporary: np.savez(temporary, images=images, labels=labels))


def start_visit(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a visit in a separate process.

    Args:
      settings: Argument of `phone_process.visit`.

    Returns:
      The fields that `phone_process.visit` returns; the event is `crashed` if the process was
      killed.

    Raises:
      RuntimeError: If the process ended with an error.
    """
    code = "from tff_programs.programs.phone_process import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        # The settings hold the token, and every user of the machine can see a command line.
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, END_WITH: str(os.getpid())},
    )
    if done.returncode < 0:
        return {"event": "crashed", "wait_seconds": _KILLED_WAIT_SECONDS}
    if done.returncode:
        raise RuntimeError(
            f"The phone in {settings['folder']!r} ended with an error: {done.stderr[-500:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def visit_line(number: int, visit: Mapping[str, Any]) -> str:
    """Returns a line of text about a visit."""
    task = visit.get("task")
    parts = [f"phone {number}"]
    if task is not None:
        parts.append(f"round {task['round']}, {task['tier']}")
    if visit.get("loss_before") is not None:
        losses = (f"{visit[name]:.3f}" for name in ("loss_before", "loss_after"))
        # After a single epoch both are the same.
        parts.append(f"loss {' -> '.join(dict.fromkeys(losses))}")
    message = visit.get("message")
    return " | ".join([*parts, visit["event"] + (f": {message}" if message else "")])
