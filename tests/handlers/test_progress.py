from __future__ import annotations

import re

from ignite.engine import Engine, Events

from spoco_bundle.core import progress as progress_module
from spoco_bundle.handlers.progress import TrainingProgress


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == progress_module.__name__]


def test_all_iterations_are_one_work_from_where_a_run_resumes(caplog):
    engine = Engine(lambda engine, batch: {"loss_terms": {"loss": 0.5}})

    @engine.on(Events.STARTED)
    def resume(engine):
        engine.state.iteration, engine.state.epoch = 5, 1

    best = type("Best", (), {"best_score": 0.75, "best_epoch": 1})
    TrainingProgress(best_weights=best).attach(engine)
    with caplog.at_level("INFO"):
        engine.run(range(4), max_epochs=3)
    first, *_, last = lines(caplog)
    assert first.startswith("iterations: 7 of 12, epoch 2 of 3, loss 0.500, best 0.750, ")
    assert re.fullmatch(
        r"iterations: 12 of 12, epoch 3 of 3, loss 0.500, best 0.750, .* gone, about 0 seconds left", last
    )


def test_a_long_training_does_not_flood_the_log(caplog):
    engine = Engine(lambda engine, batch: {"loss_terms": {"loss": 0.25}})
    TrainingProgress().attach(engine)
    with caplog.at_level("INFO"):
        engine.run(range(50), max_epochs=40)
    said = lines(caplog)
    # ten by the work done, and one for every half minute that a slow machine takes
    assert 10 <= len(said) < 20
    assert said[0].startswith("iterations: 200 of 2000, epoch 4 of 40, loss 0.250, ")
