import nibabel
import numpy as np
import pytest
import tifffile
import torch
from scipy.spatial.transform import Rotation

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.itk_io import file_grid
from spoco_bundle.networks import EmbeddingUNet
from spoco_bundle.transforms import HandOutd, LoadServedWeightsd, LoadVolumed, SaveInstancesd

SHAPE = (5, 6, 7)


def affines():
    oblique = np.eye(4)
    oblique[:3, :3] = Rotation.from_euler("xyz", [20, -13, 7], degrees=True).as_matrix() @ np.diag([0.5, 0.7, 2.0])
    oblique[:3, 3] = 3, -4, 9
    lps = np.diag([-0.5, -0.7, 2.0, 1.0])
    lps[:3, 3] = 8, 9, -3
    return {"ras": np.diag([0.5, 0.7, 2.0, 1.0]), "lps": lps, "oblique": oblique}


@pytest.mark.parametrize("name", affines())
def test_the_grid_of_a_nifti_is_its_own(name, tmp_path):
    file = tmp_path / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), affines()[name]), file)
    affine, rank = file_grid(file)
    np.testing.assert_allclose(affine, affines()[name], atol=1e-5)
    assert rank == 3


def test_a_slice_stays_a_slice(tmp_path):
    volume, plane = tmp_path / "a.nii.gz", tmp_path / "b.tif"
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 7, 1), np.uint8), np.eye(4)), volume)
    tifffile.imwrite(plane, np.zeros((7, 6), np.uint8))
    labels = torch.arange(42, dtype=torch.int32).reshape(1, 7, 6)
    for file, shape in ((volume, (6, 7, 1)), (plane, (6, 7))):
        handed = HandOutd()({"pred": labels, "image_path": str(file)})["pred"]
        assert tuple(handed.shape) == shape
        np.testing.assert_array_equal(handed.numpy().reshape(6, 7), labels[0].T)


@pytest.mark.parametrize(("top", "dtype"), [(300, "uint16"), (65535, "uint16"), (65536, "uint32")])
def test_ids_decide_on_the_type_whatever_was_asked_for(top, dtype, tmp_path):
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, np.zeros(SHAPE, np.uint8))
    labels = torch.zeros(1, *SHAPE, dtype=torch.int32)
    labels[0, 1, 2, 3] = top
    sample = HandOutd()({"pred": labels, "image_path": str(file), "result_dtype": "uint8"})
    assert sample["result_dtype"] == dtype
    assert sample["pred"][3, 2, 1] == top


def test_other_workflows_pass_and_served_samples_are_not_saved(tmp_path):
    labels = torch.ones(1, *SHAPE, dtype=torch.int32)
    assert HandOutd()({"pred": labels})["pred"] is labels
    file = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.arange(210, dtype=np.uint8).reshape(5, 6, 7), np.eye(4)), file)
    image = LoadVolumed("image")({"image": str(file)})["image"]
    save = SaveInstancesd(output_dir=tmp_path / "out")
    labels = torch.ones(1, 7, 6, 5, dtype=torch.int32)
    save({"pred": labels, "image": image, "image_path": str(file)})
    assert not (tmp_path / "out").exists()
    save({"pred": labels, "image": image})
    assert (tmp_path / "out" / "a_instances.nii.gz").is_file()


def test_an_image_that_viewers_cannot_read_is_named(tmp_path):
    file = tmp_path / "image.xyz"
    file.write_bytes(b"nothing")
    with pytest.raises(SpocoError, match="image.xyz"):
        file_grid(file)


def test_weights_are_read_for_requests_only_and_strictly(tmp_path):
    settings = {"spatial_dims": 2, "out_channels": 5, "channels": (4, 8), "strides": (2,), "kernel_sizes": (3, 3)}
    trained, network = (EmbeddingUNet(**settings, convolutions=1) for _ in range(2))
    trained.coordinate_scale.fill_(3)
    load = LoadServedWeightsd(network, str(tmp_path))
    load({"image": "a"})
    with pytest.raises(SpocoError, match=r"model\.pt"):
        load({"image": "a", "image_path": "a"})
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    load({"image": "a", "image_path": "a", "model_filename": ["model.pt", "model_student.pt"]})
    assert network.coordinate_scale == 3
    torch.save({"first.weight": torch.ones(1)}, tmp_path / "model_student.pt")
    with pytest.raises(SpocoError, match="another network"):
        load({"image": "a", "image_path": "a", "model_filename": "model_student.pt"})
