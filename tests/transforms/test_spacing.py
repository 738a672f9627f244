from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, RandFlipd, RandRotate90d

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.files import voxel_spacing
from spoco_bundle.transforms import ResampleToSpacingd, RestoreGridd
from spoco_bundle.transforms.spacing import resize_nearest


def sample(shape=(10, 24, 20), spacing=(2.0, 0.5, 0.5)) -> dict:
    affine = torch.eye(len(shape) + 1, dtype=torch.float64)
    affine[range(len(shape)), range(len(shape))] = torch.tensor(spacing, dtype=torch.float64)
    affine[: len(shape), -1] = 11.0
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")).float()
    label = (grid[-1] > 9).int() * 2**25 + 1
    return {"image": MetaTensor(grid[:1] * spacing[0], affine=affine), "label": MetaTensor(label[None], affine=affine)}


def extent(volume: MetaTensor) -> torch.Tensor:
    """Physical positions of the outer corners of the first and the last voxel."""
    dims = volume.ndim - 1
    first = torch.full((dims,), -0.5, dtype=torch.float64)
    last = torch.tensor(volume.shape[1:], dtype=torch.float64) - 0.5
    return torch.stack([volume.affine[:dims, :dims] @ corner + volume.affine[:dims, -1] for corner in (first, last)])


@pytest.mark.parametrize(
    ("shape", "spacing", "target"),
    [
        ((10, 24, 20), (2.0, 0.5, 0.5), (1.0, 1.0, 1.0)),
        ((7, 9, 5), (1.0, 1.0, 1.0), (0.4, 1.3, 2.0)),
        ((13, 9), (0.3, 0.3), (0.5, 0.5)),
        ((1, 8, 8), (1.0, 1.0, 1.0), (3.0, 2.0, 2.0)),
    ],
)
def test_extent_stays_and_spacing_is_reached(shape, spacing, target):
    data = sample(shape, spacing)
    out = ResampleToSpacingd(("image", "label"), target, ("linear", "nearest"))(data)
    wanted = [max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, target)]
    for key in ("image", "label"):
        assert list(out[key].shape[1:]) == wanted
        assert torch.allclose(extent(out[key]), extent(data[key]))
        reached = [n * s / w for n, s, w in zip(shape, spacing, wanted)]
        assert voxel_spacing(out[key], len(shape)) == pytest.approx(reached)
    assert out["image"].dtype == torch.float32 and out["label"].dtype == torch.int32
    assert set(out["label"].unique().tolist()) <= set(data["label"].unique().tolist())


def test_a_linear_ramp_stays_linear_and_in_place():
    data = sample((12, 8, 8), (1.0, 1.0, 1.0))
    out = ResampleToSpacingd("image", (0.5, 0, 0))(data)["image"]
    assert out.shape == (1, 24, 8, 8)
    assert torch.allclose(out[0, 1:-1, 0, 0].as_tensor(), (torch.arange(1, 23) - 0.5) / 2)


def test_downsampling_does_not_alias():
    stripes = torch.zeros(1, 64, 64)
    stripes[:, :, ::2] = 1
    out = ResampleToSpacingd("image", (1.0, 2.5))({"image": MetaTensor(stripes, affine=torch.eye(3))})["image"]
    assert out[..., 3:-3].std() < 0.1


def test_labels_come_back_through_a_batch():
    data = sample((10, 24, 20))
    out = ResampleToSpacingd(("image", "label"), (1.0, 1.0, 1.0), ("linear", "nearest"))(data)
    batch = list_data_collate([{"image": out["image"], "pred": out["label"]} for _ in range(2)])
    one = decollate_batch(batch)[1]
    restored = RestoreGridd()(one)["pred"]
    assert restored.shape == data["label"].shape and restored.dtype == torch.int32
    assert torch.equal(restored.affine, data["label"].affine)
    assert (restored == data["label"]).float().mean() > 0.99
    same = RestoreGridd()({"image": data["image"], "pred": data["label"]})["pred"]
    assert same is data["label"]


def test_nearest_agrees_with_brute_force():
    rng = np.random.default_rng(0)
    values = torch.tensor(rng.integers(2**40, size=(1, 7, 5)))
    out = resize_nearest(values, (3, 11))
    for y in range(3):
        for x in range(11):
            assert out[0, y, x] == values[0, int((y + 0.5) * 7 / 3), int((x + 0.5) * 5 / 11)]


def test_refusals():
    with pytest.raises(SpocoError, match="modes"):
        ResampleToSpacingd("image", (1.0,), "cubic")
    with pytest.raises(SpocoError, match="unknown"):
        ResampleToSpacingd("image", (1.0, 1.0))({"image": torch.zeros(1, 4, 4)})
    with pytest.raises(SpocoError, match="unknown"):
        image = MetaTensor(torch.zeros(1, 4, 4), meta={"length_unit": "pixel"})
        ResampleToSpacingd("image", (1.0, 1.0))({"image": image})
    with pytest.raises(SpocoError, match="does not fit"):
        ResampleToSpacingd("image", (1.0, 1.0))(sample())


@pytest.mark.parametrize("spacing", [(2.0, 0.5, 0.8), (0.5, 0.8)])
def test_spacing_follows_quarter_turns_and_flips(spacing):
    dims = len(spacing)
    plane = (dims - 2, dims - 1)
    data = sample((4, 6, 8)[-dims:], spacing)
    turn = RandRotate90d(("image", "label"), prob=1.0, max_k=1, spatial_axes=plane)
    flip = RandFlipd(("image", "label"), prob=1.0, spatial_axis=plane[1])
    out = Compose([turn, flip])(data)
    swapped = (*spacing[:-2], spacing[-1], spacing[-2])
    for key in ("image", "label"):
        assert out[key].shape[-2:] == data[key].shape[-2:][::-1]
        assert voxel_spacing(out[key], dims) == pytest.approx(swapped)
        # a voxel keeps its physical position: the ramp of the image is position along the first axis
    corner = torch.zeros(dims + 1, dtype=torch.float64)
    corner[-1] = 1
    position = (out["image"].affine[: dims + 1, [*range(dims), -1]] @ corner)[:dims] - 11.0
    assert float(out["image"][(0,) * (dims + 1)]) == pytest.approx(float(position[0]))
