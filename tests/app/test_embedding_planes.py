from __future__ import annotations

import numpy as np
import pytest
import tifffile

from spoco_bundle.app import embedding_planes as module
from spoco_bundle.app.config import find_config, read_configs, shipped_weights
from spoco_bundle.app.embedding_planes import embedding_planes
from spoco_bundle.app.model_config import model_overlay
from spoco_bundle.formats import read_image
from spoco_bundle.networks import load_weights


@pytest.mark.parametrize(("diameter", "side", "mask"), [(None, 64, None), (52.4, 64, "_fg"), (26.2, 128, None)])
def test_the_network_looks_at_the_resolution_of_the_prediction(diameter, side, mask, tmp_path, monkeypatch):
    """Discs of 52 pixels, where the weights learnt 13.1."""
    y, x = np.mgrid[:256, :256]
    image = np.random.default_rng(0).normal(12, 2, (256, 256))
    for row, column in np.ndindex(3, 3):
        image += 120 / (1 + np.exp((np.hypot(y - 45 - 80 * row, x - 45 - 80 * column) - 26) / 2))
    tifffile.imwrite(tmp_path / "a.tif", image.clip(0, 255).astype(np.uint8))
    if mask:
        tifffile.imwrite(tmp_path / "a_fg.tif", (image > 60).astype(np.uint8))
    ids = {"ckpt_dir": str(shipped_weights(2)), "diameter": diameter, "foreground_ending": mask}
    parser = read_configs([find_config("inference"), *model_overlay("", 2)], ids)
    load_weights(parser.get_parsed_content("network"), shipped_weights(2) / "model.pt").eval()
    shapes, colours = [], module._colours
    monkeypatch.setattr(module, "_colours", lambda image, *rest: shapes.append(image.shape) or colours(image, *rest))
    planes = embedding_planes(read_image(tmp_path / "a.tif", "image", 2), np.ones((256, 256), np.int32), parser)
    assert shapes[0][1:] == pytest.approx((side, side), rel=0.1)
    assert planes[0][1].shape == (256, 256, 3)
