"""Segments a folder of images with a StarDist model that `stardist_baseline.py` has trained, to compare the time.

It runs in StarDist's own environment (see there); `benchmark_predict.py` calls it:

    stardist/bin/python scripts/stardist_predict.py IMAGES --model found --output segmented --threads 2

Large images are cut into as many tiles as StarDist itself proposes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf
import tifffile
from csbdeep.utils import normalize
from stardist.models import StarDist2D, StarDist3D


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of NAME.tif")
    parser.add_argument("--model", type=Path, required=True, help="the --output of stardist_baseline.py")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    paths = sorted(arguments.images.glob("*.tif"))
    if not paths:
        raise SystemExit(f"{arguments.images} holds no NAME.tif; give a folder of images")
    model = None
    arguments.output.mkdir(parents=True, exist_ok=True)
    for path in paths:
        image = normalize(tifffile.imread(path), 1, 99.8).astype(np.float32)
        if model is None:
            model = (StarDist3D if image.ndim == 3 else StarDist2D)(None, "model", basedir=str(arguments.model))
        labels, _ = model.predict_instances(image, n_tiles=model._guess_n_tiles(image))
        tifffile.imwrite(arguments.output / path.name, labels.astype(np.int32), compression="zlib")


if __name__ == "__main__":
    main()
