"""Volumes in blocks: the same result as in one piece, from any interruption, on any scheduler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import nibabel
import numpy as np
import psutil
import pytest
import tifffile
import zarr

from door import run_warm
from spoco_bundle.dataset.synthetic import SPACING, synthetic_volume
from support import run_python

BLOCKS = ["--block_size", "[16,32,32]", "--chunk_size", "[16,32,32]"]


def spoco(*arguments, cwd, **environment):
    result = run_warm(["-m", "spoco_bundle.cli", *arguments], cwd=cwd, **environment)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout + result.stderr


def labels_of(path):
    return zarr.open_array(str(path / "0"), mode="r")[:]


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory):
    """Crowded nuclei, as OME-Zarr, TIFF and NIfTI of the same voxels."""
    folder = tmp_path_factory.mktemp("nuclei")
    image, _ = synthetic_volume(np.random.default_rng(0), (24, 72, 80))
    group = zarr.open_group(str(folder / "nuclei.ome.zarr"), mode="w", zarr_format=2)
    zarr.create_array(
        str(folder / "nuclei.ome.zarr" / "0"), shape=image.shape, chunks=(8, 32, 32), dtype=image.dtype, zarr_format=2
    )[:] = image
    scale = {"type": "scale", "scale": list(SPACING)}
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    dataset = {"path": "0", "coordinateTransformations": [scale]}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [dataset]}]
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", SPACING)}
    tifffile.imwrite(
        folder / "stack.ome.tif", image, ome=True, photometric="minisblack", metadata={"axes": "ZYX", **sizes}
    )
    volume = nibabel.Nifti1Image(image.T, np.diag([-0.8, -0.8, 2.0, 1.0]))
    volume.header.set_xyzt_units("micron")
    nibabel.save(volume, folder / "scan.nii.gz")
    return folder


@pytest.fixture(scope="module")
def whole(nuclei, tmp_path_factory):
    """Labels and table of the volume in one piece."""
    folder = tmp_path_factory.mktemp("whole")
    said = spoco("predict", nuclei / "stack.ome.tif", "--output", folder, cwd=folder)
    assert "free memory as a whole, goes in one piece" in said
    labels = tifffile.imread(folder / "stack_instances.ome.tif")
    assert labels.max() > 10
    return labels, (folder / "stack_objects.csv").read_text()


@pytest.mark.slow
def test_blocks_give_the_labels_and_the_table_of_the_whole(nuclei, whole, tmp_path):
    said = spoco("predict", nuclei / "nuclei.ome.zarr", "--output", "out.ome.zarr", *BLOCKS, cwd=tmp_path)
    assert "18 blocks of 16 x 32 x 32" in said and "GiB of memory" in said
    labels, table = whole
    found = labels_of(tmp_path / "out.ome.zarr")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, labels)
    ours, theirs = (
        np.genfromtxt(text.splitlines(), delimiter=",", names=True, dtype=None, encoding=None)
        for text in ((tmp_path / "out_objects.csv").read_text(), table)
    )
    assert ours.dtype.names == theirs.dtype.names
    for name in ours.dtype.names:
        if ours[name].dtype.kind == "f":
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4 if name != "confidence" else 1e-2)
        else:
            np.testing.assert_array_equal(ours[name], theirs[name])
    attributes = json.loads((tmp_path / "out.ome.zarr" / ".zattrs").read_text())
    steps = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert steps == [{"type": "scale", "scale": list(SPACING)}] and "image-label" in attributes
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.ome.zarr", "out_objects.csv", "out_run.json"]


@pytest.mark.slow
def test_files_go_blockwise_where_memory_is_short_and_keep_their_format(nuclei, whole, tmp_path):
    small = ["--window_size", "[48,96,96]", "--largest_block", "[32,64,64]", "--chunk_size", "[16,32,32]"]
    said = spoco("predict", nuclei / "*.*i*", "--output", "out", "--max_memory", "1.3GiB", *small, cwd=tmp_path)
    assert said.count("blocks of") == 2
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "stack_instances.ome.tif"), whole[0])
    before, after = (
        nibabel.load(path) for path in (nuclei / "scan.nii.gz", tmp_path / "out" / "scan_instances.nii.gz")
    )
    np.testing.assert_allclose(after.affine, before.affine)
    assert after.get_data_dtype() == np.uint16
    np.testing.assert_array_equal(np.asarray(after.dataobj).T, whole[0])


@pytest.mark.slow
def test_a_size_is_taken_in_blocks_as_in_one_piece(nuclei, tmp_path):
    size = ["--diameter", "28"]
    spoco("predict", nuclei / "stack.ome.tif", "--output", "whole", *size, cwd=tmp_path)
    said = spoco("predict", nuclei / "nuclei.ome.zarr", "--output", "out.ome.zarr", *BLOCKS, *size, cwd=tmp_path)
    assert "objects are 28 pixels across as you say" in said and "24 x 72 x 80 voxels in 18 blocks" in said
    expected = tifffile.imread(tmp_path / "whole" / "stack_instances.ome.tif")
    assert expected.max() > 5
    np.testing.assert_array_equal(labels_of(tmp_path / "out.ome.zarr"), expected)


def started(nuclei, folder, *options):
    """A prediction at work in a process of its own, once it has finished two blocks and before it has finished all."""
    command = [
        sys.executable,
        "-m",
        "spoco_bundle.cli",
        "predict",
        nuclei / "nuclei.ome.zarr",
        "--output",
        "out.ome.zarr",
    ]
    process = subprocess.Popen(
        list(map(str, [*command, *BLOCKS, *options])), cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 200
    while len(list(folder.glob("out.ome.zarr.partial/label/*/*.npz"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same_labels(nuclei, whole, tmp_path):
    process = started(nuclei, tmp_path)
    process.kill()
    process.wait()
    assert not (tmp_path / "out.ome.zarr").exists()
    records = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out.ome.zarr.partial/label/*/[0-9]*.npz")}
    command = ["predict", nuclei / "nuclei.ome.zarr", "--output", "out.ome.zarr"]
    other = run_warm(["-m", "spoco_bundle.cli", *command, *BLOCKS, "--stitch_share", "0.4"], cwd=tmp_path)
    assert other.returncode == 2 and "unfinished run with another stitching" in other.stderr
    assert records == {path: path.stat().st_mtime_ns for path in records}
    said = spoco(*command, "--chunk_size", "[16,32,32]", cwd=tmp_path)
    assert f"({len(records)} already finished)" in said
    np.testing.assert_array_equal(labels_of(tmp_path / "out.ome.zarr"), whole[0])
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.ome.zarr", "out_objects.csv", "out_run.json"]


@pytest.mark.slow
def test_killed_workers_cost_their_blocks_only(nuclei, whole, tmp_path):
    process = started(nuclei, tmp_path, "--scheduler", "processes", "--workers", "2")
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    workers[0].kill()
    assert process.wait(300) == 0
    np.testing.assert_array_equal(labels_of(tmp_path / "out.ome.zarr"), whole[0])


@pytest.mark.slow
def test_through_monai_on_local_processes(nuclei, whole, bundle_root, tmp_path):
    configs = [str(bundle_root / "configs" / f"{name}.json") for name in ("inference", "inference_blockwise")]
    arguments = ["-m", "monai.bundle", "run", "--config_file", str(configs)]
    arguments += ["--bundle_root", bundle_root, "--dataset_dir", nuclei / "nuclei.ome.zarr", "--output_dir", "out"]
    result = run_python([*arguments, *BLOCKS, "--scheduler", "processes", "--workers", "2"], cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    np.testing.assert_array_equal(labels_of(tmp_path / "out" / "nuclei_instances.ome.zarr"), whole[0])
