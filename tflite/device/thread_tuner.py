"""Chooses the number of threads on which steps of training take the least time."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

# Steps until both numbers of threads are tried again, and steps of each trial. The least time of a
# trial counts, since its first step wakes a thread.
_PERIOD, _TRIAL = 64, 4


class ThreadTuner:
    """Runs steps on one thread or on as many as are allowed, whichever takes less time.

    The gain of a second thread depends on the distance of the cores. By measurement, if a byte
    travels from core to core and back in 0.1 us, a step of a small net is an eighth shorter; if
    that takes 0.4 us, a quarter longer. It may change while a program runs, when the operating
    system moves threads or a host moves virtual cores. Both are therefore tried from time to time
    on steps of the training itself, whose results are the same to the bit.
    """

    def __init__(
        self,
        set_threads: Callable[[int], None],
        most: int,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """Prepares a choice between 1 and `most` threads.

        Args:
          set_threads: Sets the number of threads of the runtime.
          most: Greatest number of threads, from 1.
          clock: Returns the time in seconds.
        """
        self._set_threads = set_threads
        self._candidates = (most, 1) if most > 1 else (1,)
        self._clock = clock
        self._steps = 0
        self._least: dict[int, float] = {}

    def run(self, step: Callable[[], Result]) -> Result:
        """Runs a step on the number of threads that is in turn, and returns its result."""
        trial = self._steps % _PERIOD // _TRIAL
        is_trial = trial < len(self._candidates)
        if is_trial:
            threads = self._candidates[trial]
        else:
            threads = min(self._least, key=self._least.get)
        if self._steps % _PERIOD == 0:
            self._least = {}
        self._set_threads(threads)
        began = self._clock()
        result = step()
        if is_trial:
            taken = self._clock() - began
            self._least[threads] = min(taken, self._least.get(threads, taken))
        self._steps += 1
        return result
