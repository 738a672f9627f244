from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import ReadOnce, measure_profile


def sample(labels, spacing=None, channels=1, name="a"):
    """An image of what the labels show, with an affine as ``LoadVolumed`` gives it."""
    dims = labels.ndim
    affine = np.eye(dims + 1)
    affine[range(dims), range(dims)] = spacing or 1
    meta = {"filename_or_obj": name, "length_unit": "micrometer" if spacing else "pixel"}
    image = np.repeat((labels > 0)[None].astype(np.float32), channels, 0) * 50 + 10
    return {
        "image": MetaTensor(torch.from_numpy(image), affine=torch.from_numpy(affine), meta=meta),
        "label": MetaTensor(
            torch.from_numpy(labels[None].astype(np.int32)), affine=torch.from_numpy(affine), meta=meta
        ),
    }


def boxes(shape, *sizes):
    """Labels with one box of each size along the first diagonal, one voxel apart and from the border."""
    labels, start = np.zeros(shape, int), np.ones(len(shape), int)
    for number, size in enumerate(sizes, 1):
        stop = start + size
        labels[tuple(slice(a, b) for a, b in zip(start, stop))] = number
        start = stop + 1
    return labels


def profile(*samples, **options):
    return measure_profile(ReadOnce(samples, lambda item: item), **options)


def test_sizes_are_those_of_the_annotated_objects():
    found = profile(sample(boxes((40, 40), [4, 8], [4, 8], [4, 8])))
    assert found.objects == 3 and found.images == 1 and found.channels == 1 and found.unit == "pixel"
    assert found.extents[1] == [4, 8] and found.shape == [40, 40]
    disc = 2 * np.sqrt(32 / np.pi)
    assert np.allclose(found.diameters, disc) and found.lengths[1] == pytest.approx(disc)
    assert found.elongation == pytest.approx(8 / disc)
    assert found.neighbour == pytest.approx(np.hypot(5, 9) / disc)
    assert found.fill == 1
    assert found.annotated == pytest.approx(96 / 1600)
    # a disc of that area, which may lie along any axis of the plane
    assert found.axis_diameters == pytest.approx([disc, disc])
    assert len(found.lines()) == 5 and "3 annotated objects" in "\n".join(found.lines())


def test_intensities_are_percentiles_of_the_image():
    one = sample(boxes((40, 40), [8, 8], [8, 8]))
    one["image"][0] = torch.linspace(0, 1000, 1600).reshape(40, 40)
    assert profile(one).intensities[0] == pytest.approx([10, 500, 998], abs=0.5)


def test_the_voxel_size_is_the_typical_one_of_the_images():
    labels = boxes((40, 40), [8, 8], [8, 8])
    found = profile(*(sample(labels, spacing=(size, size)) for size in (1.0, 0.5, 0.5)))
    assert found.spacing == [0.5, 0.5] and found.lengths[1] == pytest.approx(0.5 * 2 * np.sqrt(64 / np.pi))


def test_lengths_follow_the_voxel_size_and_sizes_in_voxels_do_not():
    labels = boxes((20, 40, 40), [4, 8, 8], [4, 8, 8])
    plain, scaled = profile(sample(labels)), profile(sample(labels, spacing=(2.0, 0.5, 0.5)))
    assert scaled.extents == plain.extents and scaled.diameters == pytest.approx(plain.diameters)
    assert scaled.unit == "micrometer" and scaled.lengths[1] == pytest.approx(plain.lengths[1] * 0.5 ** (1 / 3))


def test_axes_of_the_plane_differ_by_their_voxels_alone_and_its_height_by_what_is_seen():
    ball = np.cbrt(4 * 8 * 16 * 6 / np.pi)
    labels = boxes((20, 40, 40), [4, 8, 16], [4, 8, 16])
    assert profile(sample(labels)).axis_diameters == pytest.approx(ball / 8 * np.array([4, 128**0.5, 128**0.5]))
    oblong = profile(sample(labels, spacing=(1.0, 2.0, 0.5))).axis_diameters
    assert oblong == pytest.approx(ball / 8 * np.array([4, 128**0.5 / 2, 128**0.5 * 2]))


def test_images_of_unknown_voxel_size_count_as_seen_at_one_size_of_objects():
    small, large = boxes((40, 40), *[[8, 8]] * 4), boxes((120, 120), *[[24, 24]] * 4)
    usual = sample(small), sample(small), sample(small, name="b"), sample(large)
    apart, equal = profile(*usual), profile(*usual, equal_sizes=True)
    assert not apart.sizes_differ and equal.sizes_differ
    assert apart.extents[2] == [24, 24] and equal.extents[2] == pytest.approx([8, 8])
    assert equal.fill == pytest.approx(apart.fill) and equal.shape == [40, 40]
    assert equal.neighbour == pytest.approx(profile(sample(small)).neighbour)
    # sizes in micrometers are sizes, and two objects may be two large ones
    stated = [sample(labels, spacing=(0.5, 0.5)) for labels in (small, small, large)]
    few = sample(small), sample(small), sample(boxes((120, 120), *[[24, 24]] * 2))
    assert not profile(*stated, equal_sizes="auto").sizes_differ and not profile(*few, equal_sizes=True).sizes_differ
    with pytest.raises(SpocoError, match="equal_sizes is True.*in micrometers.*leave it out"):
        profile(*stated, equal_sizes=True)


def bands(every):
    """Bright bands across an image with dark lines between; only each ``every``-th is there."""
    rows, columns = np.indices((128, 128))
    number, place = np.divmod(rows + columns, 8)
    there = (number > 3) & (number < 28) & (number % every == 0)
    one = sample(np.where(there, number, 0))
    one["image"][0] = torch.from_numpy(there & (place > 1)) + 0.1 * torch.randn(128, 128)
    return one


def test_how_objects_differ_from_what_lies_around_them_is_measured_where_they_wind():
    assert profile(sample(boxes((60, 60), *[[8, 8]] * 5))).surroundings is None
    torch.manual_seed(0)
    beside, apart = profile(bands(every=1)), profile(bands(every=4))
    assert beside.fill < 0.22 and beside.surroundings < 0.6
    assert apart.fill < 0.22 and apart.surroundings > 0.9


def test_only_whole_objects_are_compared_with_what_lies_around_them():
    torch.manual_seed(0)
    one = bands(every=1)
    some = profile(one | {"kinds": dict.fromkeys(range(4, 12), "strokes")})
    assert some.kinds == {"whole": 16, "strokes": 8} and some.surroundings is not None
    one["label"][one["label"] < 12] = 0
    assert some.surroundings == profile(one).surroundings


def test_objects_that_the_border_cuts_and_special_ids_do_not_count_as_sizes():
    labels = boxes((60, 60), [8, 8], [8, 8], [8, 8])
    labels[:3, 40:60] = 9
    assert profile(sample(labels)).extents[2] == [8, 8]
    labels[50:, 5:45] = 77
    assert profile(sample(labels), background_label=77).objects == 4
    assert profile(sample(labels)).objects == 5


def test_where_the_border_cuts_most_objects_all_of_them_count():
    labels = np.zeros((40, 40), int)
    labels[:6, :6], labels[10:13, 10:13] = 1, 2
    assert profile(sample(labels)).extents[2] == [3, 3]
    labels[-6:, -6:] = 3
    assert profile(sample(labels)).extents[1] == [6, 6]


def test_what_cannot_be_learnt_from_is_refused():
    with pytest.raises(SpocoError, match="no annotated object of 8 voxels or more in 1 images"):
        profile(sample(boxes((20, 20), [2, 2])))
    with pytest.raises(SpocoError, match="b: has 3 channels where a has 1"):
        profile(sample(boxes((20, 20), [8, 8])), sample(boxes((20, 20), [8, 8]), channels=3, name="b"))


def test_every_volume_is_read_once_and_let_go_of():
    read = []

    def load(item):
        read.append(item["name"])
        return sample(boxes((20, 20), [8, 8]))

    volumes = ReadOnce([{"name": "a"}, {"name": "b"}], load)
    measure_profile(volumes)
    assert [volumes[0] is not None, volumes[1] is not None] == [True, True] and read == ["a", "b"]
    assert volumes[1] is not None and read == ["a", "b", "b"]
    volumes.most_bytes = 0
    volumes.look(0)
    assert volumes[0] is not None and read == ["a", "b", "b", "a", "a"]
    with pytest.raises(IndexError):
        volumes[2]


def test_an_object_outlined_in_its_middle_is_as_high_as_it_is_wide():
    labels = np.zeros((20, 40, 40), int)
    labels[4, 4:20, 4:20], labels[12, 20:32, 20:32] = 1, 2
    found = profile(sample(labels, spacing=(2.0, 1.0, 1.0)), annotation="slices")
    assert found.kinds == {"slices": 2} and "2 in slices" in found.lines()[2]
    assert found.extents[1] == pytest.approx([7, 14, 14])
    assert found.lengths[1] == pytest.approx(14)


@pytest.mark.parametrize("axis", [0, 2])
def test_outlines_in_every_few_slices_tell_how_large_objects_are_however_few_cut_each(axis):
    labels, height, step = np.zeros((60, 200, 60), int), 7, 5
    starts = range(1, 180, 11)
    for number, start in enumerate(starts, 1):
        labels[number % 5 + 20 : number % 5 + 20 + height, start : start + 8, 10:18] = number
    drawn = np.zeros_like(labels)
    drawn[::step] = labels[::step]
    found = profile(sample(np.moveaxis(drawn, 0, axis).copy()), annotation="slices")
    # some are cut by one slice, some by two: the typical one is as high as one gap or two, and seven is between
    assert found.extents[0][axis] == step and found.extents[2][axis] == 2 * step


def test_an_object_outlined_in_its_middle_is_no_higher_than_the_volume():
    labels = np.zeros((6, 40, 40), int)
    labels[4, 4:20, 4:20] = 1
    assert profile(sample(labels), annotation="slices").extents[1] == [6, 16, 16]


@pytest.mark.parametrize(("step", "height"), [(5, 15), (2, 12)])
def test_the_size_of_what_is_outlined_in_several_slices_goes_half_a_gap_beyond_them(step, height):
    labels = np.zeros((20, 40, 40), int)
    labels[4:15:step, 4:12, 4:12] = 1
    assert profile(sample(labels), annotation="slices").extents[1] == [height, 8, 8]


def test_kinds_of_single_objects_win_over_the_usual_one():
    labels = boxes((40, 40), [4, 8], [4, 8], [1, 1])
    given = sample(labels) | {"kinds": {3: "points"}}
    found = profile(given)
    assert found.kinds == {"whole": 2, "points": 1} and found.objects == 3
    assert found.extents[1] == [4, 8]
    assert "2 whole" in found.lines()[2] and "1 by points" in found.lines()[2]


def test_points_alone_need_a_diameter():
    labels = boxes((40, 40), [1, 1], [1, 1])
    with pytest.raises(SpocoError, match="2 objects are annotated, by points alone.*--diameter"):
        profile(sample(labels), annotation="points")
    assert profile(sample(labels), annotation="points", diameter=9).diameters[1] == pytest.approx(9)
    assert profile(sample(boxes((40, 40), [4, 8])), diameter=9).diameters[1] == pytest.approx(9)
    flat = sample(boxes((20, 40, 40), [1, 1, 1], [1, 1, 1]), spacing=(2.0, 0.5, 0.5))
    assert profile(flat, annotation="points", diameter=9).lengths[1] == pytest.approx(4.5), "pixels of the plane"
