from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from spoco_bundle.app.config import find_config, read_configs
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.transforms import KeepInstanceFractiond


def volume(path: str = "/data/a/embryo_label.tif", instances: int = 40) -> MetaTensor:
    label = torch.arange(instances + 1).repeat_interleave(3).reshape(1, 1, 1, -1) * 7
    return MetaTensor(label, meta={"filename_or_obj": path})


def kept(label: torch.Tensor) -> set[int]:
    return set(label.unique().tolist()) - {0}


def test_keeps_the_fraction_and_nothing_else():
    before = volume()
    after = KeepInstanceFractiond("label", fraction=0.25)({"label": before})["label"]
    assert len(kept(after)) == 10
    assert kept(after) <= kept(before)
    assert torch.equal(after[after > 0], before[after > 0])
    assert after.dtype == before.dtype and after.meta["filename_or_obj"] == before.meta["filename_or_obj"]
    assert len(kept(before)) == 40, "the input was changed in place"


@pytest.mark.parametrize("path", ["/elsewhere/embryo_label.tif", "C:\\x\\embryo_label.ome.tiff", "embryo_label.nii.gz"])
def test_choice_depends_on_the_base_name_alone(path):
    thin_out = KeepInstanceFractiond("label", fraction=0.25)
    assert kept(thin_out({"label": volume(path)})["label"]) == kept(thin_out({"label": volume()})["label"])


def test_choice_depends_on_name_and_seed():
    first = kept(KeepInstanceFractiond("label", 0.25)({"label": volume()})["label"])
    assert first != kept(KeepInstanceFractiond("label", 0.25)({"label": volume("other_label.tif")})["label"])
    assert first != kept(KeepInstanceFractiond("label", 0.25, seed=1)({"label": volume()})["label"])


def test_choice_is_pinned():
    assert sorted(kept(KeepInstanceFractiond("label", 0.1)({"label": volume()})["label"])) == [56, 77, 154, 196]


def test_smaller_fractions_are_nested():
    sets = [kept(KeepInstanceFractiond("label", f)({"label": volume()})["label"]) for f in (0.05, 0.1, 0.5, 1.0)]
    assert sets[0] < sets[1] < sets[2] < sets[3]


def test_minimum_and_special_ids():
    label = MetaTensor(torch.tensor([[0, 1, 2, 3, 9, 255]]))
    rule = KeepInstanceFractiond("label", 0.0, minimum=1, ignore_label=255, background_label=9)
    left = kept(rule({"label": label})["label"])
    assert {9, 255} < left and len(left) == 3
    assert kept(KeepInstanceFractiond("label", 0.0, minimum=5)({"label": torch.tensor([[0, 4]])})["label"]) == {4}
    empty = torch.zeros(1, 3, dtype=torch.int32)
    assert torch.equal(KeepInstanceFractiond("label", 0.5)({"label": empty})["label"], empty)


def test_fraction_out_of_range():
    with pytest.raises(SpocoError, match="fraction"):
        KeepInstanceFractiond("label", fraction=25)


def test_what_is_left_out_may_become_another_label():
    plain, hidden = (KeepInstanceFractiond("label", 0.25, hidden_label=label) for label in (None, -1))
    before, after = plain({"label": volume()})["label"], hidden({"label": volume()})["label"]
    assert torch.equal(after, before.where((before > 0) | (volume() == 0), -1))


@pytest.mark.parametrize(("supervision", "hidden"), [("dense", -1), ("sparse", None)])
def test_what_is_hidden_is_no_background_where_supervision_is_dense(supervision, hidden):
    parser = read_configs([find_config(name) for name in ("train", "evaluate", "tune")], {"supervision": supervision})
    for transform in ("read_annotation", "keep_annotated"):
        assert parser.get_parsed_content(f"{transform}#hidden_label") == hidden
