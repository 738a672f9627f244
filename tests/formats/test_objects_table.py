from __future__ import annotations

import csv

import numpy as np
import pytest
from skimage.measure import regionprops

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import objects_table, write_objects_table
from spoco_bundle.formats.objects_table import table_columns


@pytest.mark.parametrize("shape", [(9, 10, 11), (20, 21)])
def test_agrees_with_regionprops(shape):
    rng = np.random.default_rng(0)
    ids = np.array([0, 3, 4, 70000, 2**31 - 1])
    labels = ids[rng.integers(0, 5, shape)].astype(np.int32)
    rank = len(shape)
    spacing = (1.75, 0.8, 0.5)[-rank:]
    rows = objects_table(labels, spacing, "micrometer")
    dense = np.searchsorted(ids, labels)
    for row, region in zip(rows, regionprops(dense, spacing=spacing), strict=True):
        assert row["id"] == ids[region.label]
        assert row["voxels"] == region.num_pixels
        assert row["volume"] == pytest.approx(region.area)
        names = "zyx"[-rank:]
        assert [row[f"centroid_{name}"] for name in names] == pytest.approx(list(region.centroid))
        assert [row[f"{name}_min"] for name in names] + [row[f"{name}_max"] for name in names] == list(region.bbox)
        assert row["unit"] == "micrometer"
        assert list(row) == table_columns(rank)


def test_unknown_spacing_is_in_voxels():
    labels = np.zeros((4, 4), np.uint16)
    labels[1:3, 2] = 1
    (row,) = objects_table(labels)
    assert (row["volume"], row["centroid_y"], row["centroid_x"], row["unit"]) == (2, 1.5, 2, "voxel")
    assert row["confidence"] == ""


def test_confidence_by_id():
    labels = np.array([[0, 3], [1, 3]])
    rows = objects_table(labels, confidence=np.array([0.1, 0.2, 0.3]))
    assert [(row["id"], row["confidence"]) for row in rows] == [(1, 0.1), (3, 0.3)]
    with pytest.raises(ValueError, match="2 confidences for ids up to 3"):
        objects_table(labels, confidence=[0.1, 0.2])


def test_csv(tmp_path):
    labels = np.zeros((3, 4, 5), np.int32)
    labels[1, 2, 3] = 7
    path = write_objects_table(
        tmp_path / "new" / "a.csv", objects_table(labels, (2e-3, 0.5e-3, 1e-3 / 3), "nanometer"), 3
    )
    with path.open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "id": "7",
        "voxels": "1",
        "volume": "0.333333",
        "centroid_z": "2",
        "centroid_y": "1",
        "centroid_x": "1",
        "unit": "nanometer",
        **{"z_min": "1", "z_max": "2", "y_min": "2", "y_max": "3", "x_min": "3", "x_max": "4"},
        "confidence": "",
    }
    assert [file.name for file in path.parent.iterdir()] == ["a.csv"]


def test_no_object_leaves_a_header(tmp_path):
    assert objects_table(np.zeros((3, 4), int)) == []
    path = write_objects_table(tmp_path / "a.csv", [], 2)
    assert path.read_text().strip() == ",".join(table_columns(2))


def test_unwritable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SpocoError, match="cannot be written"):
        write_objects_table(tmp_path / "file" / "a.csv", [], 2)


def test_many_objects_take_one_pass():
    # A walk over the volume per object would touch 8 million voxels 8,000 times.
    labels = np.arange(8000).reshape(20, 20, 20).repeat(10, 0).repeat(10, 1).repeat(10, 2)
    rows = objects_table(labels)
    assert len(rows) == 7999
    assert {row["voxels"] for row in rows} == {1000}
