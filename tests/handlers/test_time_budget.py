from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine

from spoco_bundle.handlers import TimeBudget
from spoco_bundle.handlers.time_budget import one_cycle


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Validation:
    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.at = clock, seconds, []

    def run(self, epoch):
        self.at.append(self.clock.now - 100)
        self.clock.now += self.seconds


def train(minutes, seconds_per_step, seconds_per_validation=0.0, state=None, stop_at=None, **options):
    """Steps of a training that takes so many seconds each; the handler, its validation and the rates."""
    clock = Clock()
    validation = Validation(clock, seconds_per_validation)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=7.0)
    rates = []

    def step(engine, batch):
        rates.append(optimizer.param_groups[0]["lr"])
        clock.now += seconds_per_step
        if stop_at is not None and len(rates) == stop_at:
            engine.terminate()

    engine = Engine(step)
    budget = TimeBudget(minutes, optimizer, 0.1, validation, clock=clock, **options)
    budget.attach(engine)
    if state is not None:
        budget.load_state_dict(state)
    engine.run(range(10), max_epochs=1000)
    return budget, validation, rates, clock.now - 100


def test_the_learning_rate_is_that_of_one_cycle():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=1001, pct_start=0.05)
    for step in range(1000):
        # torch counts its first part to one step before the whole share
        progress = step / 49.05 * 0.05 if step < 49 else 0.05 + (step - 49.05) / (1000 - 49.05) * 0.95
        assert one_cycle(progress) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        schedule.step()
    assert [one_cycle(share) for share in (0, 0.05, 1)] == pytest.approx([1 / 25, 1, 4e-6])


def test_a_training_ends_on_time_with_its_last_validation():
    _, validation, rates, seconds = train(1, 0.5, 2.0)
    assert 59 <= seconds <= 61 and len(validation.at) == 6
    # at equal shares of the training, once it is known how long one takes
    steps = [b - a for a, b in zip(validation.at, validation.at[1:])]
    assert max(steps) - min(steps) < 3
    assert rates[0] == pytest.approx(0.1 / 25) and max(rates) <= 0.1 and rates[-1] < 0.001


def test_validations_take_no_more_than_half_of_the_time():
    _, validation, _, seconds = train(1, 0.5, 20.0)
    assert len(validation.at) == 2 and seconds < 75


def test_an_interrupted_training_goes_on_with_the_time_that_is_left():
    first, *_ = train(1, 0.5, 2.0, stop_at=40)
    state = first.state_dict()
    assert 20 <= state["spent"] <= 26 and state["done"] >= 1
    second, validation, rates, seconds = train(1, 0.5, 2.0, state=state)
    assert 59 <= seconds + state["spent"] <= 61 and len(validation.at) == 6 - state["done"]
    assert rates[0] < 0.1 * one_cycle(0.3)
    assert second.progress == 1


def test_without_minutes_the_epochs_decide():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=7.0)
    engine = Engine(lambda engine, batch: None)
    TimeBudget(None, optimizer, 0.1).attach(engine)
    assert engine.run(range(3), max_epochs=2).iteration == 6 and optimizer.param_groups[0]["lr"] == 7


def test_a_budget_shorter_than_a_step_still_trains_and_validates_once():
    _, validation, rates, _ = train(0.001, 5.0)
    assert len(rates) == 1 and len(validation.at) == 1
