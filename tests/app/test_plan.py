from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from spoco_bundle.app import plan
from spoco_bundle.app.plan_check import check_plan, plan_lines, training_bytes
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.saved_state import save_state
from spoco_bundle.dataset.profile import Profile
from spoco_bundle.networks import EmbeddingUNet
from spoco_bundle.networks.embedding_unet import receptive_radius
from spoco_bundle.networks.lengths import learn_lengths
from support import PLAN

NUCLEI = Profile(
    images=4,
    channels=1,
    shape=[50, 128, 128],
    spacing=[1.0, 1.0, 1.0],
    unit="pixel",
    intensities=[[0, 1, 2]],
    objects=100,
    kinds={"whole": 100},
    annotated=0.1,
    diameters=[7.0, 15.0, 20.0],
    extents=[[6, 6, 6], [15, 15, 15], [20, 20, 20]],
    elongation=1.2,
    fill=0.5,
    neighbour=1.0,
    surroundings=None,
)
#: as serial sections show them: large in the plane, a few slices thick
SECTIONS = replace(
    NUCLEI,
    shape=[20, 512, 512],
    diameters=[16.0, 28.0, 52.0],
    extents=[[2, 36, 36], [6, 74, 74], [15, 176, 176]],
)
CELLS = replace(
    NUCLEI,
    shape=[1000, 1000],
    spacing=[0.5, 0.5],
    unit="micrometer",
    diameters=[26.0, 60.0, 95.0],
    extents=[[26, 26], [75, 75], [150, 150]],
)


def planned(profile):
    spacing = plan.working_spacing(profile)
    strides = plan.strides(profile, spacing)
    return spacing, strides, plan.crop_size(profile, spacing, strides)


@pytest.fixture
def weights(tmp_path):
    """Weights of objects so many units of length across, at a voxel size in that unit."""

    def write(diameter, spacing, unit):
        network = EmbeddingUNet(len(spacing), 1, 4, (4, 8), (2,), (3, 3), 1)
        network.coordinate_scale.fill_(diameter / 4)
        learn_lengths(network, spacing, unit)
        save_state(network.state_dict(), tmp_path / "model.pt")
        return str(tmp_path / "model.pt")

    return write


FLAT = replace(CELLS, spacing=[1.0, 1.0], unit="pixel", diameters=[90.0, 104.0, 120.0], extents=[[104, 104]] * 3)


@pytest.mark.parametrize(
    ("profile", "learnt", "expected"),
    [
        (FLAT, (13.0, (1.0, 1.0), "pixel"), [8.0, 8.0]),  # nuclei of another microscope, eight times as large
        (FLAT, (80.0, (1.0, 1.0), "pixel"), None),  # about as large
        (FLAT, (100.0, (3.4, 3.4), "pixel"), [3.4, 3.4]),  # the resolution of the weights, exactly
        (replace(FLAT, diameters=[5.0, 6.5, 8.0]), (13.0, (1.0, 1.0), "pixel"), [0.5, 0.5]),
        (CELLS, (30.0, (0.5, 0.5), "micrometer"), None),
        (CELLS, (30.0, (1.0, 1.0), "micrometer"), [1.0, 1.0]),  # the same cells by another microscope
        (CELLS, (10.0, (0.5, 0.5), "micrometer"), [1.5, 1.5]),  # larger cells: as many voxels across
        (CELLS, (13.0, (1.0, 1.0), "pixel"), [2.308, 2.308]),  # what has no common unit is compared in voxels
        (CELLS, (0.0, (1.0, 1.0), "micrometer"), [1.0, 1.0]),  # the weights say no size of objects
        (CELLS, (0.0, (1.0, 1.0), "pixel"), None),
        (NUCLEI, (60.0, (1.0, 1.0, 1.0), "pixel"), None),  # volumes are not enlarged
        (NUCLEI, (7.5, (1.0, 1.0, 1.0), "pixel"), [2.0, 2.0, 2.0]),
        (NUCLEI, (15.0, (3.0, 1.0, 1.0), "micrometer"), None),
        (NUCLEI, (13.0, (1.0, 1.0), "pixel"), None),  # of flat images: loading them says so
    ],
)
def test_a_training_from_weights_works_where_objects_are_as_large_as_they_learnt(profile, learnt, expected, weights):
    found = plan.working_spacing(profile, weights(*learnt))
    assert found == (None if expected is None else pytest.approx(expected))


def test_objects_of_a_size_that_the_network_likes_are_left_as_they_are():
    assert plan.working_spacing(NUCLEI) is None
    assert plan.working_spacing(replace(NUCLEI, diameters=[3.0, 6.0, 8.0])) is None, "never finer than the image"
    assert plan.working_spacing(replace(NUCLEI, sizes_differ=True)) == NUCLEI.spacing, "others are brought to it"


def test_large_objects_are_brought_to_the_size_that_the_network_likes():
    assert plan.working_spacing(CELLS) == pytest.approx([1.0, 1.0])
    spacing = plan.working_spacing(SECTIONS)
    assert spacing[0] == 1 and spacing[1] == spacing[2] > 2, "a thin axis stays"


def test_the_network_sees_twice_a_large_object():
    for profile in (NUCLEI, SECTIONS, CELLS):
        spacing, strides, _ = planned(profile)
        ratio = np.asarray(profile.spacing) / (profile.spacing if spacing is None else spacing)
        dims = len(profile.shape)
        radius = receptive_radius(strides, plan.kernel_sizes(strides, dims), plan.convolutions(strides))
        assert (np.asarray(radius) >= np.asarray(profile.extents[2]) * ratio).all()
    huge = replace(NUCLEI, shape=[500] * 3, extents=[[6] * 3, [15] * 3, [900] * 3])
    assert len(plan.strides(huge, None)) == 4, "a crop is to be some voxels long at every level"


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (NUCLEI, (None, [[2, 2, 2]] * 3, [48, 48, 48])),
        (CELLS, ([1.0, 1.0], [[2, 2]] * 4, [128, 128])),
        (replace(CELLS, extents=[[26, 26], [75, 75], [300, 200]]), ([1.0, 1.0], [[2, 2]] * 5, [192, 192])),
        (SECTIONS, ([1.0, 3.235, 3.235], [[1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]], [20, 80, 80])),
        (
            replace(SECTIONS, shape=[12, 512, 512]),
            ([1.0, 3.235, 3.235], [[1, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]], [12, 112, 112]),
        ),
    ],
)
def test_resolution_steps_and_crop_are_planned_as_ever(profile, expected):
    assert planned(profile) == expected


def test_flat_voxels_become_cubes_on_the_way_down():
    _, strides, crop = planned(SECTIONS)
    assert strides[0] == [1, 2, 2] and plan.kernel_sizes(strides, 3)[0] == [1, 3, 3]
    assert [2, 2, 2] in strides and crop[0] <= 24
    assert planned(NUCLEI)[1][0] == [2, 2, 2]


@pytest.mark.parametrize("profile", [NUCLEI, SECTIONS, CELLS])
def test_a_crop_holds_several_objects_in_bounded_memory(profile):
    spacing, strides, crop = planned(profile)
    total = np.prod(strides, axis=0)
    assert crop[-1] == crop[-2] and not any(np.asarray(crop) % total)
    ratio = np.asarray(profile.spacing) / (profile.spacing if spacing is None else spacing)
    objects = np.prod(crop) / np.prod(profile.axis_diameters * ratio)
    assert objects > 8
    voxels = math.prod(crop) * plan.batch_size(crop)
    assert voxels <= {2: 2**17, 3: 2**18}[len(crop)] * 1.5


def test_a_batch_has_as_many_crops_as_make_up_its_voxels():
    crops = [128, 128], [192, 192], [48, 48, 48], [20, 80, 80], [12, 112, 112], [512, 512, 512]
    assert [plan.batch_size(crop) for crop in crops] == [8, 4, 2, 2, 2, 1]


def test_a_crop_is_no_larger_than_an_image():
    small = replace(NUCLEI, shape=[12, 40, 40])
    _, strides, crop = planned(small)
    assert all(size <= side + step for size, side, step in zip(crop, small.shape, np.prod(strides, axis=0)))


def test_what_the_user_gives_moves_what_follows_from_it():
    coarse = plan.crop_size(CELLS, [5.0, 5.0], [[2, 2]] * 3)
    fine = plan.crop_size(CELLS, [0.5, 0.5], [[2, 2]] * 3)
    assert fine[0] > coarse[0] and plan.batch_size(fine) < plan.batch_size(coarse)
    assert plan.channels([2, 2, 2], 3) == [8, 16, 32, 64] and len(plan.convolutions([2, 2])) == 3
    assert plan.channels([2, 2, 2], 2) == [16, 32, 64, 64]
    assert [plan.validation_voxels(dims) for dims in (2, 3)] == [2048**2, 256**3]


def test_tissue_is_told_by_the_profile_or_by_the_user():
    neurons = replace(NUCLEI, surroundings=0.6, fill=0.2)
    assert plan.is_dense(neurons) and not plan.is_dense(NUCLEI)
    assert not plan.is_dense(replace(neurons, surroundings=0.9))
    assert plan.is_dense(NUCLEI, "dense") and not plan.is_dense(neurons, "gaps")
    assert not plan.is_dense(replace(neurons, surroundings=None))
    assert plan.is_dense(NUCLEI, "dense", with_background=True) and not plan.is_dense(neurons, with_background=True)


def test_the_line_of_the_tissue_says_what_was_measured():
    compact = plan_lines(NUCLEI, PLAN)[-1]
    assert compact == "tissue with gaps: objects have a centre, fill 50% of their box"
    winding = plan_lines(replace(NUCLEI, fill=0.17, surroundings=0.6812), PLAN | {"dense": True})[-1]
    assert winding.startswith("tissue dense: objects are told apart by their borders, fill 17% of their box, and are")
    assert winding.endswith("told from what lies around them in 68 of 100 comparisons")


def test_that_objects_are_pasted_is_said_where_they_are():
    said = "objects pasted into each crop: those of up to 4 others of its image"
    assert said in plan_lines(NUCLEI, PLAN | {"pasted_crops": 4})
    assert not any("pasted" in line for line in plan_lines(NUCLEI, PLAN | {"pasted_crops": 0}))


def test_plans_that_cannot_work_are_refused():
    ids = {**PLAN, "embedding_channels": 8, "coordinate_channels": 3}
    check_plan(NUCLEI, ids)
    check_plan(replace(NUCLEI, extents=[[50, 15, 15]] * 3), ids)  # whole in the planes, and all through the volume
    with pytest.raises(SpocoError, match="in_channels is 1, the images have 3 channels: choose one of 0 to 2"):
        check_plan(replace(NUCLEI, channels=3), ids)
    with pytest.raises(SpocoError, match="crop_size is .*give 3 numbers"):
        check_plan(NUCLEI, ids | {"crop_size": [64, 64]})
    with pytest.raises(SpocoError, match="coordinate_channels is 2: give 0 or 3"):
        check_plan(NUCLEI, ids | {"coordinate_channels": 2})
    with pytest.raises(SpocoError, match=r"strides: \[2, 2\] does not fit: give one number, or 3"):
        check_plan(NUCLEI, ids | {"strides": [[2, 2]]})
    with pytest.raises(SpocoError, match="no image shows a whole one"):
        check_plan(replace(NUCLEI, extents=[[50, 120, 120]] * 3), ids)
    with pytest.raises(SpocoError, match="set a finer --target_spacing"):
        check_plan(NUCLEI, ids | {"target_spacing": [50, 50, 50]})
    with pytest.raises(SpocoError, match="at different sizes.*--equal_sizes False"):
        check_plan(replace(NUCLEI, sizes_differ=True), ids)
    need = training_bytes(ids)
    check_plan(NUCLEI, ids, need)
    with pytest.raises(SpocoError, match="2 crops of 32 x 64 x 64 voxels take about .* smaller --crop_size"):
        check_plan(NUCLEI, ids, need - 1)
    assert training_bytes(ids | {"batch_size": 4}) == 2 * need
    small = {"crop_size": [4, 8], "batch_size": 1, "embedding_channels": 2}
    small |= {"channels": [3, 5], "convolutions": [1, 2], "strides": [2]}
    assert training_bytes(small) == 32 * (40 * 2 + 4 * 3 * 8 + 4 * 5 * 14 / 4)


def test_the_weight_of_unlabeled_voxels_goes_by_what_says_where_an_object_ends():
    def weight(profile, dense=False):
        return plan.objectness_unlabeled_weight(
            profile, dense, plan.objectness_unlabeled_relative(profile, dense=dense)
        )

    assert weight(NUCLEI) == 0.25 and weight(CELLS) == 1.0
    assert weight(replace(CELLS, objects=10)) == 0.3  # few are learnt by heart
    assert weight(replace(CELLS, kinds={"strokes": 60, "points": 40})) == 0.25
    assert weight(replace(NUCLEI, kinds={"points": 100})) == 0.3
    assert weight(replace(NUCLEI, kinds={"strokes": 100}), dense=True) == 0


def test_unlabeled_voxels_count_by_how_many_look_like_annotated_ones_where_no_shell_bounds_objects():
    relative = plan.objectness_unlabeled_relative
    assert relative(NUCLEI) and not relative(CELLS)
    assert not relative(NUCLEI, dense=True) and not relative(NUCLEI, complete=True)
    assert relative(replace(NUCLEI, kinds={"slices": 100})) and relative(replace(CELLS, kinds={"strokes": 100}))
    assert not relative(replace(NUCLEI, kinds={"points": 100}))


def test_where_no_shell_bounds_objects_they_are_read_at_a_higher_objectness():
    def threshold(profile, dense=False):
        relative = plan.objectness_unlabeled_relative(profile, dense=dense)
        return plan.objectness_threshold(profile, dense, relative)

    assert threshold(NUCLEI) == 0.6 and threshold(CELLS) == 0.4
    assert threshold(NUCLEI, dense=True) == 0.8
    assert threshold(replace(NUCLEI, kinds={"points": 60, "whole": 40})) == 0.65
    assert threshold(replace(NUCLEI, kinds={"points": 40, "whole": 60})) == 0.6
    assert threshold(replace(CELLS, kinds={"points": 100})) == 0.4
    assert threshold(replace(CELLS, objects=10, kinds={"points": 10})) == 0.65
    assert threshold(replace(CELLS, kinds={"strokes": 100})) == 0.6


def test_objects_as_small_as_annotated_ones_are_kept():
    assert plan.min_fraction(replace(CELLS, objects=80, diameters=[15.0, 50.0, 90.0]), dense=False) == 0.09
    assert plan.min_fraction(replace(NUCLEI, objects=80, diameters=[6.0, 15.0, 19.0]), dense=False) == 0.064
    # specks are no objects, though all annotated ones are alike; of a few objects the smallest says nothing
    assert plan.min_fraction(replace(CELLS, objects=80, diameters=[40.0, 50.0, 60.0]), dense=False) == 0.15
    assert plan.min_fraction(replace(NUCLEI, objects=8, diameters=[6.0, 15.0, 19.0]), dense=False) == 0.1
    assert plan.min_fraction(replace(CELLS, objects=8), dense=True) == 0.02


def test_the_axes_of_a_volume_are_alike_where_the_network_steps_alike():
    assert plan.alike_axes([[2, 2, 2], [1, 2, 2]], 3) and plan.alike_axes([2, 2], 3)
    assert not plan.alike_axes([[1, 2, 2], [2, 2, 2]], 3) and not plan.alike_axes([2, 2], 2)


def test_a_few_outlined_objects_of_flat_images_are_pasted():
    few = replace(CELLS, objects=10, kinds={"whole": 10})
    assert plan.pasted_crops(few) == 4
    assert plan.pasted_crops(replace(few, objects=50, kinds={"whole": 50})) == 0
    assert plan.pasted_crops(replace(few, kinds={"points": 8, "whole": 2})) == 0
    assert plan.pasted_crops(few, dense=True) == 0
    assert plan.pasted_crops(replace(NUCLEI, objects=10, kinds={"whole": 10})) == 0
