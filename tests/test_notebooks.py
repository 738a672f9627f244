"""The notebooks: stored bare, install the program where it is missing, and run from their first cell to their last."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from spoco_bundle.dataset.datalist import build_datalist
from spoco_bundle.dataset.synthetic import make_synthetic_sample
from spoco_bundle.formats import read_image

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
#: values of the parameters cell that make a run short
SHORT = {
    "nuclei_3d": {"epochs": 1, "iterations": 2, "crop_size": [8, 32, 32], "sample_images": 2},
    "cells_2d": {"epochs": 1, "iterations": 2, "sample_images": 2},
}
needs_a_kernel = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("nbclient", "ipykernel", "ipywidgets"))),
    reason="needs the extra 'notebooks'",
)


def cell(book: dict, name: str) -> str:
    (found,) = [cell for cell in book["cells"] if cell["id"] == name]
    return "".join(found["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_bare(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"], book["metadata"]["kernelspec"]["name"]) == (4, 5, "python3")
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"]) <= 16
    assert [cell["id"] for cell in book["cells"] if "parameters" in cell["metadata"].get("tags", [])] == ["parameters"]
    for part in book["cells"]:
        assert part["cell_type"] in ("markdown", "code") and "".join(part["source"]).strip()
        if part["cell_type"] == "code":
            assert part["outputs"] == [] and part["execution_count"] is None, part["id"]
            compile("".join(part["source"]), f"{path.name}:{part['id']}", "exec")


def test_there_is_a_notebook_for_volumes_and_one_for_flat_images():
    assert {path.stem for path in NOTEBOOKS} == set(SHORT)


@pytest.fixture
def installed(monkeypatch) -> list[list[str]]:
    """Commands that a notebook starts where the package cannot be imported."""
    commands: list[list[str]] = []
    monkeypatch.setitem(sys.modules, "spoco_bundle", None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    return commands


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_program_is_installed_from_the_checkout_around_the_notebook(path, installed, monkeypatch):
    for folder in (path.parent, ROOT):
        monkeypatch.chdir(folder)
        exec(cell(json.loads(path.read_text(encoding="utf-8")), "install"), {})
    assert installed == [[sys.executable, "-m", "pip", "install", "--quiet", str(ROOT)]] * 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_away_from_a_checkout_the_program_is_asked_for_or_installed_from_where_it_is_said_to_be(
    path, installed, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    source = cell(json.loads(path.read_text(encoding="utf-8")), "install")
    with pytest.raises(RuntimeError, match="Upload .* SOURCE in this cell"):
        exec(source, {})
    assert installed == []
    exec(source.replace('SOURCE = ""', 'SOURCE = "bundle.whl"', 1), {})
    assert [command[-1] for command in installed] == ["bundle.whl"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_installed_program_is_left_as_it_is(path, monkeypatch):
    # what is imported for the first time may start commands of its own
    importlib.import_module("spoco_bundle.app.segmentation")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("installs what is there"))
    exec(cell(json.loads(path.read_text(encoding="utf-8")), "install"), {})


@pytest.fixture(autouse=True)
def no_settings_of_others(tmp_path, monkeypatch):
    """Neither the settings of whoever runs the tests count, nor are files left in that person's folders."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))


def run_notebook(path: Path, folder: Path, **settings) -> dict:
    """Runs a notebook in a folder, with other values in its parameters cell; returns it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: for an error in a cell; its message holds the cell and the traceback.
    """
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    (parameters,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    known: dict = {}
    exec(parameters.source, {}, known)
    assert settings.keys() <= known.keys()
    parameters.source = "\n".join(f"{name} = {value!r}" for name, value in (known | settings).items())
    return NotebookClient(book, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()


@pytest.mark.slow
@needs_a_kernel
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    book = run_notebook(path, tmp_path, **SHORT[path.stem])
    work = tmp_path / "outputs" / path.stem
    dims = 3 if path.stem == "nuclei_3d" else 2

    outputs = [output for part in book.cells if part.cell_type == "code" for output in part.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    drawn = [read_image(pair["label"], "label", dims).array for pair in build_datalist(work / "data", "train")]
    assert len(drawn) == 2 and all(array.any() for array in drawn)

    images = [Path(pair["image"]) for pair in build_datalist(work / "data", "val")]
    for image in images:
        name, suffix = image.name.split(".", 1)
        labels = read_image(work / "results" / f"{name}_instances.{suffix}", "label", dims)
        assert labels.array.shape == read_image(image, spatial_dims=dims).array.shape
    with open(work / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [*(image.name.split(".")[0] for image in images), "all"]
    assert all(0 <= float(row[key]) <= 1 for row in rows for key in ("ap_50", "sbd"))


@pytest.mark.slow
@needs_a_kernel
def test_a_folder_of_ones_own_takes_the_place_of_the_sample(tmp_path):
    own = tmp_path / "mydata"
    make_synthetic_sample(own, train_volumes=1, train_shape=(10, 40, 40), val_shape=(10, 40, 48))
    settings = {**SHORT["nuclei_3d"], "data": "mydata", "spacing": [1.0, 0.4, 0.4], "val_complete": False}
    run_notebook(ROOT / "docs" / "notebooks" / "nuclei_3d.ipynb", tmp_path, **settings)
    work = tmp_path / "outputs" / "nuclei_3d"
    assert not (work / "data").exists()
    assert {path.name for path in (work / "results").iterdir()} == {
        "field_a_raw_instances.nii.gz",
        "field_b_raw_instances.ome.tif",
    }
    assert (work / "scores.csv").read_text().startswith("image,recall_50,annotated_sbd\nfield_a_raw,")


@pytest.mark.slow
@needs_a_kernel
def test_a_failure_in_a_cell_is_shown(tmp_path):
    from nbclient.exceptions import CellExecutionError

    with pytest.raises(CellExecutionError, match="(?s)build_datalist.*missing: no such folder"):
        run_notebook(NOTEBOOKS[0], tmp_path, data="missing")
