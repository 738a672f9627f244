from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch

from spoco_bundle.blockwise.sampling import sample_voxels
from spoco_bundle.blockwise.working import WorkingImage, read_mask, readable_image
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.resampling import resize_linear, resize_nearest
from spoco_bundle.core.sampling import sampled_places
from spoco_bundle.formats.lazy import open_volume
from spoco_bundle.transforms import NormalizePercentiled


@pytest.fixture
def source(tmp_path):
    """A volume on disk and its voxels (1, *spatial)."""
    voxels = np.random.default_rng(0).integers(0, 1000, (12, 40, 30)).astype(np.uint16)
    tifffile.imwrite(
        tmp_path / "cells.tif", voxels, imagej=True, metadata={"axes": "ZYX", "spacing": 2.0, "unit": "um"}
    )
    return open_volume(tmp_path / "cells.tif"), voxels[None]


@pytest.mark.parametrize("shape", [(12, 25, 47), (12, 40, 30)])
def test_any_region_equals_that_of_the_whole_image_in_memory(source, shape):
    volume, voxels = source
    normalize = NormalizePercentiled("image")
    ranges = normalize.fit(voxels)
    whole = resize_linear(normalize.apply(torch.from_numpy(voxels.astype(np.float32)), ranges), shape)
    image = WorkingImage(volume, normalize, ranges, shape)
    for region in (tuple(slice(0, n) for n in shape), (slice(3, 7), slice(10, 24), slice(1, 29))):
        assert torch.equal(image.read(region), whole[(slice(None), *region)])
    mask = torch.from_numpy(voxels > 0)
    assert torch.equal(read_mask(volume, shape, region), resize_nearest(mask, shape)[(slice(None), *region)])


def test_voxels_that_are_not_finite_are_named_with_their_place(tmp_path):
    voxels = np.zeros((4, 8, 8), np.float32)
    voxels[2, 5, 5] = np.nan
    tifffile.imwrite(tmp_path / "cells.tif", voxels, metadata={"axes": "ZYX"}, ome=True)
    image = WorkingImage(
        open_volume(tmp_path / "cells.tif"), NormalizePercentiled("image"), torch.zeros(1, 2), (4, 8, 8)
    )
    assert image.read((slice(0, 2), slice(0, 8), slice(0, 8))).shape == (1, 2, 8, 8)
    with pytest.raises(SpocoError, match=r"cells\.tif: holds NaN or infinite voxels at z 2:4, y 4:8, x 0:8: replace"):
        image.read((slice(2, 4), slice(4, 8), slice(0, 8)))


@pytest.mark.parametrize("most_read", [10**6, 3000])
def test_a_sample_says_where_its_voxels_lie(source, most_read, monkeypatch):
    monkeypatch.setattr("spoco_bundle.blockwise.sampling.SAMPLED_VOXELS", 5000)
    volume, voxels = source
    values, places = sample_voxels(volume, most_read)
    assert values.shape[1] == len(places) >= 5000 and values.dtype == np.uint16
    np.testing.assert_array_equal(values, voxels.reshape(1, -1)[:, places])
    if most_read > volume.voxels:
        assert sampled_places(volume.voxels) is None and np.array_equal(places, np.arange(volume.voxels))
    else:
        assert len(np.unique(places)) < 3500


def test_what_a_file_says_of_its_size(source, tmp_path):
    volume, _ = source
    image = readable_image(volume, "brain.tif", volume.stated_size)
    assert (image.name, image.shape, image.unit, image.read) == ("brain.tif", (12, 40, 30), "micrometer", None)
    assert image.spacing == volume.spacing and image.spacing[0] == 2 and image.stated_size
    tifffile.imwrite(tmp_path / "plain.tif", np.zeros((4, 8, 8), np.uint8), imagej=True, metadata={"axes": "ZYX"})
    plain = open_volume(tmp_path / "plain.tif")
    image = readable_image(plain, "plain.tif", "")
    assert image.spacing is None and image.unit == "pixel"
    plain.take_spacing((2.0, 0.5, 0.5))
    image = readable_image(plain, "plain.tif", "")
    assert image.spacing == (2.0, 0.5, 0.5) and image.unit == "micrometer"
    assert np.linalg.norm(plain.affine[:3, :3], axis=0).tolist() == [2.0, 0.5, 0.5]
