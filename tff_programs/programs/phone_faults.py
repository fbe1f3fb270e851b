"""Misbehaving phones for `fedsup phones`: they vanish, send late, lie or send damaged updates."""

import dataclasses
import os
import random
import signal
from collections.abc import Mapping
from typing import Any

from tflite.format.update_file import DeviceUpdate
from tflite.together.device_folder import DeviceFolder, PendingUpdate
from tflite.together.errors import RefusedError
from tflite.together.federation import Federation
from tflite.together.participant import Participant, Visit

FAULTS = ("vanish", "late", "hostile", "damaged", "replay", "crash")
# Reverses the update and enlarges it tenfold, which spoils a mean of few updates.
_HOSTILE_FACTOR = -10.0
# Number of bytes in the middle that are inverted.
_DAMAGED_BYTES = 64
# Wait between the visits of a late phone while its round is open.
_LATE_SECONDS = 5


def draw_fault(shares: Mapping[str, float], seed: int, phone: int, round_number: int) -> str | None:
    """Draws the fault of a phone in a round.

    Args:
      shares: Probability of each of `FAULTS`; their sum is at most 1.
      seed: Seed of the draw, combined with the phone and the round.
      phone: Number of the phone.
      round_number: Number of the round.

    Returns:
      One of `FAULTS`; None if the phone behaves correctly.
    """
    drawn = random.Random(f"{seed} {phone} {round_number}").random()
    for fault in FAULTS:
        drawn -= shares.get(fault, 0.0)
        if drawn < 0:
            return fault
    return None


def damaged(data: bytes) -> bytes:
    """Returns the data with some bytes in the middle inverted and the last byte removed."""
    middle = len(data) // 2
    part = bytes(255 - byte for byte in data[middle : middle + _DAMAGED_BYTES])
    return data[:middle] + part + data[middle + len(part) : -1]


def hostile(update: DeviceUpdate) -> DeviceUpdate:
    """Returns an update that undoes what was learned, but still claims the lower loss."""
    delta = {
        name: value * value.dtype.type(_HOSTILE_FACTOR) for name, value in update.delta.items()
    }
    return dataclasses.replace(update, delta=delta)


class FaultyParticipant(Participant):
    """A device with at most one fault per round, drawn at random."""

    def __init__(
        self,
        federation: Federation,
        folder: DeviceFolder,
        fields: Mapping[str, Any],
        runtime: str | None,
        shares: Mapping[str, float],
        seed: int,
        number: int,
    ):
        """Creates the device.

        Args:
          federation: Connection to the server.
          folder: The device's files.
          fields: Fields of every check-in, see `Participant`.
          runtime: Name of the runtime, see `Participant`.
          shares: Probability of each fault, see `draw_fault`.
          seed: Seed of the faults.
          number: Number of the phone.
        """
        super().__init__(federation, folder, fields, runtime)
        self._shares, self._seed, self._number = shares, seed, number

    def perform(self, task, path, examples, wait_seconds) -> Visit:
        """Performs a task, correctly or with a fault."""
        fault = draw_fault(self._shares, self._seed, self._number, task["round"])
        if fault == "vanish":
            return Visit("vanished", wait_seconds, task)
        update = self.train(task, path, examples)
        if fault == "hostile":
            update = hostile(update)
        pending = self.folder.save_update(task, update, is_sent_late=fault == "late")
        if fault == "late":
            return Visit("late", wait_seconds, task, update.loss_before, update.loss_after)
        if fault == "crash":
            # The update is stored, and sent when the phone is started again.
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "damaged":
            self._send_damaged(pending)
        if fault == "replay":
            self.federation.send_update(task["task"], self.folder.read_update())
        return self.send(pending)

    def send(self, pending: PendingUpdate) -> Visit:
        """Sends an update; a late one is only sent after its round was closed."""
        if pending.is_sent_late and self.federation.status()["round"] <= pending.task["round"]:
            return Visit("late", _LATE_SECONDS, pending.task)
        return super().send(pending)

    def _send_damaged(self, pending: PendingUpdate) -> None:
        """Sends damaged bytes, which the server must refuse, before the intact update is sent."""
        try:
            self.federation.send_update(pending.task["task"], damaged(self.folder.read_update()))
        except RefusedError:
            return
        raise RuntimeError("Expected that the server refuses a damaged update, but it took it.")
