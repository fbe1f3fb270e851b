"""Measures the latency of a subnet's inference and training with several engines.

Each engine runs in a separate process (`engine_worker`), so that its threads do not slow down
another engine. The engines take turns, so that other load on the machine affects all of them.
"""

import json
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tflite.format import signatures

_ROOT = Path(__file__).parents[2]
# Number of consecutive calls, as in training, before it is the next engine's turn.
_TURN = 10
# Pause before a turn, since threads spin for a while after a call and would slow the next engine.
_REST_SECONDS = 0.05
# Timeout for a process to become ready or to complete its turn.
MAX_SECONDS = 900


def measure_latency(
    engines: Sequence[str], job: dict[str, Any], repetitions: int
) -> list[dict[str, Any]]:
    """Measures the time of `infer` and `train`.

    Args:
      engines: Keys of `engine_worker.ENGINES`.
      job: Argument of `engine_worker`, without the engine.
      repetitions: Number of timed calls per signature and engine.

    Returns:
      An entry for each engine with `engine` (its name), `threads`, and the median and minimum times
      in milliseconds, `infer_ms`, `least_infer_ms`, `train_ms` and `least_train_ms`, or an `error`
      in their place.
    """
    processes = [_Process({**job, "engine": name}) for name in engines]
    try:
        for process in processes:
            process.wait_until_ready()
        for signature in (signatures.INFER, signatures.TRAIN):
            for done in range(0, repetitions, _TURN):
                for process in processes:
                    process.take_turn(signature, min(_TURN, repetitions - done))
    finally:
        for process in processes:
            process.end()
    return [
        {"engine": name, "threads": job["threads"], **process.report()}
        for name, process in zip(engines, processes, strict=True)
    ]


class _Process:
    """The process of one engine; after a failure it takes no further turns."""

    def __init__(self, job: dict[str, Any]):
        self._times = {signatures.INFER: [], signatures.TRAIN: []}
        self._error = None
        self._messages = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tflite.profiling.engine_worker", json.dumps(job)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
        )

    def wait_until_ready(self) -> None:
        self._answer()

    def take_turn(self, signature: str, count: int) -> None:
        if self._error is not None:
            return
        time.sleep(_REST_SECONDS)
        try:
            print(signature, count, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass  # `_answer` finds the reason.
        answer = self._answer()
        self._times[signature] += json.loads(answer) if answer else []

    def report(self) -> dict[str, Any]:
        """Returns the median and minimum milliseconds of each signature, or the error."""
        if self._error is not None:
            return {"error": self._error}
        report = {}
        for signature, times in self._times.items():
            report[f"{signature}_ms"] = float(np.median(times))
            report[f"least_{signature}_ms"] = min(times)
        return report

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._messages.close()

    def _answer(self) -> str:
        """Reads the next line of the process; if there is none, returns "" and sets `_error`."""
        output = self._process.stdout
        if not select.select([output], [], [], MAX_SECONDS)[0]:
            self._error = f"no answer within {MAX_SECONDS} s"
            return ""
        line = output.readline()
        if not line:
            code = self._process.wait()
            self._messages.seek(0)
            self._error = last_words(self._messages.read(), code)
        return line


def last_words(messages: str, code: int) -> str:
    """Returns the last line of a process's standard error, or the exit code if it is empty."""
    lines = messages.strip().splitlines()
    return lines[-1] if lines else f"ended with {code}"
