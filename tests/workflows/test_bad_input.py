"""Bad input of every kind ends in exit code 2 and one line that names the file, the value and the remedy."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from contextlib import contextmanager

import numpy as np
import pytest
import tifffile
from fire.parser import DefaultParseValue
from monai.bundle import run as run_bundle

from bad_input import CASES, FAMILIES, Workshop
from spoco_bundle.cli import main
from support import run_python

NOBODY = 65534
RESULTS = ("*_instances*", "*_objects*", "model.pt", "last.pt")


@contextmanager
def rights(as_user):
    """Those of an ordinary user, whom permissions bind, where that is asked for."""
    if os.geteuid() or not as_user:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def workshop(tmp_path, sample, trained, tiny_overlay):
    for folder in {
        folder for made in (tmp_path / "x", sample / "x", trained / "x", tiny_overlay) for folder in made.parents
    }:
        if "pytest" in str(folder):
            folder.chmod(0o755)
    tmp_path.chmod(0o777)
    yield Workshop(tmp_path, sample, trained)
    for folder in [path for path in tmp_path.rglob("*") if path.is_dir() and not path.is_symlink()]:
        folder.chmod(0o755)


def completed(case, workshop, tiny_overlay):
    """The command line of a case with tiny settings and an output folder."""
    command, source, *more = (str(part) for part in case.make(workshop))
    if "--output" not in more:
        more += ["--output", str(workshop.folder / "out")]
    if command == "train":
        if "--config" in more:
            more[more.index("--config") + 1] = f"{tiny_overlay},{more[more.index('--config') + 1]}"
        else:
            more += ["--config", str(tiny_overlay)]
    elif "--model" not in more:
        more += ["--model", str(workshop.trained)]
    return [command, source, *more, *([] if "--device" in more else ["--device", "cpu"])]


def spoco(arguments, monkeypatch, capfd):
    """Runs the console script in this process; returns its exit code and its error stream."""
    monkeypatch.setattr(sys, "argv", ["spoco", *arguments])
    capfd.readouterr()
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except Exception:
        code = 1
        traceback.print_exc()
    return code, capfd.readouterr().err


def left_behind(folder):
    """Results under their final names; blocks that are done wait under another one for the next run."""
    found = [path.name for pattern in RESULTS for path in (folder / "out").rglob(pattern)]
    return sorted(name for name in found if not name.endswith(".partial"))


def bundle_run(arguments, bundle_root, monkeypatch, capfd):
    """The same through MONAI, in this process; returns the exit code and the error stream it would have."""
    command, source, *rest = arguments
    options, values = {}, [*rest, "--"]
    for name, value in zip(values, values[1:]):
        if name.startswith("--") and name != "--":
            options[name[2:]] = True if value.startswith("--") else DefaultParseValue(value)
    overlays = str(options.pop("config", "")).split(",")
    output, model = str(options.pop("output")), options.pop("model", None)
    files = {"train": ["train"], "predict": ["inference"], "evaluate": ["train", "evaluate"]}[command]
    files = (
        ["inference", "inference_blockwise"]
        if command == "predict" and os.path.isdir(source) and source.endswith(".zarr")
        else files
    )
    files = [bundle_root / "configs" / f"{name}.json" for name in files]
    files[1:1] = [f"{model}/model.json"] if model else []
    files += [overlay for overlay in overlays if overlay]
    folders = {"output_dir": output, "ckpt_dir": str(model) if model else output}
    if options.get("resume") is True:
        options["resume"] = "last"
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    capfd.readouterr()
    try:
        run_bundle(
            config_file=[str(file) for file in files],
            meta_file=str(bundle_root / "configs" / "metadata.json"),
            logging_file=False,
            **{"dataset_dir": source, **folders, **options},
        )
        code = 0
    except Exception:
        code = 1
        sys.excepthook(*sys.exc_info())
    return code, capfd.readouterr().err


def through_monai():
    """All cases, of which CI takes the first of each family that MONAI ends in a way of its own."""
    for family in FAMILIES:
        met = set()
        for case in family:
            marks = [pytest.mark.endurance] if case.bundle in met else []
            met.add(case.bundle)
            yield pytest.param(case, id=case.name.replace(" ", "_"), marks=marks)


def last_line(stderr):
    return stderr.rstrip("\n").splitlines()[-1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_bad_input_ends_with_one_line(case, workshop, tiny_overlay, monkeypatch, capfd):
    monkeypatch.chdir(workshop.folder)
    arguments = completed(case, workshop, tiny_overlay)
    with rights(case.as_user):
        code, stderr = spoco(arguments, monkeypatch, capfd)
    assert code == 2, stderr
    assert "Traceback" not in stderr
    last = last_line(stderr)
    assert last.startswith("spoco: ")
    assert stderr.count("spoco: ") == 1
    for word in case.words:
        assert word in last
    assert left_behind(workshop.folder) == []
    assert not (workshop.folder / "ran").exists(), "the checkpoint ran code"


@pytest.mark.parametrize("case", list(through_monai()))
def test_bad_input_ends_with_the_same_line_through_monai(case, workshop, tiny_overlay, bundle_root, monkeypatch, capfd):
    monkeypatch.chdir(workshop.folder)
    arguments = completed(case, workshop, tiny_overlay)
    with rights(case.as_user):
        _, wanted = spoco(arguments, monkeypatch, capfd)
        shutil.rmtree(workshop.folder / "out", ignore_errors=True)
        code, stderr = bundle_run(arguments, bundle_root, monkeypatch, capfd)
    if case.bundle == "accepts":
        assert code == 0
        return
    assert code == 1
    if case.bundle == "same":
        assert last_line(stderr) == last_line(wanted)
    elif case.bundle == "own":
        assert last_line(stderr).startswith("spoco: ")
    assert left_behind(workshop.folder) == []
    assert not (workshop.folder / "ran").exists(), "the checkpoint ran code"


def test_the_table_is_long_enough_and_names_each_case_once():
    names = [case.name for case in CASES]
    assert len(names) >= 60
    assert len(set(names)) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("door", ["spoco", "monai"])
def test_fresh_processes_end_the_same_way(door, workshop, bundle_root):
    image = workshop.cut(workshop.tif("cut.tif", workshop.volume()))
    model, out = workshop.trained, workshop.folder / "out"
    if door == "spoco":
        arguments = ["-m", "spoco_bundle.cli", "predict", image, "--model", model, "--output", out]
    else:
        files = str([str(bundle_root / "configs" / "inference.json"), str(model / "model.json")])
        arguments = ["-m", "monai.bundle", "run", "--config_file", files, "--dataset_dir", image, "--ckpt_dir", model]
        arguments += ["--output_dir", out, "--meta_file", bundle_root / "configs" / "metadata.json"]
    result = run_python(arguments, cwd=workshop.folder)
    assert result.returncode == (2 if door == "spoco" else 1)
    last = last_line(result.stderr)
    assert last.startswith(f"spoco: {image}: cannot be read as TIFF") and "export it again" in last
    assert ("Traceback" in result.stderr) == (door == "monai")
    assert left_behind(workshop.folder) == []


def test_a_batch_goes_on_with_the_good_images(workshop, monkeypatch, capfd):
    w = workshop
    w.cut(w.tif("batch/a.tif", w.volume()))
    w.tif("batch/b.tif", w.volume())
    w.write("batch/c.nii.gz", "")
    w.nifti("batch/d.nii.gz", w.volume())
    arguments = ["predict", str(w.folder / "batch"), "--model", str(w.trained), "--output", str(w.folder / "out")]
    code, stderr = spoco(arguments, monkeypatch, capfd)
    assert code == 2 and "Traceback" not in stderr
    *_, heading, first, second, last = stderr.rstrip("\n").splitlines()
    assert heading.startswith("2 of 4 images")
    assert "a.tif: cannot be read" in first and "c.nii.gz: is empty" in second
    assert last.startswith("spoco: 2 of 4 images") and "a.tif" in last and "c.nii.gz" in last
    names = sorted(path.name for path in (w.folder / "out").glob("*_*"))
    assert names == ["b_instances.tif", "b_objects.csv", "d_instances.nii.gz", "d_objects.csv"]


def test_an_evaluation_goes_on_with_the_good_images(workshop, monkeypatch, capfd):
    w = workshop
    data = w.data(image=np.zeros_like(w.volume()), split="val")
    arguments = ["evaluate", str(data), "--model", str(w.trained), "--output", str(w.folder / "out")]
    code, stderr = spoco(arguments, monkeypatch, capfd)
    assert code == 2
    assert "a_raw.tif: every voxel is 0" in last_line(stderr) and "the other 1 of 2 images are done" in last_line(
        stderr
    )
    rows = (w.folder / "out" / "scores.csv").read_text().splitlines()
    assert len(rows) == 2 and rows[1].startswith("b_raw.tif")


def predicted(workshop, source, monkeypatch, capfd):
    arguments = ["predict", str(source), "--model", str(workshop.trained), "--output", str(workshop.folder / "out")]
    code, stderr = spoco(arguments, monkeypatch, capfd)
    assert code == 0, stderr
    (found,) = (workshop.folder / "out").glob("*_instances*")
    return tifffile.imread(found)


@pytest.mark.parametrize("shape", [(7, 13, 9), (2, 3, 3), (2, 2, 2), (9, 1, 33), (9, 33, 1), (3, 70, 5)])
def test_volumes_of_odd_and_small_sizes_get_their_result(shape, workshop, monkeypatch, capfd):
    source = workshop.tif(
        "small.tif", np.arange(np.prod(shape), dtype=np.uint16).reshape(shape), metadata={"axes": "ZYX"}
    )
    assert predicted(workshop, source, monkeypatch, capfd).size == np.prod(shape)


@pytest.mark.parametrize(
    "name", ["zwei zellen.tif", "Zellkörper 細胞.tif", "-dash.tif", "a'b\"c.tif", "[1] (copy).tif"]
)
def test_any_name_is_fine(name, workshop, monkeypatch, capfd):
    source = workshop.tif(f"ein ordner/{name}", workshop.volume())
    assert predicted(workshop, source, monkeypatch, capfd).shape == (8, 24, 28)


def test_links_are_followed(workshop, monkeypatch, capfd):
    real = workshop.tif("elsewhere/real.tif", workshop.volume())
    link = workshop.folder / "link.tif"
    link.symlink_to(real)
    predicted(workshop, link, monkeypatch, capfd)
    assert (workshop.folder / "out" / "link_instances.tif").is_file()
    assert [path.name for path in real.parent.iterdir()] == ["real.tif"]


def test_training_on_crops_larger_than_the_volumes_with_large_ids(workshop, tiny_overlay, monkeypatch, capfd):
    labels = workshop.labels().astype(np.uint32)
    labels[labels == 2] = 2**31 - 1
    labels[labels == 1] = 70_000
    data = workshop.data(label=labels)
    arguments = ["train", str(data), "--output", str(workshop.folder / "out"), "--config", str(tiny_overlay)]
    code, stderr = spoco([*arguments, "--crop_size", "[32,40,40]", "--max_epochs", "1"], monkeypatch, capfd)
    assert code == 0, stderr
    assert (workshop.folder / "out" / "model.pt").is_file()
