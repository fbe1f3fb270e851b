"""Body of an update during its upload: in memory if small, otherwise in a temporary file."""

import copy
import hashlib
from typing import Any, BinaryIO

from tff_programs.gateway import update_files, uploads
from tff_programs.gateway.refusal import RefusalError

# Size of the largest body that is held in memory.
MAX_HELD_BYTES = 2**20


class MemoryBudget:
    """Memory budget that bodies share; only the event loop may change it.

    Attributes:
      free_bytes: Number of bytes that no body has taken.
    """

    def __init__(self, free_bytes: int):
        """Creates the budget."""
        self.free_bytes = free_bytes


class UploadBody:
    """A body that arrives in parts.

    Until the body is complete it belongs to its connection, which discards it on closing. The body
    that `hand_over` returns belongs to the caller.
    """

    def __init__(self, folder: str, memory_budget: MemoryBudget):
        """Creates an empty body.

        Args:
          folder: Path of the gateway's folder.
          memory_budget: Memory budget of the bodies that are held in memory.
        """
        self._folder = folder
        self._memory_budget = memory_budget
        self._begin()

    def _begin(self) -> None:
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()

    def take(self, part: bytes) -> None:
        """Takes the next part.

        Raises:
          OSError: If the temporary file cannot be written.
        """
        maximum = min(MAX_HELD_BYTES, self._held_bytes + self._memory_budget.free_bytes)
        if self._file is None and self._held_bytes + len(part) <= maximum:
            self._parts.append(part)
            self._held_bytes += len(part)
            self._memory_budget.free_bytes -= len(part)
            return
        if self._file is None:
            self._file = update_files.temporary_file(self._folder)
            for held in self._parts:
                self._write(held)
            self.release_memory()
        self._write(part)

    def _write(self, part: bytes) -> None:
        self._digest.update(part)
        update_files.write_all(self._file, part)

    def hand_over(self) -> "UploadBody":
        """Returns the received body, and empties this one."""
        whole = copy.copy(self)
        self._begin()
        return whole

    def check(self, hash_: str, expected: uploads.Expected) -> None:
        """Checks the complete body.

        Any thread may call this and `keep`, while no other thread uses the body.

        Args:
          hash_: SHA-256 that the body must have, in hexadecimal digits.
          expected: Update that the task accepts.

        Raises:
          RefusalError: If the body cannot be used; its temporary file is removed.
        """
        try:
            source = self._whole() if self._file is None else self._file.name
            received = self._digest.hexdigest()
            if received != hash_:
                raise RefusalError(
                    422,
                    "hash",
                    f"Expected a body whose SHA-256 is {hash_[:12]}..., received one of "
                    f"{received[:12]}.... Send it again.",
                )
            uploads.check_update(self._folder, source, expected)
        except BaseException:
            self._remove()
            raise

    def _whole(self) -> bytes:
        whole = b"".join(self._parts)
        self._digest.update(whole)
        self._parts = [whole]
        return whole

    def keep(self, hash_: str, expected: uploads.Expected) -> dict[str, Any]:
        """Moves the checked body to its final path and syncs it to disk.

        Args:
          hash_: As in `check`.
          expected: As in `check`.

        Returns:
          The update's row for the database.
        """
        content = self._parts[0] if self._file is None else self._file
        try:
            return uploads.keep(self._folder, content, hash_, expected)
        finally:
            self._remove()

    def _remove(self) -> None:
        if self._file is not None:
            update_files.remove(self._file)
            self._file = None

    def discard(self) -> None:
        """Discards a body that was not handed over."""
        self.release_memory()
        self._remove()

    def release_memory(self) -> None:
        """Returns the body's memory to the budget."""
        self._memory_budget.free_bytes += self._held_bytes
        self._held_bytes, self._parts = 0, []
