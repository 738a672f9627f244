from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.handlers import TimeBudget, TrainingCheckpoint, TrainingProgress, time_budget
from spoco_bundle.handlers.time_budget import one_cycle


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Validation(Engine):
    def __init__(self, clock, seconds):
        super().__init__(self.step)
        self.clock, self.seconds, self.at = clock, seconds, []

    def step(self, engine, batch):
        self.at.append(self.clock.now - 100)
        self.clock.now += self.seconds

    def run(self, epoch):
        super().run([0])


def train(
    minutes,
    seconds_per_step,
    seconds_per_validation=0.0,
    state=None,
    stop_at=None,
    score_before=False,
    max_epochs=1000,
    **options,
):
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
    if score_before:
        engine.add_event_handler(Events.STARTED, lambda engine: validation.run(1))
    if state is not None:
        budget.load_state_dict(state)
    engine.run(range(10), max_epochs=max_epochs)
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


@pytest.mark.parametrize("validations", [1, 6])
def test_a_training_whose_epochs_are_done_before_its_time_ends_with_a_validation(validations):
    _, validation, rates, seconds = train(10, 0.5, max_epochs=2, validations=validations)
    assert len(rates) == 20 and seconds == validation.at[-1] == 10 and len(validation.at) == 1


def test_a_training_ends_on_time_with_its_last_validation():
    _, validation, rates, seconds = train(1, 0.5, 1.0)
    assert 59 <= seconds <= 61 and len(validation.at) == 6
    # at equal shares of the training, once it is known how long one takes
    steps = [b - a for a, b in zip(validation.at, validation.at[1:])]
    assert max(steps) - min(steps) < 3
    assert rates[0] == pytest.approx(0.1 / 25) and max(rates) <= 0.1 and rates[-1] < 0.001


def test_a_validation_before_the_training_takes_its_time_but_not_its_warm_up():
    _, validation, rates, seconds = train(1, 0.5, 9.0, score_before=True)
    assert validation.at[0] == 0 and 59 <= seconds <= 61
    assert rates[0] == pytest.approx(0.1 / 25) and max(rates) == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize(("share", "each", "count"), [(0.15, 1.0, 6), (0.15, 2.0, 4), (0.15, 20.0, 2), (0.5, 4.0, 6)])
def test_validations_take_no_more_than_their_share_and_the_later_ones_come(share, each, count):
    _, validation, _, seconds = train(1, 0.5, each, share=share)
    assert len(validation.at) == count and seconds < 61 + 0.5 * each
    assert validation.at[0] < 15 and validation.at[-1] >= 60 - 1.5 * each
    assert validation.at[1] > 60 * (6 - count) / 6 - each * count


def test_an_interrupted_training_goes_on_with_the_time_that_is_left():
    first, *_ = train(1, 0.5, 1.0, stop_at=40)
    state = first.state_dict()
    assert 20 <= state["spent"] <= 26 and state["done"] >= 1
    second, validation, rates, seconds = train(1, 0.5, 1.0, state=state)
    assert 59 <= seconds + state["spent"] <= 61 and len(validation.at) == 6 - state["done"]
    assert rates[0] < 0.1 * one_cycle(0.3)
    assert second.progress == 1


def test_a_finished_training_goes_on_when_it_is_given_more_minutes():
    state = train(1, 0.5, 1.0)[0].state_dict()
    assert state["done"] == 6
    _, validation, rates, seconds = train(3, 0.5, 1.0, state=state)
    assert 119 <= seconds <= 121 and len(validation.at) == 5 and rates[0] > 0.05


def test_without_minutes_the_epochs_decide():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=7.0)
    engine = Engine(lambda engine, batch: None)
    TimeBudget(None, optimizer, 0.1).attach(engine)
    assert engine.run(range(3), max_epochs=2).iteration == 6 and optimizer.param_groups[0]["lr"] == 7


def test_a_budget_shorter_than_a_step_still_trains_and_validates_once():
    _, validation, rates, _ = train(0.001, 5.0)
    assert len(rates) == 1 and len(validation.at) == 1


@pytest.mark.parametrize("steps", [37, 100, 130])  # within the first epoch, at its end, in the second
def test_the_end_of_the_time_completes_the_epoch_and_is_in_the_checkpoint(steps, tmp_path):
    clock = Clock()
    network = torch.nn.Linear(1, 1)

    def step(engine, batch):
        clock.now += 1

    engine = Engine(step)
    completed = []
    budget = TimeBudget(steps / 60, torch.optim.SGD(network.parameters(), lr=1.0), 0.1, clock=clock)
    budget.attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: completed.append(engine.state.epoch))
    objects = {"network": network, "budget": budget}
    TrainingCheckpoint(str(tmp_path), objects, interval_iterations=50, save_on_signal=False).attach(engine)
    engine.run(range(100), max_epochs=10**6)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert engine.state.iteration == steps and completed[-1] == -(-steps // 100)
    assert saved["engine"]["iteration"] == steps and saved["budget"]["spent"] == pytest.approx(steps)


def test_all_processes_go_by_the_clock_of_the_first(monkeypatch):
    said = []

    def broadcast(value):
        said.append(value)
        return 0.4

    monkeypatch.setattr(time_budget.idist, "broadcast", broadcast)
    *_, rates, seconds = train(1, 0.5, validations=1, stop_at=200)
    # the own clock would have ended it after 120 steps
    assert seconds == 100 and set(rates) == {0.1 * one_cycle(0.4)}
    assert min(said) == 0 and max(said) == 1


def test_start_and_progress_tell_the_time(caplog):
    clock = Clock()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)

    def step(engine, batch):
        clock.now += 6
        return {"loss_terms": {"loss": 0.5}}

    engine = Engine(step)
    budget = TimeBudget(10, optimizer, 0.002, clock=clock)
    progress = TrainingProgress(budget=budget)
    for handler in (budget, progress):
        handler.attach(engine)
    facts = []
    engine.add_event_handler(
        Events.EPOCH_STARTED, lambda engine: setattr(progress.progress, "update", lambda **said: facts.append(said))
    )
    with caplog.at_level("INFO"):
        budget.load_state_dict({"spent": 240, "validating": 0, "longest": 0, "done": 2})
        engine.run(range(10), max_epochs=1000)
    said = [record.getMessage() for record in caplog.records if record.name == time_budget.__name__]
    assert said == [
        "4.0 of 10.0 minutes were spent before",
        "training for 10.0 minutes: learning rate up to 0.002 and down again, no validation",
        "60 iterations in 10.0 minutes",
    ]
    assert facts[0] == {"minutes left": "5.9", "loss": "0.500"} and facts[-1]["minutes left"] == "0.0"


@pytest.mark.parametrize(
    "wrong", [{"minutes": 0}, {"minutes": float("nan")}, {"validations": 0}, {"warm_up": 0}, {"warm_up": 1}]
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(SpocoError, match=next(iter(wrong))):
        TimeBudget(**{"minutes": 1, **wrong}, optimizer=None, learning_rate=0.1)
