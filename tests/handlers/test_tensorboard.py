from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from spoco_bundle.handlers.tensorboard import LossTermsHandler
from spoco_bundle.networks import MomentumTeacher


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_term_and_the_schedules_are_written(tmp_path):
    network = nn.Linear(1, 1)
    teacher = MomentumTeacher(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.25)

    def step(engine, batch):
        teacher.update_parameters(network)
        return {"loss": torch.tensor(3.0), "loss_terms": {"pull": 1.0 * engine.state.iteration, "push": 2.0}}

    engine = Engine(step)
    handler = LossTermsHandler(str(tmp_path), optimizer=optimizer, teacher=teacher, interval=2)
    handler.attach(engine)
    engine.run(range(4), max_epochs=1)
    handler.close()
    written = scalars(tmp_path)
    assert set(written) == {"train/pull", "train/push", "train/learning_rate", "train/teacher_momentum"}
    assert written["train/pull"] == [(2, 2.0), (4, 4.0)]
    assert written["train/learning_rate"] == [(2, 0.25), (4, 0.25)]
    assert [value for _, value in written["train/teacher_momentum"]] == pytest.approx(
        [teacher.momentum_at(2), teacher.momentum_at(4)]
    )
