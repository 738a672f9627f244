"""Bad input ends a script with one line; numbers that would be wrong are refused."""

from __future__ import annotations

import importlib
import sys

import benchmark_start
import label_rounds
import numpy as np
import package_zoo
import pytest
import robustness
import tifffile
import zoo_style

from spoco_bundle.dataset.synthetic import make_synthetic_sample


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("robustness none", "none: no such folder"),
        ("robustness data --only x1000", "--only x1000: no change begins so; there are x0.1, x10"),
        ("zoom_table none", "none: no such folder"),
        ("zoom_table data:1,x,1", "data:1,x,1: 1,x,1 is no voxel size"),
        ("tissue_table none", "none: no such folder"),
        ("tissue_table data:spacing", "spacing: gives no value"),
        ("two_magnifications none mixed", "none: no such folder"),
        ("fine_tune none", "none: no such folder"),
        ("failure_pictures none a.png", "none: no such folder"),
        ("classical_baseline none", "none holds no file named"),
    ],
)
def test_bad_input_is_named_in_one_line(command, said, tmp_path, monkeypatch, capsys):
    make_synthetic_sample(tmp_path / "data", 0, 1, (8, 24, 24), (8, 24, 24))
    monkeypatch.chdir(tmp_path)
    name, *words = command.split()
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(name).main()
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"{name}.py: error: ") and said in lines[-1]


@pytest.mark.parametrize("script", ["benchmark_network", "benchmark_start", "benchmark_threads", "robustness"])
def test_a_page_is_looked_at_before_the_work(script, tmp_path, monkeypatch):
    make_synthetic_sample(tmp_path, 0, 1, (8, 24, 24), (8, 24, 24))
    monkeypatch.setattr("subprocess.run", None)
    given = [str(tmp_path), "--card"] if script == "robustness" else ["--page"]
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *given, str(tmp_path / "none.md")])
    with pytest.raises(SystemExit, match="none.md: no such page"):
        importlib.import_module(script).main()


def test_changed_labels_keep_ids_beyond_16_bits(tmp_path):
    (tmp_path / "data" / "val").mkdir(parents=True)
    label = np.zeros((1, 12, 12), np.int32)
    label[:, 2:6, 2:6] = 70000
    tifffile.imwrite(tmp_path / "data" / "val" / "a_raw.tif", np.float32(label[0] > 0))
    tifffile.imwrite(tmp_path / "data" / "val" / "a_label.tif", label[0])
    robustness.write_changed(tmp_path / "data", robustness.changes(2)["x10"], tmp_path / "changed", 2, None)
    assert np.array_equal(tifffile.imread(tmp_path / "changed" / "val" / "a_label.ome.tif"), label[0])


def test_a_command_that_ends_with_another_code_is_not_timed(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit(2)"]
    assert benchmark_start.run(command, tmp_path, 2)[0] > 0
    with pytest.raises(SystemExit, match="exit code 2"):
        benchmark_start.run(command, tmp_path, 0)


def test_a_check_that_fails_without_a_word_is_no_success(tmp_path, monkeypatch):
    assert package_zoo.run(tmp_path, "-c", "import os; os._exit(3)") == "ended with 3, and said nothing"
    (tmp_path / "quiet.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert zoo_style._run(tmp_path, ["quiet"], []) == "ended with 3, and said nothing"
    assert package_zoo.check_files(tmp_path).startswith("LICENSE is missing; configs/metadata.json is missing")


def test_the_worst_objects_are_those_of_the_least_overlap():
    truth, found = np.zeros((1, 4, 12), np.int32), np.zeros((1, 4, 12), np.int32)
    truth[..., :4], truth[..., 4:8], truth[..., 8:] = 3, 5, 9
    found[..., :4], found[..., 4:6], found[..., 6:8] = 1, 2, 7
    assert label_rounds.best_iou(truth, found) == {3: 1.0, 5: 0.5, 9: 0.0}
