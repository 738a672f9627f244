from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from spoco_bundle.handlers import EmbeddingColours


@pytest.fixture
def engine():
    """An iteration on one volume in whose halves the vectors point to one place each."""
    shape, spacing, scale = (4, 6, 20), (2.0, 0.5, 0.5), 4.0
    places = torch.stack(torch.meshgrid(*(torch.arange(n) * s / scale for n, s in zip(shape, spacing)), indexing="ij"))
    centres = torch.zeros(3, *shape)
    centres[2, ..., :10], centres[2, ..., 10:] = 0.5, 2.0
    objectness = torch.full((1, *shape), 9.0)
    objectness[:, :, :2] = -9.0
    output = torch.cat([centres - places, torch.zeros(1, *shape), objectness])[None]
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    meta = {"filename_or_obj": ["folder/cells.nii.gz"]}
    image = MetaTensor(torch.zeros(1, 1, *shape), affine=affine[None], meta=meta)
    image.is_batch = True
    return SimpleNamespace(state=SimpleNamespace(output={"image": image, "pred": output}))


def test_an_object_has_one_colour_and_nothing_is_dark(engine, tmp_path):
    network = SimpleNamespace(coordinate_scale=torch.tensor(4.0))
    EmbeddingColours(str(tmp_path), 4, network, coordinate_channels=3, objectness=True)(engine)
    colours = np.load(tmp_path / "cells_embedding.npy")
    assert colours.shape == (4, 6, 20, 3) and colours.dtype == np.uint8
    assert (colours[:, :2] == 0).all()
    first, second = colours[:, 2:, :10].reshape(-1, 3), colours[:, 2:, 10:].reshape(-1, 3)
    assert np.ptp(first, axis=0).max() <= 1 and np.ptp(second, axis=0).max() <= 1
    assert np.abs(first[0].astype(int) - second[0]).max() > 200


def test_without_coordinates_and_objectness_it_is_the_plain_output(engine, tmp_path):
    EmbeddingColours(str(tmp_path), 4, None)(engine)
    colours = np.load(tmp_path / "cells_embedding.npy")
    assert colours[:, :2].any() and np.ptp(colours[:, :, :10].reshape(-1, 3).astype(int), axis=0).max() > 50
