"""Inference on real images: what the outputs say of the grid equals what the inputs say."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import tifffile

from spoco_bundle.formats import read_image
from support import run_python


def predict(source, model, output, *options):
    result = run_python(
        ["-m", "spoco_bundle.cli", "predict", source, "--model", model, "--output", output, *options], cwd=output.parent
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


@pytest.mark.slow
def test_nifti_of_a_brain_keeps_its_affine(shared_dir, trained, tmp_path):
    folder = shared_dir / "data" / "ms_lesions" / "val"
    source = next(iter(sorted(folder.glob("*_FLAIR.nii*"))))
    predict(source, trained, tmp_path / "out", "--clustering#min_size", "1")
    before = nibabel.load(source)
    after = nibabel.load(next((tmp_path / "out").glob("*_instances.nii*")))
    assert after.shape == before.shape
    np.testing.assert_allclose(after.affine, before.affine)
    assert after.header["sform_code"] == before.header["sform_code"]
    assert after.header["qform_code"] == before.header["qform_code"]
    assert after.header.get_xyzt_units() == before.header.get_xyzt_units()
    assert after.get_data_dtype() in (np.uint16, np.uint32)


def test_ome_tiff_of_nuclei_keeps_axes_and_spacing_and_agrees_with_nifti(shared_dir, trained, tmp_path):
    raw = shared_dir / "data" / "bbbc050" / "val" / "train_Emb09_t301_raw.tif"
    image = tifffile.imread(raw)[10:30, 20:84, 20:84]
    spacing = (1.75, 0.8, 0.8)
    ome, nifti = tmp_path / "nuclei.ome.tif", tmp_path / "cells.nii.gz"
    sizes = {f"PhysicalSize{axis}": step for axis, step in zip("ZYX", spacing)}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "ZYX"}
    tifffile.imwrite(ome, image, ome=True, photometric="minisblack", metadata={"axes": "ZYX", **sizes, **units})
    volume = nibabel.Nifti1Image(image.transpose(2, 1, 0), np.diag([0.8, 0.8, 1.75, 1.0]))
    volume.header.set_xyzt_units("micron")
    nibabel.save(volume, nifti)
    predict(tmp_path / "*.*", trained, tmp_path / "out")
    before = read_image(ome)
    after = read_image(tmp_path / "out" / "nuclei_instances.ome.tif", "label")
    assert (after.axes, after.file_format, after.file_unit) == (before.axes, "ome", before.file_unit)
    assert after.spacing == pytest.approx(spacing)
    twin = read_image(tmp_path / "out" / "cells_instances.nii.gz", "label")
    np.testing.assert_array_equal(after.array, twin.array)
