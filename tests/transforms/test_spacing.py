from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, RandFlipd, RandRotate90d

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.resampling import restore_labels
from spoco_bundle.formats import voxel_spacing
from spoco_bundle.transforms import ResampleToSpacingd, RestoreGridd


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


def test_an_object_too_small_for_the_image_takes_its_confidence_with_it():
    labels = torch.zeros(1, 12, 12, dtype=torch.int32)
    labels[:, 1:5, 1:5], labels[:, 8, 8], labels[:, 6:11, 1:5] = 1, 2, 3
    meta = {"grid_shape": torch.tensor([4, 4]), "grid_affine": torch.eye(3)}
    image = MetaTensor(torch.zeros(1, 12, 12), affine=torch.eye(3) / 3, meta=meta)
    sample = {"image": image, "pred": labels, "pred_confidence": torch.tensor([0.9, 0.2, 0.7])}
    result = RestoreGridd()(sample)
    assert 2 not in restore_labels(labels[0], (4, 4)), "the one voxel falls between the centres"
    assert result["pred"].unique().tolist() == [0, 1, 2]
    assert result["pred_confidence"].tolist() == pytest.approx([0.9, 0.7])


def test_refusals():
    with pytest.raises(SpocoError, match="modes"):
        ResampleToSpacingd("image", (1.0,), "cubic")
    with pytest.raises(SpocoError, match="unknown"):
        ResampleToSpacingd("image", (1.0, 1.0))({"image": torch.zeros(1, 4, 4)})
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


def test_objects_are_numbered_by_their_first_voxels_on_the_original_grid():
    labels = torch.zeros(1, 6, 12, dtype=torch.int32)
    labels[:, 1:5, 7:11], labels[:, 2:6, 0:4] = 1, 2  # the first one begins a row higher, on the coarse grid the same
    meta = {"grid_shape": torch.tensor([3, 6]), "grid_affine": torch.eye(3)}
    image = MetaTensor(torch.zeros(1, 6, 12), affine=torch.eye(3) / 2, meta=meta)
    sample = {"image": image, "pred": labels, "pred_confidence": torch.tensor([0.9, 0.2])}
    result = RestoreGridd()(sample)
    first = [int((result["pred"][0] == number).flatten().nonzero()[0]) for number in (1, 2)]
    assert first == sorted(first) and result["pred_confidence"].tolist() == pytest.approx([0.2, 0.9])


def test_no_slice_of_a_partly_drawn_object_is_lost_where_voxels_grow():
    label = torch.zeros(1, 12, 8, 8, dtype=torch.int32)
    for z in range(1, 12, 3):
        label[0, z, 2:6, 2:6] = 1
    label[0, 5, :2, :2], label[0, :, 6:, 6:] = 2, 3
    volume = MetaTensor(label, affine=torch.eye(4, dtype=torch.float64))
    resample = ResampleToSpacingd("label", (4.0, 1.0, 1.0), "drawn", annotation="slices")
    drawn = resample({"label": volume, "kinds": {3: "whole"}})["label"][0]
    assert [sorted(drawn[z].unique().tolist()) for z in range(3)] == [[0, 1, 3], [0, 1, 2, 3], [0, 1, 3]]
    assert (drawn == 3).sum() == 3 * 4 and (drawn == 1).sum() == 3 * 16
    usual = ResampleToSpacingd("label", (4.0, 1.0, 1.0), "drawn")({"label": volume})["label"][0]
    assert 2 not in usual and (usual == 1).sum() < 3 * 16
