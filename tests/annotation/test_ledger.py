import numpy as np
import pytest

from spoco_bundle.annotation.kinds import KINDS
from spoco_bundle.annotation.ledger import Entry, ledger_path, read_ledger, write_ledger
from spoco_bundle.core.errors import SpocoError

ENTRIES = {3: Entry("slices"), 7: Entry("points", checked=False), 2**31 - 1: Entry("whole")}


def written(folder, text, encoding="utf-8"):
    path = folder / "a_annotation.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_ledger_comes_back_as_it_was_written(tmp_path):
    path = write_ledger(tmp_path / "new" / "a_annotation.csv", dict(reversed(ENTRIES.items())))
    assert path.read_text().split() == [
        "id,kind,state",
        "3,slices,checked",
        "7,points,unchecked",
        "2147483647,whole,checked",
    ]
    assert read_ledger(path) == ENTRIES
    assert list(read_ledger(path)) == sorted(ENTRIES)
    assert [file.name for file in path.parent.iterdir()] == ["a_annotation.csv"]
    assert read_ledger(write_ledger(path, {})) == {}


def test_no_ledger_says_nothing(tmp_path):
    assert read_ledger(tmp_path / "a_annotation.csv") == {}


@pytest.mark.parametrize(
    ("name", "endings", "ledger"),
    [
        ("a_label.tif", (), "a_annotation.csv"),
        ("a_raw.ome.tif", (), "a_annotation.csv"),
        ("a.nii.gz", (), "a_annotation.csv"),
        ("a.b_label.nii.gz", (), "a.b_annotation.csv"),
        ("a_raw_label.tif", (), "a_raw_annotation.csv"),
        ("a_lesions.nii", ("_FLAIR", "_lesions"), "a_annotation.csv"),
        ("a_label.tif", ("", "_label"), "a_annotation.csv"),
        ("a_raw_big.tif", ("_big", "_raw_big"), "a_annotation.csv"),
    ],
)
def test_a_ledger_is_called_after_its_image(name, endings, ledger):
    assert ledger_path(f"/folder/{name}", *endings).as_posix() == f"/folder/{ledger}"


@pytest.mark.parametrize(
    "text",
    [
        "id,kind,state\n3,slices,checked\n7,points,unchecked\n2147483647,whole,checked\n",
        "\ufeffid;kind;state\r\n3;slices;checked\r\n7;points;unchecked\r\n2147483647;whole;checked\r\n;;\r\n",
        "Id\tState\tKind\tnote\n3.0\tchecked\tslices\n\n 7,0 \tUnchecked\t Points\tdim\n2147483647\tchecked\twhole",
        '"id", "kind", "state"\n"3", "slices", "checked"\n7, points, unchecked\n2147483647, whole, checked',
    ],
)
def test_tables_as_programs_write_them(tmp_path, text):
    assert read_ledger(written(tmp_path, text)) == ENTRIES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,kind,state\n3,outline,checked\n", "row 2: kind is 'outline': write one of whole, slices, strokes, points"),
        ("id,kind,state\n\n3,whole,done\n", "row 3: state is 'done': write one of checked, unchecked"),
        ("id,kind,state\n3,whole\n", "row 2: state is '': write one of checked, unchecked"),
        ("id,kind,state\n0,whole,checked\n", "row 2: id 0 is no object: ids go from 1 to 2147483647"),
        ("id,kind,state\n2147483648,whole,checked\n", "row 2: id 2147483648 is no object"),
        ("id,kind,state\n3.5,whole,checked\n", "row 2: id is '3.5': write a whole number"),
        ("id,kind,state\nnan,whole,checked\n", "row 2: id is 'nan': write a number"),
        ("id,kind,state\n3,whole,checked\n4,whole,checked\n3.0,points,checked\n", "row 4: id 3 has row 2 already"),
        ("id,kind\n3,whole\n", "has no column 'state' but id, kind: give it the header id,kind,state"),
        ("id,kind,state\n3,0,whole,checked\n", "row 2: has 4 values for 3 columns"),
        ("\n", "is empty: write a header"),
    ],
)
def test_what_a_ledger_cannot_mean(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(SpocoError) as caught:
        read_ledger(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path):
    with pytest.raises(SpocoError, match=r"a_annotation\.csv: cannot be read .*save it as CSV in UTF-8"):
        read_ledger(written(tmp_path, "id,kind,state\n", "utf-16"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_kept(tmp_path, kind):
    assert read_ledger(write_ledger(tmp_path / "a.csv", {1: Entry(kind)})) == {1: Entry(kind, True)}


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="kind is 'outline': give one of whole, slices"):
        Entry("outline")
    with pytest.raises(ValueError, match="id 0 is no object"):
        write_ledger(tmp_path / "a.csv", {0: Entry("whole"), 1: Entry("whole")})
    (tmp_path / "file").touch()
    with pytest.raises(SpocoError, match="cannot be written"):
        write_ledger(tmp_path / "file" / "a.csv", ENTRIES)


def test_numbers_of_numpy_can_be_written(tmp_path):
    path = write_ledger(tmp_path / "a.csv", {np.int32(4): Entry("strokes")})
    assert read_ledger(path) == {4: Entry("strokes")}
