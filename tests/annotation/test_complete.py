import numpy as np
import pytest
import tifffile

from spoco_bundle.annotation.complete import complete_path, read_complete
from spoco_bundle.core.errors import SpocoError

SHAPE = (5, 10, 12)
FLAT = "y_start,x_start,y_stop,x_stop"
SHAPES = "index,shape-type,vertex-index,axis-0,axis-1"


def written(folder, text):
    path = folder / "a_complete.csv"
    path.write_text(text)
    return path


def rectangle(index, *vertices, kind="rectangle"):
    return "".join(f"{index},{kind},{n},{','.join(map(str, v))}\n" for n, v in enumerate(vertices))


def box(*ends):
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*end) for end in ends)] = True
    return mask


def test_a_mask(tmp_path):
    mask = np.random.default_rng(0).random(SHAPE) > 0.5
    tifffile.imwrite(tmp_path / "a_complete.tif", mask.astype(np.uint8) * 255)
    path = complete_path(tmp_path / "a_label.tif")
    assert path == tmp_path / "a_complete.tif"
    found = read_complete(path, SHAPE)
    np.testing.assert_array_equal(found, mask)
    assert found.dtype == bool
    with pytest.raises(SpocoError, match=r"a_complete\.tif: shape \(5, 10, 12\) differs from shape \(5, 10, 13\)"):
        read_complete(path, (5, 10, 13))


def test_rectangles_of_napari(tmp_path):
    path = written(
        tmp_path,
        f"{SHAPES},axis-2\n"
        + rectangle(0, (1.2, 2.4, 3), (1.2, 2.4, 6.6), (1.2, 5.5, 6.6), (1.2, 5.5, 3))  # drawn in one slice
        + rectangle(1, (2, -3, -2), (3, -3, -2), (3, 1, 1), (2, 1, 1)),  # beyond the border
    )
    expected = box((1, 2), (2, 7), (3, 8)) | box((2, 4), (0, 2), (0, 2))
    np.testing.assert_array_equal(read_complete(path, SHAPE), expected)


def test_boxes(tmp_path):
    path = written(tmp_path, "z_start;y_start;x_start;z_stop;y_stop;x_stop\n0;1;2;4;3;12\n3;0;0;9;10;1\n")
    np.testing.assert_array_equal(
        read_complete(path, SHAPE), box((0, 4), (1, 3), (2, 12)) | box((3, 5), (0, 10), (0, 1))
    )
    path = written(tmp_path, f"{FLAT}\n1,2,3,12\n")
    np.testing.assert_array_equal(read_complete(path, SHAPE[1:]), box((0, 1), (1, 3), (2, 12))[0])


def test_no_box_is_nowhere(tmp_path):
    assert not read_complete(written(tmp_path, f"{FLAT}\n"), (3, 4)).any()


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        (
            f"{FLAT}\n1,1,2,2\n\n1,4,3,4\n",
            (5, 5),
            "row 4: the box holds no voxel of the image of 5 x 5",
        ),
        (f"{FLAT}\n6,1,9,4\n", (5, 5), "row 2: the box holds no voxel"),
        (f"{FLAT}\n1,1,2.5,4\n", (5, 5), "row 2: y_stop is '2.5': write a whole number"),
        (f"{FLAT}\n", SHAPE, "has the columns .* 3 axes needs z_start, y_start, x_start, z_stop"),
        ("z_start,y_start,x_start,z_stop,y_stop,x_stop\n", (5, 5), "has the columns .* 2 axes needs y_start, x_start"),
        ("where\n", (5, 5), "has the columns where"),
        (
            f"{SHAPES}\n" + rectangle(0, (1, 1), (3, 3), kind="ellipse"),
            (5, 5),
            "row 2: shape-type is 'ellipse': draw rectangles only",
        ),
        (
            f"{SHAPES}\n" + rectangle(0, (1, 1), (3, 3)) + rectangle(1, (6, 1), (9, 3)),
            (5, 5),
            "row 4: the box holds no voxel",
        ),
    ],
)
def test_what_cannot_be_meant(tmp_path, text, shape, message):
    with pytest.raises(SpocoError, match=rf"a_complete\.csv: {message}"):
        read_complete(written(tmp_path, text), shape)


def test_which_file_says_it(tmp_path):
    for name in ("ab_complete.csv", "a_complete.txt", "a_complete_old.csv", "a_raw.tif", ".a_complete.csv"):
        (tmp_path / name).touch()
    assert complete_path(tmp_path / "a_label.tif") is None
    (tmp_path / "a_complete.nii.gz").touch()
    assert complete_path(tmp_path / "a_raw.tif").name == "a_complete.nii.gz"
    assert complete_path(tmp_path / "a_flair.tif", "_flair").name == "a_complete.nii.gz"
    (tmp_path / "a_complete.CSV").touch()
    with pytest.raises(SpocoError, match="a_complete.nii.gz beside it says too where .*: take one"):
        complete_path(tmp_path / "a_label.tif")
