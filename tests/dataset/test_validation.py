from __future__ import annotations

import json

import pytest

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import validation_split


@pytest.mark.parametrize(
    ("folders", "split"),
    [
        (["train"], "train"),
        (["train", "val"], "val"),
        (["imagesTr", "labelsTr"], "train"),
        (["imagesTr", "labelsTr", "imagesVal", "labelsVal"], "val"),
        (["imagesTr", "labelsTr", "imagesTs", "labelsTs"], "val"),
        (["imagesTr", "labelsTr", "imagesTs"], "train"),  # to be predicted
        ([], "train"),
    ],
)
def test_a_folder_validates_on_images_of_their_own_where_there_are_any(folders, split, tmp_path):
    for name in folders:
        (tmp_path / name).mkdir()
    assert validation_split(tmp_path) == split


@pytest.mark.parametrize(
    ("content", "split"),
    [
        ({"training": [{}]}, "train"),
        ({"training": [{}], "validation": []}, "train"),
        ({"val": [{}]}, "val"),
        ([], "train"),
    ],
)
def test_so_does_a_datalist(content, split, tmp_path):
    file = tmp_path / "list.json"
    file.write_text(json.dumps(content))
    assert validation_split(str(file)) == split


def test_a_datalist_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SpocoError, match="gone.json: is no readable datalist"):
        validation_split(tmp_path / "gone.json")
