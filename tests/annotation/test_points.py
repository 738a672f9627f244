import numpy as np
import pytest

from spoco_bundle.annotation.points import points_path, read_points, write_points
from spoco_bundle.core.errors import SpocoError


def written(folder, text):
    path = folder / "a_points.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("dims", [2, 3])
def test_points_come_back_in_their_order(tmp_path, dims):
    voxels = np.random.default_rng(0).permutation(60).reshape(-1, dims)
    path = write_points(points_path(tmp_path / "a_label.tif"), voxels)
    assert path == tmp_path / "a_points.csv"
    found = read_points(path, dims)
    np.testing.assert_array_equal(found, voxels)
    assert found.dtype == np.int64
    assert path.read_text().splitlines()[0] == "index,axis-0,axis-1,axis-2"[: 6 + 7 * dims - 1]


def test_no_points(tmp_path):
    assert read_points(write_points(tmp_path / "a.csv", np.empty((0, 3))), 3).shape == (0, 3)


def test_points_of_napari_with_properties(tmp_path):
    path = written(tmp_path, "index,axis-0,axis-1,axis-2,sure\n0.0,1.4,2.5,3.6,True\n1.0,-0.5,4,0,False\n")
    assert read_points(path, 3, (4, 5, 6)).tolist() == [[1, 3, 4], [0, 4, 0]]


@pytest.mark.parametrize("text", ["x,y\n3,4\n0,1.2\n", "name;y;x\r\ncell a;4;3,2\r\n;1;0\r\n", "Y,X\n4,3\n1,0"])
def test_columns_named_after_axes(tmp_path, text):
    assert read_points(written(tmp_path, text), 2, (5, 5)).tolist() == [[4, 3], [1, 0]]


def test_points_in_one_voxel_are_one_point(tmp_path):
    path = written(tmp_path, "y,x\n1,2\n3,3\n1.2,1.8\n")
    assert read_points(path, 2).tolist() == [[1, 2], [3, 3]]


@pytest.mark.parametrize("point", ["5,0", "0,6", "-0.6,0", "4.5,0"])
def test_points_outside_of_the_image(tmp_path, point):
    path = written(tmp_path, f"y,x\n0,0\n\n{point}\n")
    assert len(read_points(path, 2)) == 2
    with pytest.raises(SpocoError) as caught:
        read_points(path, 2, (5, 6))
    assert str(caught.value) == (
        f"{path}: row 4: point {point.replace(',', ', ')} lies outside of the image of 5 x 6 voxels: give y, x in "
        "voxels, counted from 0"
    )


@pytest.mark.parametrize(
    ("columns", "dims", "needed"),
    [
        ("y,x", 3, "an image of 3 axes needs z, y, x"),
        ("z,y,x", 2, "an image of 2 axes needs y, x"),
        ("index,axis-0,axis-1", 3, "needs axis-0, axis-1, axis-2"),
        ("index,axis-0,axis-1,axis-2", 2, "needs axis-0, axis-1"),
        ("row,column", 2, "needs y, x"),
    ],
)
def test_axes_that_do_not_fit(tmp_path, columns, dims, needed):
    with pytest.raises(
        SpocoError, match=rf"a_points\.csv: has the columns {columns.replace(',', ', ')} where .*{needed}"
    ):
        read_points(written(tmp_path, f"{columns}\n"), dims)


def test_what_is_no_number(tmp_path):
    with pytest.raises(SpocoError, match=r"a_points\.csv: row 3: x is '': write a number"):
        read_points(written(tmp_path, "y,x\n1,2\n1\n"), 2)
