"""On how many threads steps of training run: as many as make them short, where that changes."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

# Steps until both are tried again, and steps of each trial: the least of so many counts, since the
# first wakes a thread.
_PERIOD, _TRIAL = 64, 4


class ThreadChoice:
    """Runs steps on one thread or on as many as are allowed, whichever takes less time.

    What a second thread gains depends on where its core is. By measurement, where a byte is from
    core to core and back in 0.1 us it makes a step of a small net an eighth shorter; where that
    takes 0.4 us, a quarter longer. It changes while a program runs, where an operating system moves
    threads or a host moves virtual cores. So from time to time both are tried, on steps that are to
    be done anyway: what they compute is the same to the bit.
    """

    def __init__(
        self,
        set_threads: Callable[[int], None],
        most: int,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """Chooses between 1 and `most`.

        Args:
          set_threads: On how many the runtime computes from now on.
          most: Threads that are allowed, from 1.
          clock: Seconds.
        """
        self._set_threads = set_threads
        self._candidates = (most, 1) if most > 1 else (1,)
        self._clock = clock
        self._steps = 0
        self._least: dict[int, float] = {}

    def run(self, step: Callable[[], Result]) -> Result:
        """What the step returns."""
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
