from __future__ import annotations

from types import SimpleNamespace

import pytest
from ignite.engine import Engine, Events

from spoco_bundle.handlers.early_stopping import EarlyStopping


@pytest.mark.parametrize(
    ("best", "patience", "last"), [([2], 3, 5), ([1, 3], 2, 5), ([1, 2, 3, 4, 5, 6, 7, 8], 1, 8), ([], 2, 2)]
)
def test_stops_after_the_patience_is_over(best, patience, last):
    weights = SimpleNamespace(best_epoch=0, last_epoch=0)
    trainer = Engine(lambda engine, batch: None)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        weights.last_epoch = engine.state.epoch
        if engine.state.epoch in best:
            weights.best_epoch = engine.state.epoch

    EarlyStopping(weights, patience).attach(trainer)
    trainer.run(range(2), max_epochs=8)
    assert trainer.state.epoch == last


def test_does_not_stop_before_the_first_validation():
    weights = SimpleNamespace(best_epoch=0, last_epoch=0)
    trainer = Engine(lambda engine, batch: None)

    @trainer.on(Events.EPOCH_COMPLETED(every=5))
    def validate(engine):
        weights.last_epoch = engine.state.epoch
        weights.best_epoch = weights.best_epoch or engine.state.epoch

    EarlyStopping(weights, 3).attach(trainer)
    trainer.run(range(2), max_epochs=20)
    assert weights.best_epoch == 5 and trainer.state.epoch == 10
