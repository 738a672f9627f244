"""How well a model finds objects of another size: images enlarged and reduced, with their size unstated and stated.

python scripts/zoom_table.py DATA/dsb2018 DATA/bbbc050:1.75,0.8,0.8 --page docs/measurements/robustness.md

Every image of val/ and its label are resized, images linearly after smoothing, labels by the nearest voxel. They are
segmented as `spoco predict` does: with nothing said, where the size of the objects is estimated, and with `--diameter`.
After a colon stands the voxel size that the model learnt and the files do not state. With it a third row states the
size of the resized images in micrometres.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import check_page, processor, replace_table
from one_line import one_line_errors

from spoco_bundle import segment
from spoco_bundle.app.config import json_content, shipped_weights
from spoco_bundle.app.model_config import MODEL_CONFIG
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.resampling import resize_linear, resize_nearest
from spoco_bundle.dataset import build_datalist, stored_dimensions
from spoco_bundle.formats import read_image
from spoco_bundle.metrics import instance_scores, pool_scores


def resized(pair: dict[str, str], dims: int, zoom: float) -> tuple[np.ndarray, np.ndarray]:
    """Image (C, *spatial) and truth (*spatial), enlarged by a factor."""
    image = read_image(pair["image"], "image", dims).array.astype(np.float32)
    label = read_image(pair["label"], "label", dims).array
    shape = [max(1, round(size * zoom)) for size in label.shape[1:]]
    if zoom == 1:
        return image, label[0]
    return (
        resize_linear(torch.from_numpy(image), shape).numpy(),
        resize_nearest(torch.from_numpy(label.copy()), shape)[0].numpy(),
    )


def ap_50(pairs: list[dict[str, str]], dims: int, zoom: float, model: str | None, **said: Any) -> float:
    """Pooled AP50 of a model on images enlarged by a factor."""
    scores = []
    for pair in pairs:
        image, truth = resized(pair, dims, zoom)
        found = segment(image, model=model, axes="C" + "ZYX"[-dims:], **said)
        scores.append(instance_scores(truth, found.labels))
    return pool_scores(scores)["ap_50"]


def rows_of(argument: str, zooms: list[float], model: str | None) -> list[str]:
    """Lines of the table for a folder."""
    folder, _, spacing = argument.partition(":")
    pairs = build_datalist(folder, "val")
    dims = stored_dimensions(pairs)
    try:
        voxel = [float(step) for step in spacing.split(",")] if spacing else None
    except ValueError as error:
        raise SpocoError(f"{argument}: {spacing} is no voxel size: give numbers, such as 1.75,0.8,0.8") from error
    config = json_content((Path(model) if model else shipped_weights(dims)) / MODEL_CONFIG)
    # the typical object of the training, in pixels of the image plane
    across = config["object_diameter"] / (voxel[-1] if voxel else 1)
    ways: dict[str, Any] = {"nothing": lambda zoom: {}, "`--diameter`": lambda zoom: {"diameter": across * zoom}}
    if voxel:
        ways["the voxel size"] = lambda zoom: {"spacing": [step / zoom for step in voxel]}
    lines = []
    for way, said in ways.items():
        scores = [f"{ap_50(pairs, dims, zoom, model, **said(zoom)):.3f}" for zoom in zooms]
        lines.append(f"| {Path(folder).name} | {way} | {' | '.join(scores)} |")
        print(lines[-1], flush=True)
    return lines


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER[:Z,Y,X]", help="folders with val/")
    parser.add_argument("--zooms", type=float, nargs="+", default=[0.4, 0.5, 0.7, 1.0, 1.4, 2.0, 2.5])
    parser.add_argument("--model", help="folder that `spoco train` wrote; by default the shipped models")
    parser.add_argument("--page", type=Path, help="page with the marks <!-- zoom --> and <!-- end -->")
    options = parser.parse_args()
    check_page(options.page, "zoom")
    head = [f"| `val` of | said | {' | '.join(f'x{zoom:g}' for zoom in options.zooms)} |"]
    head.append("|---|---|" + "---|" * len(options.zooms))
    print("\n".join(head))
    rows = [row for each in options.folders for row in rows_of(each, options.zooms, options.model)]
    rows += ["", f"AP50. {processor()}, torch {torch.__version__}."]
    if options.page:
        replace_table(options.page, "zoom", "\n".join(head + rows))


if __name__ == "__main__":
    main()
