"""Chooses the number of threads that makes training steps fastest."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

# Number of steps between two rounds of trials, and number of steps per trial. The shortest time of
# a trial counts, since its first step wakes a thread.
_PERIOD, _TRIAL = 64, 4


class ThreadTuner:
    """Runs steps on one thread or on the maximum number of threads, whichever is faster.

    The benefit of a second thread depends on the latency between the cores. Measured on a small
    net, a step takes an eighth less time if a byte travels from core to core and back in 0.1 us,
    but a quarter more if that takes 0.4 us. The latency may change while a program runs, when the
    operating system moves threads or a host moves virtual cores. Both numbers of threads are
    therefore tried periodically on the training steps themselves; the results are bitwise equal.
    """

    def __init__(
        self,
        set_threads: Callable[[int], None],
        max_threads: int,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """Prepares a choice between 1 and `max_threads` threads.

        Args:
          set_threads: Function that sets the number of threads of the runtime.
          max_threads: Maximum number of threads, at least 1.
          clock: Function that returns the time in seconds.
        """
        self._set_threads = set_threads
        self._candidates = (max_threads, 1) if max_threads > 1 else (1,)
        self._clock = clock
        self._steps = 0
        self._least: dict[int, float] = {}

    def run(self, step: Callable[[], Result]) -> Result:
        """Runs a step on the current choice of threads and returns its result."""
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
