from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.handlers import tensorboard_pictures as pictures


def written(folder) -> dict[str, list[tuple[int, int, int]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.height, e.width) for e in events.Images(tag)] for tag in events.Tags()["images"]}


def sample(shape) -> dict:
    label = torch.zeros(1, *shape, dtype=torch.int32)
    label[..., 2:5, 3:6] = 4
    return {
        "image": torch.rand(1, *shape),
        "label": label,
        "pred_field": EmbeddingField(torch.randn(6, *shape)),
        "pred": (label > 0).int(),
    }


@pytest.mark.parametrize("shape", [(5, 12, 10), (12, 10)])
def test_pictures_of_the_first_images_of_each_validation(tmp_path, shape):
    handler = pictures.PicturesHandler(str(tmp_path), max_images=2)
    evaluator = Engine(lambda engine, batch: [sample(shape)])
    handler.attach(evaluator)
    evaluator.run(range(3), max_epochs=2)
    handler.close()
    assert written(tmp_path) == {
        f"validation_{number}/{name}": [(epoch, height, 10) for epoch in (1, 2)]
        for number in (0, 1)
        for name, height in (("input", 12), ("embedding", 12), ("instances_over_truth", 24))
    }


def test_missing_entries_leave_their_picture_out(tmp_path):
    handler = pictures.PicturesHandler(str(tmp_path))
    kept = {key: value for key, value in sample((8, 8)).items() if key != "pred_field"}
    handler.write(kept, 0, 1)
    handler.close()
    assert set(written(tmp_path)) == {"validation_0/input", "validation_0/instances_over_truth"}


def test_gray_and_rgb():
    image = np.arange(12.0).reshape(1, 3, 4) * 7 - 3
    shown = pictures.gray(image)
    assert shown.shape == (3, 4, 3) and shown.min() == 0 and shown.max() == 1
    assert pictures.gray(np.repeat(image, 3, axis=0)).shape == (3, 4, 3)
    assert not pictures.gray(np.full((1, 2, 2), 5.0)).any()
