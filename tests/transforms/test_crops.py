from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Compose

from spoco_bundle.annotation.scope import annotation_scope
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.transforms import CropAnnotatedd, IndexInstancesd, RelabelAndDropFragmentsd
from spoco_bundle.transforms.crops import instance_table


def sample(shape=(12, 40, 40), boxes=None, spacing=(2.0, 0.5, 0.5)) -> dict:
    boxes = boxes or {3: ((1, 3), (2, 6), (2, 6)), 70: ((8, 11), (30, 38), (30, 38)), 9: ((5, 7), (0, 5), (33, 40))}
    label = torch.zeros(1, *shape, dtype=torch.int32)
    for instance, box in boxes.items():
        label[(0, *(slice(a, b) for a, b in box))] = instance
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    # the image is the linear index of each voxel, so that a crop tells where it was taken
    image = torch.arange(label.numel(), dtype=torch.float32).reshape(label.shape)
    return {"image": MetaTensor(image, affine=affine), "label": MetaTensor(label, affine=affine)}


def crop(data: dict, seed: int, **arguments) -> dict:
    rule = CropAnnotatedd(roi_size=(6, 12, 12), **arguments)
    rule.set_random_state(seed)
    return rule(data)


def test_table_agrees_with_a_count():
    data = sample()
    table = instance_table(data["label"])
    assert table.tolist() == [
        [3, 32, 1, 2, 2, 3, 6, 6],
        [9, 70, 5, 0, 33, 7, 5, 40],
        [70, 192, 8, 30, 30, 11, 38, 38],
    ]
    assert instance_table(data["label"], ignore_label=9, background_label=3)[:, 0].tolist() == [70]
    assert instance_table(torch.zeros(1, 4, 4, dtype=torch.int64)).shape == (0, 6)
    assert instance_table(torch.tensor([[[-1, 2**40]]]))[:, 0].tolist() == [2**40]


def test_every_crop_holds_a_whole_object_and_all_objects_are_drawn():
    data = IndexInstancesd()(sample())
    voxels = {3: 32, 9: 70, 70: 192}
    seen = {instance: 0 for instance in voxels}
    for seed in range(300):
        out = crop(data, seed, probability_annotated=1.0)
        assert out["image"].shape == out["label"].shape == (1, 6, 12, 12)
        whole = [i for i, count in voxels.items() if (out["label"] == i).sum() == count]
        assert whole
        for instance in whole:
            seen[instance] += 1
    assert min(seen.values()) >= 70


def test_crops_move_around_the_object():
    data = IndexInstancesd()(sample(boxes={1: ((5, 6), (20, 21), (20, 21))}))
    corners = np.array([crop(data, seed, probability_annotated=1.0)["image"][0, 0, 0, 0].item() for seed in range(300)])
    start = np.stack(np.unravel_index(corners.astype(int), (12, 40, 40)), axis=1)
    assert (start.min(axis=0) == [0, 9, 9]).all() and (start.max(axis=0) == [5, 20, 20]).all()


def test_image_and_label_are_cut_alike_and_the_affine_follows():
    data = sample()
    out = crop(data, 5)
    first = int(out["image"][0, 0, 0, 0])
    start = np.unravel_index(first, (12, 40, 40))
    window = (slice(None), *(slice(a, a + n) for a, n in zip(start, (6, 12, 12))))
    assert torch.equal(out["image"].as_tensor(), data["image"].as_tensor()[window])
    assert torch.equal(out["label"].as_tensor(), data["label"].as_tensor()[window])
    for key in ("image", "label"):
        assert out[key].affine[:3, 3].tolist() == pytest.approx([s * d for s, d in zip(start, (2.0, 0.5, 0.5))])
        assert out[key].untyped_storage().nbytes() <= 6 * 12 * 12 * 4, "a crop must not keep the volume alive"


def test_same_seed_same_crop():
    pipeline = Compose([IndexInstancesd(), CropAnnotatedd(roi_size=(6, 12, 12))])
    crops = []
    for seed in (4, 4, 5):
        pipeline.set_random_state(seed)
        crops.append(pipeline(sample())["image"])
    assert torch.equal(crops[0], crops[1]) and not torch.equal(crops[0], crops[2])


def test_uniform_crops_reach_the_corners():
    data = sample(shape=(7, 13, 13), boxes={1: ((3, 4), (5, 6), (5, 6))})
    firsts = {int(crop(data, seed, probability_annotated=0.0)["image"][0, 0, 0, 0]) for seed in range(80)}
    assert len(firsts) == 8


def test_no_annotated_object_gives_a_uniform_crop():
    out = crop({k: v * 0 for k, v in sample().items()}, 0, probability_annotated=1.0)
    assert out["label"].shape == (1, 6, 12, 12) and len(out["instances"]) == 0


def test_object_larger_than_the_crop():
    data = IndexInstancesd()(sample(boxes={5: ((2, 4), (0, 40), (10, 12))}))
    out = crop(data, 1, probability_annotated=1.0)
    assert (out["label"] == 5).sum() == 2 * 12 * 2
    assert out["instances"][0, :2].tolist() == [5, 2 * 12 * 2]
    assert (RelabelAndDropFragmentsd(drop_cut_below=1.0)(out)["label"] == 1).sum() == 48


@pytest.mark.parametrize("shape", [(1, 5, 40), (3, 1, 1), (4, 40, 2)])
def test_small_volumes_are_padded(shape):
    data = sample(shape=shape, boxes={2: ((0, 1), (0, 1), (0, 1))})
    out = crop(data, 0, probability_annotated=1.0, pad_label=99)
    assert out["image"].shape == out["label"].shape == (1, 6, 12, 12)
    assert set(out["image"].unique().tolist()) <= set(data["image"].unique().tolist())
    inside = np.prod([min(n, roi) for n, roi in zip(shape, (6, 12, 12))])
    assert (out["label"] != 99).sum() == inside
    assert (out["label"] == 2).sum() == 1
    # the affine still maps the labelled voxel to where it was
    voxel = torch.cat([(out["label"][0] == 2).nonzero()[0], torch.ones(1)]).double()
    assert (out["label"].affine @ voxel)[:3].tolist() == pytest.approx([0, 0, 0])


def test_two_dimensions():
    label = torch.zeros(1, 30, 30, dtype=torch.int64)
    label[0, 20:24, 3:6] = 8
    rule = CropAnnotatedd(roi_size=(10, 10), probability_annotated=1.0)
    rule.set_random_state(0)
    assert (rule({"image": label.float(), "label": label})["label"] == 8).sum() == 12


def test_wrong_arguments():
    with pytest.raises(SpocoError, match="label_key"):
        CropAnnotatedd(keys="image")
    with pytest.raises(SpocoError, match="roi_size"):
        crop({"image": torch.zeros(1, 9, 9), "label": torch.zeros(1, 9, 9).int()}, 0)
    with pytest.raises(SpocoError, match="image: spatial shape"):
        crop({**sample(), "image": torch.zeros(1, 9, 9, 9)}, 0)


def test_cut_objects_are_dropped_and_the_rest_renumbered():
    data = IndexInstancesd()(sample())
    cut = {k: (v[:, 2:12, 2:40, 2:36] if k != "instances" else v) for k, v in data.items()}
    out = RelabelAndDropFragmentsd(drop_cut_below=0.6)(cut)
    # object 3 keeps 1 of 2 slices; object 9 keeps 3 of 5 rows and 3 of 7 columns; object 70 loses 2 of 8 columns
    assert "instances" not in out
    assert out["label"].unique().tolist() == [0, 1]
    assert (out["label"] == 1).sum() == 192 * 6 // 8
    assert out["label"].dtype == torch.int32
    assert torch.equal(out["label"].affine, cut["label"].affine)


def test_threshold_is_inclusive_and_min_voxels_works():
    label = torch.zeros(1, 8, dtype=torch.int64)
    label[0, :4] = 5
    label[0, 4] = 6
    table = torch.tensor([[5, 8, 0, 8], [6, 1, 8, 9]])
    keep = RelabelAndDropFragmentsd(drop_cut_below=0.5)({"label": label, "instances": table})["label"]
    assert keep.unique().tolist() == [0, 1, 2]
    drop = RelabelAndDropFragmentsd(drop_cut_below=0.51)({"label": label, "instances": table})["label"]
    assert drop.tolist() == [[0, 0, 0, 0, 1, 0, 0, 0]]
    small = RelabelAndDropFragmentsd(min_voxels=2)({"label": label})["label"]
    assert small.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]


def test_special_ids_survive_and_are_not_given_away():
    label = torch.tensor([[0, 2, 1, 40, 50, 60]])
    rule = RelabelAndDropFragmentsd(ignore_label=2, background_label=1, dropped_label=2)
    table = torch.tensor([[50, 9, 0, 9]])
    assert rule({"label": label, "instances": table})["label"].tolist() == [[0, 2, 1, 3, 2, 4]]
    negative = RelabelAndDropFragmentsd(ignore_label=-1, dropped_label=-1)
    label = torch.tensor([[-1, 0, 7, 50, -1]], dtype=torch.int32)
    assert negative({"label": label, "instances": table})["label"].tolist() == [[-1, 0, 1, -1, -1]]


def test_crops_collate_into_a_batch():
    data = sample()
    pipeline = Compose([IndexInstancesd(), CropAnnotatedd(roi_size=(6, 12, 12)), RelabelAndDropFragmentsd()])
    batch = list_data_collate([pipeline(data), pipeline(sample(boxes={1: ((0, 1), (0, 1), (0, 1))}))])
    assert batch["image"].shape == batch["label"].shape == (2, 1, 6, 12, 12)


def turned(sample, roi, factor, angle, start, **options):
    """The sample as a crop with this factor and angle, whose plain window begins there."""
    crop = CropAnnotatedd(roi_size=roi, probability_turned=1, **options)

    def randomize(data):
        crop.factor, crop.angle, crop.start = factor, angle, start

    crop.randomize = randomize
    return crop(sample)


def plane(label, image=None):
    affine = torch.diag(torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64))
    image = label.astype(np.float32) if image is None else image
    return {
        "image": MetaTensor(torch.from_numpy(image[None]), affine=affine),
        "label": MetaTensor(torch.from_numpy(label[None]), affine=affine),
    }


def test_a_quarter_turn_is_that_of_numpy_and_ids_stay_exact():
    label = np.random.default_rng(0).integers(0, 2**31 - 1, (12, 12)).astype(np.int32)
    image = np.random.default_rng(1).random((12, 12)).astype(np.float32)
    found = turned(plane(label, image), (6, 6), 1.0, np.pi / 2, (3, 3))
    inside = (slice(3, 9), slice(3, 9))
    assert any(np.array_equal(found["label"][0], np.rot90(label[inside], k)) for k in (1, 3))
    assert any(np.allclose(found["image"][0], np.rot90(image[inside], k), atol=1e-5) for k in (1, 3))


def test_an_enlarged_object_is_larger_in_the_crop_and_in_the_table_and_voxels_keep_their_size():
    label = np.zeros((40, 40), np.int32)
    label[16:24, 17:23] = 7
    found = turned(plane(label), (32, 32), 2.0, 0.0, (4, 4))
    assert int((found["label"] == 7).sum()) == 4 * 48
    assert found["instances"].tolist()[0][:2] == [7, 4 * 48]
    assert torch.allclose(found["image"].affine[:2, :2], plane(label)["image"].affine[:2, :2])
    small = turned(plane(label), (32, 32), 0.5, 0.0, (4, 4), pad_label=-1)
    assert int((small["label"] == 7).sum()) == 12 and int((small["label"] == -1).sum()) > 0
    # images are mirrored beyond their border, labels are unknown there
    assert float(small["image"].max()) == 7


def test_the_drawn_object_stays_in_the_turned_crop():
    label = np.zeros((64, 64), np.int32)
    label[4:12, 50:60] = 3
    crop = CropAnnotatedd(roi_size=(24, 24), zoom=(0.6, 1.7), probability_turned=1, probability_annotated=1)
    angles, factors = set(), []
    for seed in range(30):
        crop.set_random_state(seed=seed)
        found = crop(plane(label))
        assert found["label"].shape == (1, 24, 24) and int((found["label"] == 3).sum()) > 0
        angles.add(crop.angle)
        factors.append(crop.factor)
    assert len(angles) == 30 and 0.6 <= min(factors) < 0.8 and 1.4 < max(factors) <= 1.7


@pytest.mark.parametrize("corner", [(4, 50), (44, 44), (0, 0)])
def test_an_object_that_fits_is_whole_in_the_turned_crop(corner):
    label = np.zeros((64, 64), np.int32)
    label[corner[0] : corner[0] + 6, corner[1] : corner[1] + 9] = 3
    crop = CropAnnotatedd(roi_size=(24, 24), zoom=(0.6, 1.7), probability_turned=1, probability_annotated=1)
    for seed in range(60):
        crop.set_random_state(seed=seed)
        found = int((crop(plane(label))["label"] == 3).sum())
        assert found == pytest.approx(54 * crop.factor**2, rel=0.15)


def test_a_turned_crop_looks_beyond_the_border_only_for_its_object():
    label = np.zeros((64, 64), np.int32)
    label[30:34, 30:34] = 3
    crop = CropAnnotatedd(roi_size=(24, 24), zoom=(0.9, 1.7), probability_turned=1, pad_label=-1)
    for seed in range(60):
        crop.set_random_state(seed=seed)
        assert not (crop(plane(label))["label"] == -1).any()


def test_an_object_that_outgrows_the_turned_crop_fills_it_and_is_kept():
    label = np.zeros((64, 64), np.int32)
    label[8:56, 20:50] = 3
    crop = CropAnnotatedd(roi_size=(24, 24), zoom=(1.0, 1.7), probability_turned=1, probability_annotated=1)
    for seed in range(60):
        crop.set_random_state(seed=seed)
        assert int(RelabelAndDropFragmentsd(drop_cut_below=0.5)(crop(plane(label)))["label"].max()) == 1


def test_images_are_mirrored_beyond_their_border():
    image = np.random.default_rng(0).random((9, 9)).astype(np.float32)
    found = turned(plane(np.zeros((9, 9), np.int32), image), (21, 21), 1.0, 1e-9, (-6, -6))["image"][0]
    assert np.allclose(found, np.pad(image, 6, mode="reflect"), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"zoom": (0, 2)}, "zoom"), ({"zoom": (2, 1)}, "zoom"), ({"probability_turned": 2}, "probability_turned")],
)
def test_bad_ranges_are_refused(options, said):
    with pytest.raises(SpocoError, match=said):
        CropAnnotatedd(**options)


def with_scope(data, kinds):
    """A sample with what its annotations say, objects of other ids being whole."""
    label = data["label"]
    scope = torch.from_numpy(annotation_scope(label[0].numpy(), kinds, "whole"))
    return data | {"scope": MetaTensor(scope, affine=label.affine)}


@pytest.mark.parametrize("turned", [0.0, 1.0])
def test_the_scope_of_annotations_goes_along_with_their_labels(turned):
    data = with_scope(sample(boxes={3: ((4, 5), (8, 20), (8, 20)), 70: ((1, 9), (24, 38), (24, 38))}), {3: "slices"})
    rule = CropAnnotatedd(("image", "label", "scope"), roi_size=(6, 12, 12), zoom=(0.8, 1.5), probability_turned=turned)
    seen = set()
    for seed in range(20):
        rule.set_random_state(seed)
        out = rule(data)
        label, scope = np.asarray(out["label"])[0], np.asarray(out["scope"])
        assert scope.shape == (3, 6, 12, 12) and scope.dtype == np.int16
        assert (scope[:, label == 70] == -1).all()
        assert (scope[0][label == 3] == 1).all() and not scope[1:][:, label == 3].any()
        planes = np.flatnonzero((scope[0] == 1).any((1, 2)))
        assert len(planes) < 3  # the outlined one, and as thick as it was enlarged
        seen |= set(np.unique(label).tolist())
    assert seen == {0, 3, 70}


def test_an_object_that_is_not_annotated_as_a_whole_may_be_of_one_voxel():
    data = with_scope(sample(boxes={3: ((4, 5), (8, 9), (8, 9)), 9: ((7, 8), (9, 10), (9, 11))}), {3: "points"})
    kept = RelabelAndDropFragmentsd("label", min_voxels=8)(data)["label"]
    assert np.argwhere(np.asarray(kept)[0] == 1).tolist() == [[4, 8, 8]] and int(kept.max()) == 1


def test_where_axes_are_alike_an_outlined_slice_may_stand_upright():
    data = with_scope(sample((40, 40, 40), {3: ((19, 20), (12, 28), (12, 28))}, (1.0, 1.0, 1.0)), {3: "slices"})
    rule = CropAnnotatedd(
        ("image", "label", "scope"), roi_size=(24, 24, 24), probability_turned=1.0, alike_axes=True,
        probability_annotated=1.0,
    )  # fmt: skip
    thin = []
    for seed in range(30):
        rule.set_random_state(seed)
        out = rule(data)
        label, plane = np.asarray(out["label"])[0] == 3, np.asarray(out["scope"])[0] == 1
        assert (plane[label]).all() and label.sum() == pytest.approx(256, rel=0.15)
        # the plane stays a plane of the grid, so that voxels beside the object in it are neighbours
        extents = np.ptp(np.argwhere(plane), axis=0)
        assert (extents == 0).sum() == 1 and plane.sum() == pytest.approx(24 * 24, abs=1)
        thin.append(int(np.argmin(extents)))
    assert set(thin) == {0, 1, 2}


def test_a_crop_on_its_side_shows_what_the_volume_holds_there():
    data = sample((40, 40, 40), {3: ((19, 20), (12, 28), (12, 28))}, (1.0, 1.0, 1.0))
    rule = CropAnnotatedd(roi_size=(8, 8, 8), alike_axes=True)
    rule.start, rule.upright = (16, 16, 16), 2
    cube = np.asarray(rule._turn(data["image"], rule._places(), None))[0]
    whole = np.asarray(data["image"])[0, 16:24, 16:24, 16:24]
    assert np.allclose(cube, whole.transpose(2, 1, 0), atol=0.01)
