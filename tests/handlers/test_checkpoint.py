from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.saved_state import plain_state
from spoco_bundle.handlers import BestWeights, TrainingCheckpoint
from spoco_bundle.handlers.checkpoint import EARLIER, LAST, PREVIOUS, load_checkpoint


class Training:
    """A few steps of a small regression whose data comes from the global generators."""

    def __init__(self, folder, **arguments):
        torch.manual_seed(0)
        np.random.seed(0)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=30)
        self.steps = []
        self.engine = Engine(self.step)
        self.engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: self.scheduler.step())
        objects = {"network": self.network, "optimizer": self.optimizer, "scheduler": self.scheduler}
        self.checkpoint = TrainingCheckpoint(str(folder), objects, **arguments)
        self.checkpoint.attach(self.engine)

    def step(self, engine, batch):
        self.steps.append(engine.state.iteration)
        loss = (self.network(torch.rand(4, 3)) - float(np.random.rand())).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def run(self, max_epochs=3):
        self.engine.run(range(10), max_epochs=max_epochs)
        return self

    def state(self):
        return [plain_state(thing.state_dict()) for thing in (self.network, self.optimizer, self.scheduler)]


def assert_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            assert_equal(a, b)
    else:
        assert one == other


def test_resume_is_exact_at_the_end_of_an_epoch(tmp_path):
    through = Training(tmp_path / "a").run(3)
    Training(tmp_path / "b").run(2)
    resumed = Training(tmp_path / "b", resume="last").run(3)
    assert resumed.steps == list(range(21, 31))
    assert_equal(resumed.state(), through.state())
    assert resumed.engine.state.output == through.engine.state.output


def test_resume_is_exact_in_the_middle_of_an_epoch(tmp_path):
    through = Training(tmp_path / "a").run(3)
    broken = Training(tmp_path / "b", interval_iterations=4, interval_epochs=0)

    @broken.engine.on(Events.ITERATION_STARTED(once=18))
    def fail(engine):
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        broken.run(3)
    resumed = Training(tmp_path / "b", resume="last").run(3)
    assert resumed.steps == list(range(17, 31))
    assert resumed.engine.state.epoch == 3
    assert_equal(resumed.state(), through.state())


class OneCycle(Training):
    """The schedule of the bundle, which refuses steps beyond its end."""

    def __init__(self, folder, max_epochs, learning_rate=0.01, **arguments):
        super().__init__(folder, **arguments)
        self.optimizer.param_groups[0].update(lr=learning_rate, weight_decay=learning_rate)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=learning_rate, total_steps=10 * max_epochs + 1, cycle_momentum=False
        )
        self.checkpoint.objects["scheduler"] = self.scheduler
        self.rates = []
        self.engine.add_event_handler(
            Events.ITERATION_STARTED, lambda engine: self.rates.append(self.optimizer.param_groups[0]["lr"])
        )


@pytest.mark.parametrize("schedule", ["OneCycleLR", "CosineAnnealingLR"])
def test_with_more_epochs_the_learning_rate_follows_the_longer_schedule(tmp_path, schedule):
    def make(folder, max_epochs, **arguments):
        training = OneCycle(folder, max_epochs, **arguments)
        if schedule == "CosineAnnealingLR":
            training.optimizer.param_groups[0]["lr"] = 0.01
            training.optimizer.param_groups[0].pop("initial_lr")
            training.scheduler = training.checkpoint.objects["scheduler"] = torch.optim.lr_scheduler.CosineAnnealingLR(
                training.optimizer, T_max=10 * max_epochs
            )
        return training

    long = make(tmp_path / "long", 3).run(3)
    make(tmp_path / "short", 1).run(1)
    resumed = make(tmp_path / "short", 3, resume="last").run(3)
    assert resumed.rates == long.rates[10:] and max(resumed.rates) > 0.003
    assert load_checkpoint(tmp_path / "short" / "last.pt")["engine"]["epoch"] == 3


def test_settings_of_this_run_win_over_those_of_the_checkpoint(tmp_path):
    OneCycle(tmp_path, 2).run(1)
    other = OneCycle(tmp_path, 2, learning_rate=0.1, resume="last").run(2)
    whole = OneCycle(tmp_path / "whole", 2, learning_rate=0.1).run(2)
    assert other.rates == whole.rates[10:]
    assert other.optimizer.param_groups[0]["weight_decay"] == 0.1
    assert float(next(iter(other.optimizer.state.values()))["step"]) == 20, "the moments are those of the checkpoint"


def test_fewer_epochs_than_done_are_refused_and_leave_the_checkpoint(tmp_path):
    OneCycle(tmp_path, 3).run(3)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(SpocoError, match="max_epochs is 2: .*last.pt has more than that behind it; give at least 4"):
        OneCycle(tmp_path, 2, resume="last").run(2)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_resume_of_a_finished_training_does_nothing(tmp_path):
    done = Training(tmp_path).run(2)
    again = Training(tmp_path, resume="last").run(2)
    assert again.steps == [] and again.engine.state.epoch == 2
    assert_equal(again.state(), done.state())


def test_keeps_the_previous_checkpoint_and_no_leftovers(tmp_path):
    Training(tmp_path, interval_iterations=4).run(1)
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "last_previous.pt"]
    assert load_checkpoint(tmp_path / "last.pt")["engine"]["iteration"] == 10
    assert load_checkpoint(tmp_path / "last_previous.pt")["engine"]["iteration"] == 8
    assert Training(tmp_path, resume="previous").run(1).steps == [9, 10]
    assert Training(tmp_path, resume=str(tmp_path / "last_previous.pt")).run(2).steps[:1] == [11]


def test_interruption_between_the_renames_loses_nothing(tmp_path):
    Training(tmp_path, interval_iterations=4).run(1)
    os.remove(tmp_path / "last.pt")
    assert Training(tmp_path, resume="last").run(1).steps == [9, 10]


def test_intervals(tmp_path):
    Training(tmp_path, interval_iterations=0, interval_epochs=2).run(5)
    assert load_checkpoint(tmp_path / "last.pt")["engine"]["epoch"] == 5, "the last epoch is always kept"
    assert load_checkpoint(tmp_path / "last_previous.pt")["engine"]["epoch"] == 4


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.98])
def test_truncated_checkpoints_are_refused(tmp_path, keep):
    Training(tmp_path).run(2)
    content = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(SpocoError, match="last.pt: .*resume='previous'"):
        load_checkpoint(tmp_path / "last.pt")
    assert Training(tmp_path, resume="previous").run(2).steps == list(range(11, 21))


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/should_not_exist",)


def test_foreign_files_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(SpocoError, match="not a training checkpoint"):
        load_checkpoint(tmp_path / "weights.pt")
    torch.save({"format": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(SpocoError, match="content other than tensors"):
        load_checkpoint(tmp_path / "evil.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    for name in ("text.pt", "missing.pt", "."):
        with pytest.raises(SpocoError):
            load_checkpoint(tmp_path / name)


def test_checkpoint_of_another_config_is_refused(tmp_path):
    Training(tmp_path).run(1)
    other = Training(tmp_path, resume="last")
    other.checkpoint.objects["network"] = nn.Linear(7, 1)
    with pytest.raises(SpocoError, match="'network' does not fit"):
        other.run()
    more = Training(tmp_path, resume="last")
    more.checkpoint.objects["early_stopping"] = BestWeights(more.network, "x.pt")
    with pytest.raises(SpocoError, match="no state of 'early_stopping'"):
        more.run()
    longer = Training(tmp_path, resume="last")
    with pytest.raises(SpocoError, match="10 iterations per epoch, this run has 11"):
        longer.engine.run(range(11), max_epochs=2)
    with pytest.raises(SpocoError, match="reserved"):
        TrainingCheckpoint(str(tmp_path), {"engine": more.network})


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize(("hit", "saved"), [(14, 14), (20, 20)])
def test_signals_finish_the_iteration_save_and_end(tmp_path, number, code, hit, saved):
    through = Training(tmp_path / "a").run(3)
    training = Training(tmp_path / "b")
    training.engine.add_event_handler(Events.ITERATION_STARTED(once=hit), lambda engine: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as end:
        training.run(3)
    assert end.value.code == code
    assert training.steps[-1] == saved
    resumed = Training(tmp_path / "b", resume="last").run(3)
    assert resumed.steps[0] == saved + 1
    assert_equal(resumed.state(), through.state())


def test_second_interrupt_ends_at_once(tmp_path):
    training = Training(tmp_path)

    @training.engine.on(Events.ITERATION_STARTED(once=3))
    def interrupt(engine):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        training.run(1)
    assert training.steps == [1, 2]


def train_in_a_process(folder, resume: str, pause: float, max_epochs: int):
    """Starts a training in a forked process, which need not import torch again; it sends each iteration it began."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)

    def train():
        torch.set_num_threads(1)  # the parent's pool of threads did not come along, and waiting for it never ends
        training = Training(folder, interval_iterations=1, resume=resume)

        @training.engine.on(Events.ITERATION_STARTED)
        def tell(engine):
            sender.send(engine.state.iteration)
            time.sleep(pause)

        training.run(max_epochs)

    process = multiprocessing.get_context("fork").Process(target=train)
    process.start()
    sender.close()
    return process, receiver


def remaining(receiver) -> list[int]:
    """What a process sent until it ended."""
    received = []
    with contextlib.suppress(EOFError):
        while True:
            received.append(receiver.recv())
    return received


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_process_that_gets_a_signal_ends_with_its_code(tmp_path, number, code):
    process, receiver = train_in_a_process(tmp_path, "", 0.02, 1000)
    while receiver.recv() < 5:
        pass
    os.kill(process.pid, number)
    rest = remaining(receiver)
    process.join(60)
    assert process.exitcode == code
    saved = load_checkpoint(tmp_path / "last.pt")["engine"]["iteration"]
    assert saved == (rest[-1] if rest else 5)
    assert Training(tmp_path, resume="last").run(saved // 10 + 1).steps[0] == saved + 1


@pytest.mark.slow
def test_kills_at_random_moments_lose_no_checkpoint(tmp_path):
    rng = np.random.default_rng(0)
    Training(tmp_path).run(1)
    reached = 10
    for _ in range(50):
        process, receiver = train_in_a_process(tmp_path, "last", 0.0, 100_000)
        first = receiver.recv()
        assert first == reached + 1
        time.sleep(float(rng.uniform(0, 0.2)))
        process.kill()
        begun = [first, *remaining(receiver)][-1]
        process.join(60)
        present = [tmp_path / name for name in ("last.pt", "last_previous.pt") if (tmp_path / name).is_file()]
        reached = [load_checkpoint(file)["engine"]["iteration"] for file in present][0]
        assert reached >= begun - 2
    assert reached > 60, "the processes were killed before they did anything"


def test_signal_handlers_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    inside = []
    training = Training(tmp_path)
    training.engine.add_event_handler(
        Events.ITERATION_COMPLETED(once=1), lambda engine: inside.append(signal.getsignal(signal.SIGTERM))
    )
    training.run(1)
    assert len(inside) == 1 and inside != [before[0]]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before

    failing = Training(tmp_path)
    failing.engine.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda engine: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.run(1)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_runs_outside_the_main_thread(tmp_path):
    worker = threading.Thread(target=Training(tmp_path).run, args=(1,))
    worker.start()
    worker.join()
    assert (tmp_path / "last.pt").is_file()


def stopped_early(folder, iteration=3, **arguments):
    """A training that ends before its first checkpoint."""
    training = Training(folder, **arguments)

    @training.engine.on(Events.ITERATION_COMPLETED(once=iteration))
    def fail(engine):
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        training.run(3)


def test_the_checkpoint_of_an_earlier_training_is_not_taken_for_that_of_one_that_began(tmp_path):
    Training(tmp_path).run(3)
    stopped_early(tmp_path)
    with pytest.raises(SpocoError, match="last.pt: no such checkpoint: .* --resume .*last_earlier.pt"):
        Training(tmp_path, resume="last").run(3)
    assert load_checkpoint(tmp_path / EARLIER)["engine"]["epoch"] == 3, "the longer training is not lost"
    Training(tmp_path).run(1)
    assert load_checkpoint(tmp_path / LAST)["engine"]["epoch"] == 1 and not (tmp_path / PREVIOUS).exists()
    assert load_checkpoint(tmp_path / EARLIER)["engine"]["epoch"] == 3


def test_nor_is_it_by_one_that_goes_on_from_another_folder(tmp_path):
    Training(tmp_path / "here").run(3)
    Training(tmp_path / "there").run(1)
    stopped_early(tmp_path / "here", 13, resume=str(tmp_path / "there" / LAST))
    assert os.listdir(tmp_path / "here") == [EARLIER]


def test_one_that_goes_on_from_the_earlier_training_is_not_taken_for_the_later_one(tmp_path):
    Training(tmp_path).run(1)
    Training(tmp_path).run(3)
    stopped_early(tmp_path, 13, resume=str(tmp_path / EARLIER))
    with pytest.raises(SpocoError, match="last.pt: no such checkpoint: .* --resume .*last_earlier.pt"):
        Training(tmp_path, resume="last").run(3)
    assert load_checkpoint(tmp_path / EARLIER)["engine"]["epoch"] == 1
    assert load_checkpoint(tmp_path / "last_later.pt")["engine"]["epoch"] == 3, "the later training is not lost"
