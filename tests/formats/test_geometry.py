from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Flip, Rotate90, Spacing

from spoco_bundle.formats import batch_spacing, spacing_warning, voxel_spacing
from spoco_bundle.formats.geometry import affine_from_spacing, canonical_length, convert_length


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


@pytest.mark.parametrize(
    ("length", "unit", "expected"),
    [
        (2, "um", (2, "micrometer")),
        (2, "µm", (2, "micrometer")),
        (2, "μm", (2, "micrometer")),
        (2, "Micron", (2, "micrometer")),
        (2, "nm", (2, "nanometer")),
        (2, "mm", (2, "millimeter")),
        (2, "cm", (20000, "micrometer")),
        (2, "Å", (0.0002, "micrometer")),
        (2, "pixel", (2, "unknown")),
        (2, None, (2, "unknown")),
    ],
)
def test_units(length, unit, expected):
    value, name = canonical_length(length, unit)
    assert (value, name) == (pytest.approx(expected[0]), expected[1])


def test_conversion():
    assert convert_length(2, "millimeter", "nanometer") == pytest.approx(2e6)
    assert convert_length(2, "unknown", "nanometer") == 2


def test_warning_of_unknown_spacing():
    message = spacing_warning(None, "unknown", (1.75, 0.8, 0.8), "micrometer", name="a.tif")
    assert "a.tif" in message
    assert "(1.75, 0.8, 0.8)" in message
    assert spacing_warning(None, "unknown", None) is not None


@pytest.mark.parametrize(
    ("spacing", "unit", "alike"),
    [
        ((1.75, 0.8, 0.8), "micrometer", True),
        ((1.75, 0.8, 1.19), "micrometer", True),
        ((1.75, 0.8, 1.21), "micrometer", False),
        ((1.0, 0.8, 0.8), "micrometer", False),
        ((1750.0, 800.0, 800.0), "nanometer", True),
        ((1.75, 0.8, 0.8), "millimeter", False),
        ((1.75, 0.8, 0.8), "unknown", True),
        ((0.8, 0.8), "micrometer", False),
    ],
)
def test_warning_of_unlike_spacing(spacing, unit, alike):
    message = spacing_warning(spacing, unit, (1.75, 0.8, 0.8), "micrometer", name="a.tif")
    assert (message is None) == alike
    if message:
        assert message.startswith("a.tif")
        assert "\n" not in message


def test_no_training_spacing_means_no_comparison():
    assert spacing_warning((1.0, 1.0, 1.0), "micrometer", None) is None
