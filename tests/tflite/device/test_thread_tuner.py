"""Tests that steps run on one thread or on all, whichever is faster."""

import pytest

from tflite.device import thread_tuner
from tflite.device.thread_tuner import ThreadTuner

TRIAL, PERIOD = thread_tuner._TRIAL, thread_tuner._PERIOD


class Machine:
    """Simulated machine; `seconds` maps the number of threads and the step to the step's time."""

    def __init__(self, seconds, maximum=2):
        self.seconds, self.threads, self.now = seconds, maximum, 0.0
        self.ran_on = []
        self.choice = ThreadTuner(self.set_threads, maximum, lambda: self.now)

    def set_threads(self, threads):
        self.threads = threads

    def step(self):
        self.now += self.seconds(self.threads, len(self.ran_on))
        self.ran_on.append(self.threads)
        return len(self.ran_on)

    def run(self, steps):
        return [self.choice.run(self.step) for _ in range(steps)]


@pytest.mark.parametrize(("one", "two", "faster"), [(6.0, 5.0, 2), (6.0, 8.0, 1)])
def test_after_a_trial_of_both_the_faster_runs(one, two, faster):
    machine = Machine(lambda threads, _: {1: one, 2: two}[threads])
    results = machine.run(PERIOD + 1)
    assert results == list(range(1, PERIOD + 2))
    trials = [2] * TRIAL + [1] * TRIAL
    assert machine.ran_on == [*trials, *[faster] * (PERIOD - len(trials)), 2]


def test_a_long_step_among_short_ones_does_not_decide():
    def seconds(threads, number):
        return 100.0 if number in (0, TRIAL) else {1: 6.0, 2: 5.0}[threads]

    machine = Machine(seconds)
    machine.run(PERIOD)
    assert set(machine.ran_on[2 * TRIAL :]) == {2}


def test_what_is_faster_may_change():
    def seconds(threads, number):
        second = 5.0 if number < PERIOD else 8.0
        return {1: 6.0, 2: second}[threads]

    machine = Machine(seconds)
    machine.run(2 * PERIOD)
    chosen = [set(machine.ran_on[start + 2 * TRIAL : start + PERIOD]) for start in (0, PERIOD)]
    assert chosen == [{2}, {1}]


def test_of_four_threads_all_or_one_are_tried():
    machine = Machine(lambda threads, _: 1.0 / threads, maximum=4)
    machine.run(PERIOD)
    assert set(machine.ran_on) == {1, 4}
    assert set(machine.ran_on[2 * TRIAL :]) == {4}


def test_one_thread_needs_no_choice():
    machine = Machine(lambda *_: 1.0, maximum=1)
    assert machine.run(PERIOD) == list(range(1, PERIOD + 1))
    assert set(machine.ran_on) == {1}


def test_a_step_that_fails_leaves_the_choice_as_it_was():
    machine = Machine(lambda threads, _: {1: 6.0, 2: 5.0}[threads])
    machine.run(TRIAL)

    def fail():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        machine.choice.run(fail)
    machine.run(PERIOD - TRIAL)
    assert machine.ran_on == [2] * TRIAL + [1] * TRIAL + [2] * (PERIOD - 2 * TRIAL)
