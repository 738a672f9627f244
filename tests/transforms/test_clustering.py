from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.networks import Decoder
from spoco_bundle.transforms import ClusterEmbeddingsd, clustering

SPACING = (2.0, 1.0, 1.0)
SCALE = 6.0


def raw_sample():
    """What a perfect network would say of four cuboids: offsets to their centres, and the objectness logit."""
    label = np.zeros((10, 32, 32), int)
    for number, (y, x) in enumerate([(3, 3), (3, 15), (18, 3), (18, 18)], start=1):
        label[2:8, y : y + 12, x : x + 12] = number
    place = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(label.shape, SPACING)], indexing="ij"))
    centre = np.array([[0.0] * 3, *ndimage.center_of_mass(label > 0, label, range(1, 5))]) * SPACING
    offset = np.where(label > 0, np.moveaxis(centre[label], -1, 0) - place, 0) / SCALE
    depth = ndimage.distance_transform_edt(np.pad(label > 0, 1))[1:-1, 1:-1, 1:-1]
    logit = np.where(label > 0, depth, -4.0)
    raw = np.concatenate([offset, np.zeros((2, *label.shape)), logit[None]]).astype(np.float32)
    affine = torch.diag(torch.tensor([*SPACING, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.zeros(1, *label.shape), affine=affine, meta={"filename_or_obj": "a.tif"})
    return {"image": image, "pred": torch.from_numpy(raw)}, label


def transform(**keywords):
    scale, network = keywords.pop("coordinate_scale", SCALE), keywords.pop("network", None)
    return ClusterEmbeddingsd(decoder=Decoder(3, True, network, scale), **keywords)


def test_labels_confidence_and_metadata():
    sample, label = raw_sample()
    result = transform()(sample)
    pred = result["pred"]
    assert isinstance(pred, MetaTensor) and pred.dtype == torch.int32 and pred.shape == (1, *label.shape)
    assert pred.meta["filename_or_obj"] == "a.tif"
    assert torch.equal(pred.affine, sample["image"].affine)
    assert np.array_equal(pred[0].numpy() > 0, label > 0)
    assert len(np.unique(np.stack([pred[0].numpy().ravel(), label.ravel()]), axis=1).T) == 5
    assert result["pred_confidence"].shape == (4,)
    assert torch.is_floating_point(sample["pred"])  # the sample given is left as it was


def test_the_network_tells_the_scale_unless_an_argument_does():
    sample, label = raw_sample()
    network = torch.nn.Module()
    network.register_buffer("coordinate_scale", torch.tensor(SCALE))
    assert transform(coordinate_scale=None, network=network)(sample)["pred"].max() == 4
    network.coordinate_scale.zero_()
    with pytest.raises(SpocoError, match="set coordinate_scale"):
        transform(coordinate_scale=None, network=network)(sample)
    assert transform(network=network)(sample)["pred"].max() == 4


def test_uncertain_objects_are_dropped():
    sample, label = raw_sample()
    sample["pred"][-1, label == 2] = 0.1
    everything = transform(seed_objectness=0.0)(sample)
    confidence = everything["pred_confidence"]
    assert len(confidence) == 4
    cut = float(confidence.sort().values[:2].mean())
    result = transform(seed_objectness=0.0, min_confidence=cut)(sample)
    assert result["pred"].max() == 3
    assert (result["pred"][0].numpy()[label == 2] == 0).all()
    assert result["pred_confidence"].min() >= cut


def test_teacher_and_foreground_keys():
    sample, label = raw_sample()
    sample["teacher"] = sample["pred"].clone()
    sample["mask"] = torch.from_numpy(label == 1)[None]
    result = transform(teacher_key="teacher", foreground_key="mask", background="foreground")(sample)
    assert np.array_equal(result["pred"][0].numpy() > 0, label == 1)
    assert result["pred_confidence"][0] > 0.8


def test_without_objectness_and_coordinates():
    sample, label = raw_sample()
    sample["pred"] = torch.nn.functional.one_hot(torch.from_numpy(label), 5).movedim(-1, 0).float() * 3
    result = ClusterEmbeddingsd(confidence=False, background="largest")(sample)
    assert result["pred"].max() == 4
    assert "pred_confidence" not in result


def test_what_was_clustered_is_kept_for_pictures_where_asked():
    sample, label = raw_sample()
    assert "pred_field" not in transform()(sample)
    field = transform(keep_field=True)(sample)["pred_field"]
    assert field.spatial == label.shape and field.source.data_ptr() == sample["pred"].data_ptr()


def test_no_confidence_is_computed_where_none_is_asked_for(monkeypatch):
    sample, _ = raw_sample()
    monkeypatch.setattr(clustering, "object_confidence", None)
    assert "pred_confidence" not in transform(confidence=False)(sample)
    with pytest.raises(SpocoError, match="needs the confidence"):
        transform(confidence=False, min_confidence=0.5)


@pytest.mark.parametrize("shape", [(60, 90), (8, 60, 90)])
def test_pieces_are_averaged_like_the_whole(shape):
    pieces = transform(max_blocks=math.prod(shape) // 2).for_pieces_of(shape)
    assert pieces.params["pooling"] == (1, 1, 2)
    assert transform(pooling=(1, 1, 1)).for_pieces_of(shape).params["pooling"] == (1, 1, 1)


def test_least_size_follows_from_the_scale():
    sample, label = raw_sample()
    ball = 4 / 3 * np.pi * (2 * SCALE) ** 3 / np.prod(SPACING)
    voxels = np.bincount(label.ravel())[1]
    kept = transform(min_fraction=0.2 * voxels / ball)(sample)["pred"]
    dropped = transform(min_fraction=1.1 * voxels / ball)(sample)["pred"]
    assert kept.max() == 4
    assert dropped.max() == 0


@pytest.mark.parametrize(
    ("given", "outline"),
    [
        ({}, 0.5),
        ({"objectness_threshold": 0.4}, 0.5),
        ({"objectness_threshold": 0.7}, 0.7),
        ({"objectness_threshold": 0.7, "extent_threshold": 0.0}, 0.0),
        ({"extent_threshold": 0.3}, 0.3),
    ],
)
def test_outlines_on_another_grid_lie_at_half_or_where_it_is_said(given, outline):
    assert ClusterEmbeddingsd(**given).outline == outline


def test_a_kernel_that_is_given_is_that_of_the_confidence():
    sample, _ = raw_sample()
    sample["pred"][3:5] = torch.randn(sample["pred"][3:5].shape, generator=torch.Generator().manual_seed(0)) / 2
    usual, wide = (transform(**given)(sample)["pred_confidence"] for given in ({}, {"kernel_threshold": 0.9}))
    assert len(usual) == len(wide) == 4 and (wide > usual).all()
