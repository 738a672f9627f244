"""Does the confidence rank true objects above false ones? Area under the ROC curve on completely annotated val/.

python scripts/confidence_auc.py bbbc050=nuclei3d dsb2018=nuclei2d vnc_mito=mito

A predicted object is true if its IoU with a true object is at least 0.5, and nothing if below 0.1 with every one.
The objects of all images of val/ are ranked together, by the confidence without and with the agreement of student and
teacher, and by size for comparison; of the first also the 95% interval, by drawing the objects anew, and the median of
true objects. The last column leaves out false objects that are partly right.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from tune_recovery import make_tuner

from spoco_bundle.metrics.contingency import contingency_table
from spoco_bundle.metrics.matching import match


def judged(sample: dict, transform) -> tuple[np.ndarray, ...]:
    """Of each predicted object: whether it is true, its best IoU, its confidence, its voxels."""
    found = transform(sample)
    labels = np.asarray(found["pred"][0])
    table = contingency_table(np.asarray(sample["label"][0]), labels)
    true = np.zeros(table.objects, bool)
    true[match(table, 0.5)[1]] = True
    best = np.zeros(table.objects)
    np.maximum.at(best, table.object_pairs()[1], table.iou())
    return true, best, np.asarray(found["pred_confidence"]), np.bincount(labels.ravel())[1:]


def interval(true: np.ndarray, confidence: np.ndarray, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95% interval of the area when the objects are drawn anew, with replacement."""
    random = np.random.default_rng(seed)
    areas = []
    for _ in range(draws):
        rows = random.integers(len(true), size=len(true))
        if 0 < true[rows].sum() < len(rows):
            areas.append(roc_auc_score(true[rows], confidence[rows]))
    return tuple(np.quantile(areas, (0.025, 0.975)))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="DATA=MODEL")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    titles = ["confidence", "interval", "median of true", "with agreement", "size", "true against nothing"]
    print(f"| data | true / false / nothing | {' | '.join(titles)} |")
    print("|---" * (2 + len(titles)) + "|")
    for pair in arguments.pairs:
        data, model = pair.split("=")
        tuner = make_tuner(data, Path(model), split="val", max_volumes=10_000, agreement=True, partly_labelled=False)
        with TemporaryDirectory() as folder:
            samples = tuner.embed(Path(folder))
            areas, confidences = [], []
            for key in (None, "second_pred"):
                parts = [judged(sample, tuner.clustering(teacher_key=key)) for sample in samples]
                true, iou, confidence, size = (np.concatenate(column) for column in zip(*parts, strict=True))
                areas.append(roc_auc_score(true, confidence))
                confidences.append(confidence)
        nothing = iou < 0.1
        telling = true | nothing
        columns = [
            f"{int(true.sum())} / {int((~true).sum())} / {int(nothing.sum())}",
            f"{areas[0]:.2f}",
            "{:.2f} to {:.2f}".format(*interval(true, confidences[0])),
            f"{np.median(confidences[0][true]):.2f}",
            *(f"{area:.2f}" for area in (areas[1], roc_auc_score(true, size))),
            f"{roc_auc_score(true[telling], confidences[0][telling]):.2f}" if nothing.any() else "-",
        ]
        print(f"| {Path(data).name} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
