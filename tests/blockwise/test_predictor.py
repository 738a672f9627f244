from __future__ import annotations

import pytest

from spoco_bundle.blockwise.predictor import BlockwisePredictor
from spoco_bundle.core.errors import SpocoError


def test_what_blocks_cannot_do_is_refused(tmp_path):
    needed = dict.fromkeys(("network", "inferer", "clustering", "normalize"))
    for option, words in (("diameter", "--blockwise False"), ("target_spacing", "resample the image first")):
        value = 12.0 if option == "diameter" else (1.0, 1.0, 1.0)
        with pytest.raises(SpocoError, match=f"{option}.*{words}"):
            BlockwisePredictor([], tmp_path, weights="model.pt", **needed, **{option: value})
