from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from matplotlib.image import imread
from monai.data import MetaTensor

from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.handlers.picture_files import PictureFilesHandler


@pytest.mark.parametrize("shape", [(3, 8, 9), (8, 9)])
def test_one_picture_per_image_up_to_the_limit(tmp_path, shape):
    def sample(name):
        meta = {"filename_or_obj": f"folder/{name}.ome.tif"}
        image = MetaTensor(torch.rand(1, *shape), affine=torch.eye(len(shape) + 1), meta=meta)
        label = torch.zeros(1, *shape, dtype=torch.int32)
        label[..., 2:5, 3:6] = 4
        return {"image": image, "label": label, "pred": label, "pred_field": EmbeddingField(torch.rand(5, *shape))}

    evaluator = Engine(lambda engine, batch: [sample(name) for name in batch])
    PictureFilesHandler(str(tmp_path / "out"), max_images=2).attach(evaluator)
    evaluator.run([["a"], ["b", "c"], ["d"]])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_overview.png", "b_overview.png"]
    assert imread(tmp_path / "out" / "b_overview.png").size > 0
