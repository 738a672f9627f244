from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, RandFlipd, RandRotate90d

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.files import voxel_spacing
from spoco_bundle.transforms import ResampleToSpacingd, RestoreGridd
from spoco_bundle.transforms.spacing import resize_nearest, restore_labels


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


def test_pixels_are_a_spacing_of_1():
    image = MetaTensor(torch.rand(1, 8, 12), affine=torch.eye(3), meta={"length_unit": "pixel"})
    assert ResampleToSpacingd("image", (2.0, 3.0))({"image": image})["image"].shape == (1, 4, 4)


def balls(shape: tuple[int, ...], voxel: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two touching balls of radius 9, with voxels of this size: labels, and an objectness that falls softly."""
    places = torch.stack(torch.meshgrid(*((torch.arange(n) + 0.5) * voxel for n in shape), indexing="ij"))
    middles = torch.full((2, len(shape)), 20.0)
    middles[:, -1] = torch.tensor([14.0, 32.0])
    away = torch.stack([(places - m.reshape(-1, *[1] * len(shape))).square().sum(0).sqrt() for m in middles]) - 9
    labels = torch.where(away.amin(0) < 0, away.argmin(0) + 1, 0).int()
    return labels, torch.sigmoid(-away.amin(0))


@pytest.mark.parametrize("dims", [2, 3])
def test_outlines_come_back_as_sharp_as_the_image(dims):
    coarse, objectness = balls((10,) * (dims - 1) + (12,), 4.0)
    fine, _ = balls((40,) * (dims - 1) + (48,), 1.0)
    nearest = resize_nearest(coarse[None], fine.shape)[0]
    restored = restore_labels(coarse, fine.shape, objectness)
    wrong = [(found != fine).float().mean() for found in (nearest, restored, restore_labels(coarse, fine.shape))]
    assert wrong[1] < 0.6 * wrong[0] and wrong[2] < 0.9 * wrong[0]
    assert restored.dtype == torch.int32 and restored.unique().tolist() == [0, 1, 2]


def test_what_the_labels_leave_out_does_not_come_back_with_the_objectness():
    labels = torch.zeros(6, 8, dtype=torch.int32)
    labels[1:5, 1:3] = 1
    objectness = torch.full((6, 8), 0.01)
    objectness[1:5, 1:3] = objectness[1:5, 5:7] = 0.9  # the second was dropped
    objectness[2, 2] = 0.1  # a hole that the labels fill
    restored = restore_labels(labels, (18, 24), objectness)
    assert (restored[:, 12:] == 0).all() and (restored[4:14, 4:8] == 1).all()
    assert torch.equal(restored[1::3, 1::3], labels)  # centres of coarse voxels lie on those of fine ones


def test_slabs_do_not_show(monkeypatch):
    coarse, objectness = balls((10, 10, 12), 4.0)
    whole = restore_labels(coarse, (33, 47, 50), objectness)
    monkeypatch.setattr("spoco_bundle.transforms.spacing._SLAB", 47 * 50 * 4)
    assert torch.equal(restore_labels(coarse, (33, 47, 50), objectness), whole)


def test_an_object_too_small_for_the_image_takes_its_confidence_with_it():
    labels = torch.zeros(1, 12, 12, dtype=torch.int32)
    labels[:, 1:5, 1:5], labels[:, 8, 8], labels[:, 6:11, 1:5] = 1, 2, 3
    meta = {"grid_shape": torch.tensor([4, 4]), "grid_affine": torch.eye(3)}
    image = MetaTensor(torch.zeros(1, 12, 12), affine=torch.eye(3) / 3, meta=meta)
    sample = {"image": image, "pred": labels, "pred_confidence": torch.tensor([0.9, 0.2, 0.7])}
    result = RestoreGridd()(sample)
    if 2 in restore_labels(labels[0], (4, 4)):
        pytest.fail("the one voxel should fall between the centres")
    assert result["pred"].unique().tolist() == [0, 1, 2]
    assert result["pred_confidence"].tolist() == pytest.approx([0.9, 0.7])


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
    with pytest.raises(SpocoError, match="threshold is 1.5"):
        RestoreGridd(threshold=1.5)
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
