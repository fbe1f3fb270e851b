"""Tests that diverging trainings are stopped and reported, and keep the last sound state."""

import asyncio
from collections import OrderedDict

import numpy as np
import pytest
import tensorflow_federated as tff

from fedsup_tf.presets import digits_small
from tff_programs.reports.report import progress_line
from tff_programs.simulation.round_plan import RoundPlan
from tff_programs.simulation.training_loop import DivergedError, train

SPACE = digits_small()
PLAN = RoundPlan(2, (0, 1), (SPACE.smallest(),) * 2, np.zeros((2, 2), np.int32))


class Source:
    """Source of two clients in every round."""

    def __init__(self):
        self.assignment = type("Plan", (), {"space": SPACE})

    def iterator(self):
        return self

    def plan(self):
        return PLAN

    def follow(self, plan):
        return list(plan.clients)


class Process:
    """Process with a given loss per round; None means that every update was left out."""

    def __init__(self, losses):
        self.losses = iter(losses)

    def initialize(self):
        return 0

    def next(self, state, client_data):
        loss = next(self.losses)
        train_metrics = OrderedDict(
            loss=0.0 if loss is None else loss,
            examples=0.0 if loss is None else 20.0,
            clients=0 if loss is None else 2,
            rejected=np.array([0, 1] if loss is None else [], np.int32),
        )
        metrics = OrderedDict(client_work=OrderedDict(train=train_metrics))
        return tff.learning.templates.LearningProcessOutput(state + 1, metrics)

    def get_model_weights(self, state):
        return tff.learning.models.ModelWeights((np.float32(state),), ())


class States(tff.program.ProgramStateManager):
    """State manager that records what was saved."""

    def __init__(self):
        self.saved = {}

    async def get_versions(self):
        return None

    async def load(self, version, structure):
        raise tff.program.ProgramStateNotFoundError(version)

    async def save(self, program_state, version):
        self.saved[version] = program_state[0]


def run(losses, evaluate_every=2):
    states, reports, evaluated = States(), [], []
    metrics = tff.program.MemoryReleaseManager()
    outcome = None
    try:
        asyncio.run(
            train(
                Process(losses),
                Source(),
                len(losses),
                state_manager=states,
                metrics_manager=metrics,
                count_bytes=lambda architecture: (1, 1),
                evaluate=lambda weights: {"net": 0.5},
                evaluate_every=evaluate_every,
                on_start=lambda done: None,
                on_round=reports.append,
                on_evaluated=lambda number, weights: evaluated.append(number),
            )
        )
    except DivergedError as error:
        outcome = str(error)
    return outcome, states.saved, metrics.values(), reports, evaluated


def test_a_loss_far_above_guessing_ends_the_training_and_keeps_the_last_sound_state():
    outcome, saved, released, _, evaluated = run([2.0, 1.5, *[113.0] * 8])
    assert "diverged" in outcome
    assert "113.0" in outcome
    assert "learning rate" in outcome
    assert max(saved) == 2
    assert max(released) == 7
    assert evaluated == [2]


def test_updates_that_are_never_finite_end_the_training_without_a_loss():
    outcome, saved, released, reports, _ = run([None] * 3)
    assert "not finite" in outcome
    assert not saved
    for metrics in released.values():
        assert "loss" not in metrics
        assert metrics["rejected"] == 2
    line = progress_line(reports[0], 3, 1)
    assert "loss" not in line
    assert "no update was usable" in line


@pytest.mark.parametrize("last", [[113.0], [None], [113.0, None]])
def test_a_training_that_diverges_at_its_end_keeps_what_was_sound(last):
    outcome, saved, _, _, evaluated = run([2.0, 1.5, *last])
    assert "diverged" in outcome
    assert max(saved) == 2
    assert evaluated == [2]


@pytest.mark.parametrize("losses", [[2.0] * 6, [2.0, 50.0, 50.0, None, 2.0, 2.0]])
def test_a_training_that_recovers_goes_on(losses):
    outcome, saved, _, _, evaluated = run(losses)
    assert outcome is None
    assert max(saved) == evaluated[-1] == 6
