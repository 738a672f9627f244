"""Score Otsu threshold + distance-transform watershed on a folder of NAME_raw / NAME_label pairs.

python scripts/classical_baseline.py DATASET/val --spacing 1.75 0.8 0.8
"""

from __future__ import annotations

import argparse
from pathlib import Path

from one_line import one_line_errors

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.files import read_image
from spoco_bundle.metrics import instance_scores, pool_scores
from spoco_bundle.report.classical import otsu_watershed


def score_folder(folder: Path, spatial_dims: int = 3, spacing: list[float] | None = None, **parameters) -> dict:
    """Segment every NAME_raw of a folder classically and score it against NAME_label.

    Args:
        folder: holds the pairs, in any format the bundle reads.
        spatial_dims: 2 or 3.
        spacing: physical voxel size per axis where the files do not say.
        **parameters: those of `otsu_watershed`.

    Returns:
        Scores of each image by name, and the pooled ones under `pooled`.
    """
    scores = {}
    for raw in sorted(folder.glob("*_raw.*")):
        name, suffix = raw.name.split("_raw.", 1)
        image = read_image(raw, "image", spatial_dims, spacing=spacing)
        truth = read_image(raw.with_name(f"{name}_label.{suffix}"), "label", spatial_dims, spacing=spacing)
        prediction = otsu_watershed(image.array.mean(0), image.spacing, **parameters)
        scores[name] = instance_scores(truth.array[0], prediction)
    if not scores:
        raise SpocoError(f"{folder} holds no file named *_raw.*; give a folder of NAME_raw / NAME_label pairs")
    scores["pooled"] = pool_scores(list(scores.values()))
    return scores


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--spatial-dims", type=int, default=3, choices=(2, 3))
    parser.add_argument("--spacing", type=float, nargs="+", help="voxel size per axis, where the files do not say it")
    parser.add_argument("--smoothing", type=float, default=1.5, help="sigma in voxels before thresholding")
    parser.add_argument("--seed-radius", type=float, default=4.0, help="least distance of two seeds, in physical units")
    parser.add_argument("--min-voxels", type=int, default=30)
    scores = score_folder(**vars(parser.parse_args()))
    print(f"{'image':<24} {'AP50':>6} {'SBD':>6} {'|DiC|':>6} {'merges':>7} {'splits':>7} {'misses':>7} {'false':>6}")
    for name, row in scores.items():
        counts = f"{row['merges']:7.0f} {row['splits']:7.0f} {row['misses']:7.0f} {row['false_objects']:6.0f}"
        print(f"{name:<24} {row['ap_50']:6.3f} {row['sbd']:6.3f} {row['dic_abs']:6.1f} {counts}")


if __name__ == "__main__":
    main()
