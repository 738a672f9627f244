from __future__ import annotations

import torch
from ignite.engine import Engine, Events

from spoco_bundle.handlers import progress


class Bar:
    """Stands for tqdm and remembers what it is told."""

    def __init__(self, **arguments):
        self.arguments, self.count, self.postfix, self.closed, self.disable = arguments, 0, {}, False, False

    def set_postfix(self, shown, refresh):
        self.postfix = shown

    def update(self):
        self.count += 1

    def close(self):
        self.closed = True


def test_one_bar_counts_all_iterations_from_where_a_run_resumes(monkeypatch):
    bars = []
    monkeypatch.setattr(progress, "tqdm", lambda **arguments: bars.append(Bar(**arguments)) or bars[-1])
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(0.5)})

    @engine.on(Events.STARTED)
    def resume(engine):
        engine.state.iteration, engine.state.epoch = 5, 1

    best = type("Best", (), {"best_score": 0.75, "best_epoch": 1})
    progress.TrainingProgress(best_weights=best).attach(engine)
    engine.run(range(4), max_epochs=3)
    (bar,) = bars
    assert bar.arguments["total"] == 12 and bar.arguments["initial"] == 5
    assert bar.count == 7 and bar.closed
    assert bar.postfix == {"epoch": 3, "loss": "0.500", "best": "0.750"}


def test_without_a_terminal_each_epoch_is_a_line_of_the_log(caplog):
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(0.25)})
    progress.TrainingProgress().attach(engine)
    with caplog.at_level("INFO"):
        engine.run(range(4), max_epochs=2)
    lines = [record.getMessage() for record in caplog.records if record.name == progress.__name__]
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1 of 2, loss 0.250")
