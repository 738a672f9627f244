"""Every shipped config of a training trains with the crop that it states; networks are made thin, nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

#: overlays as they are used, one behind the other
TRAININGS = (
    *([], ["demo"], ["fine_tune"], ["pretrained"], ["nonspatial"], ["label"], ["learning_curve"], ["paper"]),
    *(["paper", "paper_ovules"], ["paper", "paper_mitochondria"], ["paper", "paper_cvppp"]),
    ["paper", "paper_cityscapes"],
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Folder of a few boxes in a volume, a flat image and an image in colour."""
    folder = tmp_path_factory.mktemp("images")
    labels = np.zeros((12, 60, 72), np.uint16)
    for number, (y, x) in enumerate(np.ndindex(3, 4), 1):
        labels[3:9, 4 + 18 * y : 14 + 18 * y, 4 + 17 * x : 14 + 17 * x] = number
    image = (np.random.default_rng(0).integers(0, 200, labels.shape) + 1000 * (labels > 0)).astype(np.uint16)
    rgb = np.repeat(image[5, :, :, None] >> 4, 3, axis=-1).astype(np.uint8)
    for kind, raw, truth in (("3d1", image, labels), ("2d1", image[5], labels[5]), ("2d3", rgb, labels[5])):
        for split in ("train", "val"):
            for name, array in (("raw", raw), ("label", truth), ("fg", (truth > 0).astype(np.uint8))):
                path = folder / kind / split / f"a_{name}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, array, photometric="rgb" if array is rgb else "minisblack")
    return folder


def test_every_config_of_a_training_is_tried(bundle_root):
    names = {path.stem for path in (bundle_root / "configs").glob("*.json")}
    others = {"metadata", "train", "evaluate", "tune", "multi_gpu_train", "multi_gpu_evaluate"}
    assert {name for names in TRAININGS for name in names} == {
        name for name in names - others if not name.startswith("inference")
    }


@pytest.mark.parametrize("names", TRAININGS, ids="+".join)
def test_a_shipped_config_trains_with_its_own_crop(names, bundle_root, images, tmp_path):
    train, *others = [bundle_root / "configs" / f"{name}.json" for name in ("train", *names)]
    stated = {"spatial_dims": 3, "in_channels": 1}
    for file in others:
        stated |= json.loads(file.read_text())
    # fine-tuning starts from weights that want their own network
    files = [train, *([bundle_root / "models" / "model.json"] if "fine_tune" in names else []), *others]
    thin = {"channels": [2] * len(stated["channels"])} if "channels" in stated else {}
    workflow = ConfigWorkflow(
        config_file=[str(file) for file in files],
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle_root),
        dataset_dir=str(images / f"{stated['spatial_dims']}d{stated['in_channels']}"),
        ckpt_dir=str(tmp_path),
        output_dir=str(tmp_path),
        checkpoint_dir=str(tmp_path),
        device="cpu",
        batch_size=1,
        **thin,
    )
    workflow.initialize()
    crop = workflow.parser.get_parsed_content("crop_size")
    assert "fine_tune" not in names or crop == [16, 48, 48]
    shapes = []
    trainer = workflow.trainer
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: shapes.append(e.state.output[0]["image"].shape))
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda e: e.terminate())
    trainer.run()
    assert [list(shape[2:]) for shape in shapes] == [crop] and np.isfinite(float(trainer.state.output[0]["loss"]))
