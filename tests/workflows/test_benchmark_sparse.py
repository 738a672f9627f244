"""The benchmark of annotated objects against score: rows, tables, what other programs learn from."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
import tifffile
from monai.data import MetaTensor

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist
from spoco_bundle.formats import read_image
from spoco_bundle.transforms import KeepInstanceFractiond
from support import TINY


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("benchmark_sparse")


@pytest.fixture
def tiny(script, monkeypatch):
    """A data set of the name "tiny" that is trained with tiny settings."""
    for name in ("default", "no_consistency"):
        monkeypatch.setitem(script.VARIANTS, name, {**script.VARIANTS[name], **TINY})
    monkeypatch.setattr(script, "FOREGROUND_GIVEN", ("tiny",))
    return "tiny"


@pytest.fixture
def tiff_sample(sample, tmp_path):
    """The sample as NAME_raw.tif and NAME_label.tif."""
    for split in ("train", "val"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for pair in build_datalist(sample, split):
            for kind in ("image", "label"):
                array = read_image(pair[kind], kind).array[0]
                name = "_raw" if kind == "image" else "_label"
                stem = pair["label"].rsplit("/", 1)[1].split("_label")[0]
                tifffile.imwrite(tmp_path / "data" / split / f"{stem}{name}.tif", array.astype(np.uint16))
    return tmp_path / "data"


def objects(folder):
    return sum(int((np.unique(tifffile.imread(file)) > 0).sum()) for file in sorted(folder.glob("*_label.tif")))


def test_other_programs_learn_from_the_same_objects(script, tiny, tiff_sample, tmp_path):
    script.write_thinned(tiff_sample, 0.5, 3, tmp_path / "thinned")
    kept = objects(tmp_path / "thinned" / "train")
    assert kept == script.count_objects(tiff_sample, 0.5, 3) < objects(tiff_sample / "train")
    chosen = KeepInstanceFractiond(keys="label", fraction=0.5, seed=3)
    for pair in build_datalist(tiff_sample, "train"):
        label = MetaTensor(
            read_image(pair["label"], "label").array.astype(int), meta={"filename_or_obj": pair["label"]}
        )
        name = pair["label"].rsplit("/", 1)[1]
        np.testing.assert_array_equal(
            tifffile.imread(tmp_path / "thinned/train" / name), chosen({"label": label})["label"][0]
        )
        assert (tmp_path / "thinned/train" / name.replace("_label", "_raw")).resolve().is_file()


def test_what_another_program_found_is_scored(script, tiny, tiff_sample, tmp_path):
    found = tmp_path / "found"
    found.mkdir()
    for pair in build_datalist(tiff_sample, "val"):
        truth = tifffile.imread(pair["label"])
        truth[truth == truth.max()] = 0  # one object of each image is not found
        tifffile.imwrite(found / pair["label"].rsplit("/", 1)[1].replace("_label", "_instances"), truth)
    (found / "training.json").write_text(json.dumps({"minutes": 11.2, "iterations": 400, "program": "Other 1.2"}))
    row = json.loads(script.score_row(tiff_sample, tmp_path / "rows", tiny, 0.25, 1, found, "other").read_text())
    true = objects(tiff_sample / "val")
    assert row["scores"]["teacher"]["ap_50"] == pytest.approx((true - 2) / true)
    assert row["scores"]["teacher"]["misses"] == 2 and row["minutes"] == 11.2 and row["variant"] == "other"
    assert row["machine"].endswith("one thread, Other 1.2")
    script.otsu_row(tiff_sample, tmp_path / "rows", tiny)
    rows = script.read_rows(tmp_path / "rows")
    table = script.write_table(rows).splitlines()
    assert len(table) == 4 and table[3].startswith("| tiny | otsu_watershed | 0% | 0 |")
    assert f"| 25% | {row['objects']} | 1 | 400 | 11 | {(true - 2) / true:.2f} |" in table[2]


def test_tables_replace_those_of_a_document(script, tmp_path):
    scores = dict.fromkeys(script.SCORES, 0.5)
    row = {"dataset": "tiny", "fraction": 0.1, "objects": 9, "seed": 0, "iterations": 1, "minutes": 2.0}
    rows = [row | {"variant": name, "scores": {"teacher": scores}} for name in ("default", "wide")]
    document = tmp_path / "document.md"
    document.write_text("a\n<!-- rows curve -->\nold\n<!-- end -->\nb\n<!-- rows ablations -->\n<!-- end -->\nc\n")
    script.fill_tables(rows, document)
    once = document.read_text()
    script.fill_tables(rows, document)
    assert document.read_text() == once and "old" not in once
    curve, ablations = once.split("\nb\n")
    assert "| tiny | default | 10% |" in curve and "wide" not in curve and "| tiny | wide | 10% |" in ablations
    assert once.startswith("a\n") and once.endswith("\nc\n")
    document.write_text("no marks")
    with pytest.raises(SpocoError, match="has no marks"):
        script.fill_tables(rows, document)


def test_curve_of_all_sizes(script, tmp_path):
    scores = {"teacher": {"ap_50": 0.5, "sbd": 0.6}}
    row = {"dataset": "tiny", "variant": "default", "iterations": 9, "scores": scores}
    rows = [row | {"objects": n} for n in (10, 20, 40)]
    script.draw_curve(rows, tmp_path / "curve.png")
    drawn = (tmp_path / "curve.png").read_bytes()
    assert drawn[:4] == b"\x89PNG"
    shorter = row | {"objects": 20, "iterations": 3, "scores": {"teacher": {"ap_50": 0.1, "sbd": 0.1}}}
    script.draw_curve([*rows, shorter], tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == drawn, "the longest training on as many objects is drawn"


def test_trainings_are_drawn_where_they_were_validated(script, tmp_path, monkeypatch):
    row = {"dataset": "tiny", "variant": "default", "seed": 0, "minutes": 10.0, "iterations": 200, "objects": 9}
    drawn = []
    monkeypatch.setattr(script.plt.Axes, "plot", lambda self, x, y, *_, label, **__: drawn.append((x, y, label)))
    rows = [row | {"validations": [[100, 0.5], [200, 0.75]]}, row | {"objects": 20, "validations": []}]
    script.draw_trainings([*rows, rows[0] | {"variant": "wide"}], tmp_path / "trainings.png")
    assert drawn == [([5.0, 10.0], (0.5, 0.75), "9 objects, seed 0")]
    assert (tmp_path / "trainings.png").is_file()


def test_no_rows_are_an_error(script, tmp_path):
    with pytest.raises(SpocoError, match="no rows"):
        script.read_rows(tmp_path)


@pytest.mark.slow
def test_a_row_is_trained_scored_and_not_done_again(script, tiny, tiff_sample, tmp_path):
    arguments = (tiff_sample, tmp_path / "rows", tmp_path / "work", tiny, "no_consistency", 0.5, 0, 0.01)
    file = script.train_row(*arguments)
    row = json.loads(file.read_text())
    folder = tmp_path / "work" / "tiny-no_consistency-50-seed0-0.01min"
    shared = tmp_path / "work" / "tiny-no_consistency-0.01min.json"
    plan = json.loads(shared.read_text())
    assert row["iterations"] == TINY["iterations_per_epoch"] * plan["max_epochs"] and row["minutes"] > 0
    assert row["validations"][-1][0] == row["iterations"]
    assert max(score for _, score in row["validations"]) == pytest.approx(row["scores"]["teacher"]["ap_50"])
    assert set(row["scores"]) == {"teacher", "student", "foreground"}
    assert all(0 <= scores["ap_50"] <= 1 for scores in row["scores"].values())
    ids = json.loads((folder / "model" / "run.json").read_text())["overrides"]
    assert ids["loss#consistency_weight"] == 0 and ids["keep_fraction"] == 0.5
    shared.write_text(json.dumps({"max_epochs": 1, "val_interval": 1}))
    other = json.loads(script.train_row(*arguments[:5], 0.7, *arguments[6:]).read_text())
    assert other["iterations"] == TINY["iterations_per_epoch"], "another fraction is trained for as long"
    before = file.stat().st_mtime_ns
    assert script.train_row(*arguments) == file and file.stat().st_mtime_ns == before
