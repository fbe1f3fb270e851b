"""Simulated phones for benchmarks/gateway.py, which send prepared updates and train nothing."""

import hashlib
import json
import os
import pathlib
import random
import struct
import threading
import time

import numpy as np
import safetensors.numpy

from fedsup_tf.space import MEAN_SQUARE
from tff_programs.programs.phone_faults import damaged, draw_fault
from tflite.format.metadata import read_metadata
from tflite.format.update_file import DeviceUpdate
from tflite.together.address import ServerAddress
from tflite.together.errors import FederationError, RefusedError, UnavailableError
from tflite.together.federation import Federation

FIELDS = {
    "capability": {"parameters": 2**53 - 1, "macs": 2**53 - 1},
    "runtime": "none",
    "application": "benchmarks/gateway.py",
}
_DEVIATION = 1e-3
_HOSTILE_FACTOR = -10.0
_TROUBLE_SECONDS = 1.0


class Updates:
    """Update files, prepared once per model; a single value differs between phones."""

    def __init__(self, folder: pathlib.Path):
        """Stores models in `folder`."""
        self._folder = folder
        self._templates: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def model(self, federation: Federation, task: dict) -> pathlib.Path:
        """Fetches the model of a task, as each phone does, and returns its path."""
        path = self._folder / f"{task['model']}-{threading.get_ident()}.tflite"
        federation.fetch_model(task["model"], task["model_bytes"], path)
        return path

    def data(self, task: dict, path: pathlib.Path, own: float, factor: float = 1.0) -> bytes:
        """Returns the bytes of an update whose last value is `own * _DEVIATION`."""
        key = f"{task['model']} {factor}"
        with self._lock:
            if key not in self._templates:
                self._templates[key] = _template(path, factor)
            template = self._templates[key]
        # The values are at the end of the file, little-endian.
        return template[:-4] + struct.pack("<f", own * _DEVIATION)


def _template(path: pathlib.Path, factor: float) -> bytes:
    metadata = read_metadata(path)
    rng = np.random.default_rng(0)
    delta = {
        name: (factor * _DEVIATION * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in metadata.variables.items()
        if not name.endswith(MEAN_SQUARE)
    }
    update = DeviceUpdate(
        delta, metadata.architecture, metadata.supernet_hash, metadata.round, 20, 1.0, 0.5
    )
    header = {"kind": "fedsup-tf update", "version": 1, "metadata": update.metadata()}
    return safetensors.numpy.save(delta, {"fedsup-tf": json.dumps(header)})


class SimulatedPhone:
    """A phone that keeps its update until the server has answered.

    Attributes:
      due: Time of the next visit, in seconds of `time.monotonic`.
      accepted: Hashes of accepted updates by task.
      faults: Number of tasks by kind of fault that the phone simulated.
      refusals: Number of refused updates by error code of the protocol.
    """

    def __init__(self, address: ServerAddress, number: int, shares: dict, updates: Updates):
        """Creates a phone that is not enrolled yet."""
        self.number, self.due = number, 0.0
        self.accepted: dict[str, str] = {}
        self.faults: dict[str, int] = {}
        self.refusals: dict[str, int] = {}
        self._address, self._shares, self._updates = address, shares, updates
        self._federation = Federation(address, attempts=1)
        self._rng = random.Random(number)
        self._pending: tuple[dict, bytes, str | None] | None = None
        self._vanished_round = -1

    @property
    def waits_for_answer(self) -> bool:
        """True if an update may have been accepted although no answer has arrived."""
        return self._pending is not None and self._pending[2] != "late"

    def visit(self) -> None:
        """Performs the next action of the phone and schedules the next visit."""
        try:
            seconds = self._visit()
        except UnavailableError as error:
            seconds = error.seconds or _TROUBLE_SECONDS
        except RefusedError:
            seconds = _TROUBLE_SECONDS
        finally:
            self._federation.close()
        self.due = time.monotonic() + seconds * self._rng.uniform(0.5, 1.5)

    def _visit(self) -> float:
        federation = self._federation
        if federation.identity is None:
            federation.enrol()
        if self._pending is not None:
            return self._send()
        answer = federation.check_in(FIELDS)
        task = answer.get("task")
        if task is None or task["round"] == self._vanished_round:
            return answer["wait_seconds"]
        fault = draw_fault(self._shares, 0, self.number, task["round"])
        if fault is not None:
            self.faults[fault] = self.faults.get(fault, 0) + 1
        if fault == "vanish":
            self._vanished_round = task["round"]
            return answer["wait_seconds"]
        path = self._updates.model(federation, task)
        try:
            factor = _HOSTILE_FACTOR if fault == "hostile" else 1.0
            data = self._updates.data(task, path, self.number + 1, factor)
        finally:
            os.remove(path)
        self._pending = (task, data, fault)
        return 0.0 if fault == "late" else self._send()

    def _send(self) -> float:
        task, data, fault = self._pending
        federation = self._federation
        if fault == "late" and federation.status()["round"] <= task["round"]:
            return _TROUBLE_SECONDS
        if fault == "late":
            # From here on, the update may be accepted without an answer.
            self._pending = (task, data, None)
        if fault == "damaged":
            self._put(task, damaged(data))
            # A real phone with a damaged file would train again; this one sends the intact file.
            self._pending = (task, data, None)
        seconds = self._put(task, data)
        if fault == "replay":
            self._put(task, data)
        self._pending = None
        return seconds

    def _put(self, task: dict, data: bytes) -> float:
        try:
            answer = self._federation.send_update(task["task"], data)
        except RefusedError as error:
            self.refusals[error.code] = self.refusals.get(error.code, 0) + 1
            return _TROUBLE_SECONDS
        self.accepted[task["task"]] = hashlib.sha256(data).hexdigest()
        return answer["wait_seconds"]


class Crowd:
    """Simulated phones, distributed over threads.

    Attributes:
      phones: The phones.
      failures: Errors that should not occur on any phone.
    """

    def __init__(
        self, address: ServerAddress, count: int, shares: dict, folder: pathlib.Path, threads: int
    ):
        """Creates the phones and starts the threads."""
        updates = Updates(folder)
        self.phones = [SimulatedPhone(address, n, shares, updates) for n in range(count)]
        self.failures: list[Exception] = []
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(self.phones[n::threads],), daemon=True)
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def accepted(self) -> int:
        """Returns the number of updates accepted so far."""
        return sum(len(phone.accepted) for phone in self.phones)

    def stop(self) -> None:
        """Waits until each phone knows the outcome of the update that it sent, then stops."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, phones: list[SimulatedPhone]) -> None:
        try:
            while True:
                if self._ended.is_set():
                    phones = [phone for phone in phones if phone.waits_for_answer]
                if not phones:
                    return
                phone = min(phones, key=lambda phone: phone.due)
                wait = phone.due - time.monotonic()
                if wait > 0:
                    time.sleep(min(wait, 0.2))
                    continue
                phone.visit()
        except (FederationError, OSError, ValueError) as error:
            self.failures.append(error)
