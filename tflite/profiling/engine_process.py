"""How long a subnet's inference and training take with each engine, side by side.

Each engine is a process of its own (`engine_worker`), and they take turns: whatever else the
machine does meets them all, and the threads of none disturb another's.
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
# Calls that follow each other, as in training, before the next engine has its turn.
_TURN = 10
# Threads spin for a while after a call, and would take from the next engine.
_REST_SECONDS = 0.05
# Until a process is ready, or has had its turn.
MOST_SECONDS = 900


def measure_latency(
    engines: Sequence[str], job: dict[str, Any], repetitions: int
) -> list[dict[str, Any]]:
    """Times `infer` and `train`.

    Args:
      engines: Of `engine_worker.ENGINES`.
      job: What `engine_worker` takes, without the engine.
      repetitions: Calls of each signature that are timed, of each engine.

    Returns:
      For each engine its name as `engine`, `threads`, and median and least milliseconds as
      `infer_ms`, `least_infer_ms`, `train_ms` and `least_train_ms`, or an `error` in their place.
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
    """One engine at work; once it fails it takes no further turns."""

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
            pass  # No answer will tell why.
        answer = self._answer()
        self._times[signature] += json.loads(answer) if answer else []

    def report(self) -> dict[str, Any]:
        """Milliseconds, or the error."""
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
        """The process' next line; empty if there will be none, and `_error` says why."""
        output = self._process.stdout
        if not select.select([output], [], [], MOST_SECONDS)[0]:
            self._error = f"no answer within {MOST_SECONDS} s"
            return ""
        line = output.readline()
        if not line:
            code = self._process.wait()
            self._messages.seek(0)
            self._error = last_words(self._messages.read(), code)
        return line


def last_words(messages: str, code: int) -> str:
    """Why a process ended: the last line that it wrote as an error, or its exit code."""
    lines = messages.strip().splitlines()
    return lines[-1] if lines else f"ended with {code}"
