from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.handlers import InstanceClusteringHandler


def batch():
    colours = torch.zeros(2, 4, 16, 16)
    colours[0, 0, 2:8, 2:8] = 3.0
    colours[1, 0, 2:8, 2:8] = 3.0
    colours[1, 1, 10:15, 10:15] = 3.0
    affine = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    return {"image": MetaTensor(torch.zeros(2, 1, 16, 16), affine=affine), "pred": colours}


@pytest.mark.parametrize("event", ["model_completed", "iteration_completed"])
def test_output_becomes_labels(event):
    def step(engine, data):
        engine.state.output = data
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    InstanceClusteringHandler(event, background="largest", min_size=5).attach(engine)
    engine.run([batch()], max_epochs=1)
    samples = engine.state.output
    assert [int(sample["pred"].max()) for sample in samples] == [1, 2]
    assert [len(sample["pred_confidence"]) for sample in samples] == [1, 2]


def test_unknown_event():
    with pytest.raises(SpocoError, match="model_completed"):
        InstanceClusteringHandler("epoch_completed")
