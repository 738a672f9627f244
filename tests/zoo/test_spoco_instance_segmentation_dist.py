"""The model zoo's unit test of this bundle on several devices: training and evaluation.

It runs on as many GPUs as there are, or as two processes on the CPU.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from test_spoco_instance_segmentation import BUNDLE, NETWORK, TRAINING, make_fake_data


class TestSpocoInstanceSegmentationMGPU(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        make_fake_data(self.folder)

    def tearDown(self):
        shutil.rmtree(self.folder)

    def run_distributed(self, names, override):
        parser = ConfigParser()
        parser.read_config([str(BUNDLE / "configs" / f"{name}.json") for name in names])
        parser.update(pairs=override)
        merged = self.folder / "merged.json"
        ConfigParser.export_config_file(parser.config, str(merged), indent=4)
        processes = torch.cuda.device_count() or 2
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command += ["-m", "monai.bundle", "run", "--config_file", str(merged)]
        command += ["--meta_file", str(BUNDLE / "configs" / "metadata.json")]
        subprocess.check_call(command, env={**os.environ, "PYTHONPATH": str(BUNDLE)})

    def test_train_mgpu_config(self):
        override = {"bundle_root": str(BUNDLE), "dataset_dir": str(self.folder), "output_dir": str(self.folder / "out")}
        override |= {"ckpt_dir": str(self.folder / "model"), **NETWORK, **TRAINING}
        self.run_distributed(["train", "multi_gpu_train"], override)
        weights = torch.load(self.folder / "model" / "model.pt", weights_only=True)
        self.assertFalse(any(name.startswith("module.") for name in weights))

        self.run_distributed(["train", "evaluate", "multi_gpu_evaluate"], override)
        scores = json.loads((self.folder / "out" / "scores.json").read_text())
        self.assertEqual(scores["images"], 2)


if __name__ == "__main__":
    unittest.main()
