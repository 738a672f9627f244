from types import SimpleNamespace

import numpy as np
import torch
from monai.data import MetaTensor

from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.handlers import EmbeddingColours


def test_an_object_has_one_colour_and_what_is_no_object_is_dark(tmp_path):
    shape, spacing, scale = (4, 6, 20), (2.0, 0.5, 0.5), 4.0
    places = torch.stack(torch.meshgrid(*(torch.arange(n) * s / scale for n, s in zip(shape, spacing)), indexing="ij"))
    centres = torch.zeros(3, *shape)
    centres[2, ..., :10], centres[2, ..., 10:] = 0.5, 2.0
    objectness = torch.ones(shape)
    objectness[:, :2] = 0
    field = EmbeddingField(centres - places, objectness=objectness, spacing=spacing, scale=scale)
    image = MetaTensor(torch.zeros(1, *shape), meta={"filename_or_obj": "folder/cells.nii.gz"})
    output = [{"image": image, "pred_field": field}]
    EmbeddingColours(str(tmp_path))(SimpleNamespace(state=SimpleNamespace(output=output)))
    colours = np.load(tmp_path / "cells_embedding.npy")
    assert colours.shape == (4, 6, 20, 3) and colours.dtype == np.uint8
    assert (colours[:, :2] == 0).all()
    first, second = colours[:, 2:, :10].reshape(-1, 3), colours[:, 2:, 10:].reshape(-1, 3)
    assert np.ptp(first, axis=0).max() <= 1 and np.ptp(second, axis=0).max() <= 1
    assert np.abs(first[0].astype(int) - second[0]).max() > 200
