"""The model zoo's unit tests of this bundle: training, evaluation and inference.

They belong into the zoo's ``ci/unit_tests`` and run from the zoo's root, where the bundle lies in ``models``.
"""

import csv
import json
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.bundle import create_workflow

BUNDLE = Path("models/spoco_instance_segmentation")

# a network and crops so small that a training takes seconds
NETWORK = {"channels": [4, 8], "strides": [[1, 2, 2]], "kernel_sizes": [[1, 3, 3], 3], "convolutions": [1, 1]}
TRAINING = {"crop_size": [8, 24, 24], "iterations_per_epoch": 4, "max_epochs": 1, "val_interval": 1}


def make_fake_data(folder):
    """Writes two training and two validation volumes of 12 bright boxes; every other box is annotated."""
    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        (folder / part).mkdir()
        for number in range(2):
            image = generator.normal(100, 10, (40, 40, 10)).astype(np.float32)
            label = np.zeros(image.shape, np.uint16)
            for box in range(12):
                x, y = 2 + 13 * (box % 3), 1 + 10 * (box // 3)
                image[x : x + 8, y : y + 7, 2:8] += 100
                label[x : x + 8, y : y + 7, 2:8] = box + 1 if box % 2 == 0 else 0
            for name, array in (("raw", image), ("label", label)):
                nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / part / f"volume{number}_{name}.nii.gz")


class TestSpocoInstanceSegmentation(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        make_fake_data(self.folder)
        sys.path.insert(0, str(BUNDLE))

    def tearDown(self):
        sys.path.remove(str(BUNDLE))
        shutil.rmtree(self.folder)

    def run_workflow(self, kind, names, check_properties=True, **override):
        workflow = create_workflow(
            workflow_type=kind,
            config_file=[str(BUNDLE / "configs" / f"{name}.json") for name in names],
            logging_file=str(BUNDLE / "configs" / "logging.conf"),
            meta_file=str(BUNDLE / "configs" / "metadata.json"),
            bundle_root=str(BUNDLE),
            output_dir=str(self.folder / "out"),
            **override,
        )
        if check_properties:
            self.assertEqual(workflow.check_properties(), [])
        workflow.run()
        workflow.finalize()

    def test_train_eval_config(self):
        places = {"dataset_dir": str(self.folder), "ckpt_dir": str(self.folder / "model")}
        self.run_workflow("train", ["train"], **places, **NETWORK, **TRAINING)
        weights = torch.load(self.folder / "model" / "model.pt", weights_only=True)
        self.assertTrue(all(isinstance(value, torch.Tensor) for value in weights.values()))

        self.run_workflow("eval", ["train", "evaluate"], **places, **NETWORK)
        scores = json.loads((self.folder / "out" / "scores.json").read_text())
        self.assertEqual(scores["images"], 2)

    def test_infer_config(self):
        self.run_workflow("infer", ["inference"], dataset_dir=str(self.folder / "val"))
        for number in range(2):
            instances = nibabel.load(self.folder / "out" / f"volume{number}_raw_instances.nii.gz")
            self.assertEqual(instances.shape, (40, 40, 10))
            with open(self.folder / "out" / f"volume{number}_raw_objects.csv", newline="") as file:
                objects = list(csv.DictReader(file))
            self.assertGreater(len(objects), 0)
            self.assertEqual(len(objects), int(np.asarray(instances.dataobj).max()))


if __name__ == "__main__":
    unittest.main()
