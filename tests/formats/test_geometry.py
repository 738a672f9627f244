from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Flip, Rotate90, Spacing

from spoco_bundle.formats import batch_spacing, voxel_spacing
from spoco_bundle.formats.geometry import affine_from_spacing


def image(spacing, shape) -> MetaTensor:
    return MetaTensor(torch.zeros(1, *shape), affine=torch.from_numpy(affine_from_spacing(spacing)))


@pytest.mark.parametrize(("spacing", "shape"), [((1.75, 0.8, 0.5), (4, 6, 8)), ((0.8, 0.5), (6, 8))])
def test_spacing_follows_flips_and_rotations(spacing, shape):
    rank = len(shape)
    tensor = image(spacing, shape)
    assert voxel_spacing(tensor, rank) == pytest.approx(spacing)
    assert voxel_spacing(Flip(spatial_axis=0)(tensor), rank) == pytest.approx(spacing)
    turned = Rotate90(k=1, spatial_axes=(rank - 2, rank - 1))(tensor)
    assert voxel_spacing(turned, rank) == pytest.approx((*spacing[:-2], spacing[-1], spacing[-2]))


def test_spacing_follows_resampling():
    resampled = Spacing(pixdim=(1.0, 1.0, 1.0))(image((2.0, 0.5, 0.5), (4, 8, 8)))
    assert voxel_spacing(resampled, 3) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("rank", [2, 3])
def test_spacing_of_a_batch(rank):
    spacings = [(2.0, 0.5, 0.25)[-rank:], (1.0, 3.0, 4.0)[-rank:]]
    batch = list_data_collate([{"image": image(spacing, (4, 5, 6)[-rank:])} for spacing in spacings])["image"]
    torch.testing.assert_close(batch_spacing(batch, rank), torch.tensor(spacings))
    single = image(spacings[0], (4, 5, 6)[-rank:])[None]
    torch.testing.assert_close(batch_spacing(single, rank), torch.tensor(spacings[:1]))
    with pytest.raises(TypeError, match="batch_spacing"):
        voxel_spacing(batch, rank)
    with pytest.raises(TypeError):
        batch_spacing(torch.zeros(2, 1, 4, 5), rank)


def test_affine_is_what_itk_reads_from_files_without_orientation():
    # index z, y, x = (1, 2, 3) lies at left, posterior, superior = (3 * 0.5, 2 * 0.8, 1 * 1.75)
    np.testing.assert_allclose(affine_from_spacing((1.75, 0.8, 0.5)) @ [1, 2, 3, 1], [-1.5, -1.6, 1.75, 1])
    np.testing.assert_allclose(affine_from_spacing((0.8, 0.5)) @ [2, 3, 1], [-1.5, -1.6, 1])
