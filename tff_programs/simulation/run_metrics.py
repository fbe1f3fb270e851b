"""Metrics of a run's rounds: a CSV table, TensorBoard files, and a check for missing rounds."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_federated as tff

from fedsup_tf.files.atomic_write import write_bytes, write_text
from tff_programs.simulation.run_state import saving

_KEY = "round"


class RunMetricsManager(tff.program.ReleaseManager):
    """Writes each round's metrics; a failure raises a one-sentence error."""

    def __init__(self, table: str, tensorboard: str):
        """Creates the manager.

        Args:
          table: Path of the CSV file.
          tensorboard: Folder of the TensorBoard files.
        """
        self._managers = {}
        with saving(table, "the metrics"):
            self._managers[table] = tff.program.CSVFileReleaseManager(table, key_fieldname=_KEY)
        with saving(tensorboard, "the metrics"):
            self._managers[tensorboard] = tff.program.TensorBoardReleaseManager(tensorboard)

    async def release(self, value: Any, key: int) -> None:
        """Writes the metrics of round `key` and drops existing ones of this and later rounds.

        Raises:
          OSError: If they cannot be written.
        """
        for path, manager in self._managers.items():
            with saving(path, f"the metrics of round {key}"):
                await manager.release(value, key)


def mend_table(path: str) -> str | None:
    """Drops unreadable rows of a table of metrics.

    The original file is kept under another name, unless only its last row was cut off.

    Args:
      path: Path of the CSV file; nothing is done if there is none.

    Returns:
      A line for the user if something was dropped for a reason other than a killed program.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    text = data.decode("utf-8", errors="replace")
    header, rows, dropped = _read(text)
    if not dropped and header and text.endswith("\n"):
        return None
    is_cut = bool(header) and (dropped == 1 or not dropped) and not text.endswith("\n")
    kept_as = f"{path}.broken"
    if not is_cut:
        write_bytes(kept_as, data)
    if header:
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, header)
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, buffer.getvalue())
    else:
        os.remove(path)
    if is_cut:
        return None
    return (
        f"{path!r}: expected a table with a row for each round, received one with "
        f"{'rows' if header else 'a first line'} that cannot be read. The {len(rows)} whole rows "
        f"are kept; the file as it was is {kept_as!r}."
    )


def missing_rounds(path: str, done: int) -> str | None:
    """Returns a line for the user if a table of metrics lacks rounds that were done.

    Args:
      path: Path of the CSV file.
      done: Number of rounds done.
    """
    present = set()
    if os.path.exists(path):
        with open(path, encoding="utf-8", newline="") as file:
            present = {int(row[_KEY]) for row in csv.DictReader(file)}
    missing = [number for number in range(1, done + 1) if number not in present]
    if not missing:
        return None
    return (
        f"{path!r} has no metrics of {_ranges(missing)}, which this run has done: they were "
        "deleted or damaged. The training is not affected; tables and curves lack them."
    )


def _read(text: str) -> tuple[Sequence[str], list[Mapping[str, str]], int]:
    """Returns a table's header, empty if invalid, its valid rows and the number of others."""
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        lines = [next(csv.reader([line]), []) for line in text.replace("\0", "").splitlines()]
    if not lines or _KEY not in lines[0] or len(set(lines[0])) != len(lines[0]):
        return [], [], len(lines)
    header, rows, dropped, last = lines[0], [], 0, 0
    for number, line in enumerate(lines[1:], 2):
        row = dict(zip(header, line, strict=False))
        is_cut = number == len(lines) and not text.endswith("\n")
        is_whole = len(line) == len(header) and all(map(_is_value, line)) and not is_cut
        if not is_whole or not _is_round(row[_KEY], last):
            dropped += 1
            continue
        last = int(row[_KEY])
        rows.append(row)
    return header, rows, dropped


def _is_value(text: str) -> bool:
    """Returns whether a cell is empty or a number."""
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def _is_round(text: str, last: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > last


def _ranges(numbers: Sequence[int]) -> str:
    """Formats numbers of rounds, such as `rounds 1 to 3, 5`."""
    runs = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    parts = [str(first) if first == last else f"{first} to {last}" for first, last in runs]
    return ("round " if len(numbers) == 1 else "rounds ") + ", ".join(parts)
