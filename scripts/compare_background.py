"""Rules that tell background from objects, on completely annotated val/ volumes, with models of few annotated objects.

python scripts/compare_background.py bbbc050=nuclei3d dsb2018=nuclei2d vnc_mito=mito fib25_neuron=neurons --keep 0.25

Each argument is a folder with train/ and val/ and the model that `spoco train` made of it. Every rule is one and the
same on all data sets. Rules that do not use the objectness get none: it neither weighs votes nor drops objects there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from skimage.filters import threshold_otsu
from tune_recovery import make_tuner

from spoco_bundle.metrics import instance_scores, pool_scores

CERTAIN = 20.0  # logit


def plain(sample: dict, key: str) -> np.ndarray:
    """An item of a sample as an array without its channel axis, if it has but one channel."""
    array = np.asarray(sample[key])
    return array[0] if len(array) == 1 else array


def probability(sample: dict) -> np.ndarray:
    """Objectness of every voxel."""
    return 1 / (1 + np.exp(-np.asarray(sample["pred"][-1], dtype=np.float64)))


def colours(sample: dict, skipped: int) -> np.ndarray:
    """Embeddings without the channels that vote for centres, (E, voxels)."""
    vectors = np.asarray(sample["pred"][skipped:-1])
    return vectors.reshape(len(vectors), -1)


class Rules:
    """The rules of the comparison; what they learn from annotated objects they learn from a few volumes of train/.

    Args:
        tuner: makes the clustering.
        annotated: embedded samples of train/ with a few annotated objects.
    """

    def __init__(self, tuner, annotated: list[dict]):
        self.clustering = tuner.clustering
        self.votes = self.clustering.keywords["coordinate_channels"]
        inside = [plain(sample, "label") > 0 for sample in annotated]
        self.calibrated = float(
            np.quantile(np.concatenate([probability(s)[m] for s, m in zip(annotated, inside, strict=True)]), 0.1)
        )
        prototypes, vectors = [], []
        for sample, mask in zip(annotated, inside, strict=True):
            own, ids = colours(sample, self.votes)[:, mask.ravel()], plain(sample, "label")[mask]
            prototypes += [own[:, ids == number].mean(1) for number in np.unique(ids)]
            vectors.append(own[:, :: max(1, own.shape[1] // 20_000)])
        self.prototypes = torch.tensor(np.array(prototypes))
        self.far = float(self.distance(np.concatenate(vectors, 1)).quantile(0.9))

    def distance(self, vectors: np.ndarray) -> torch.Tensor:
        """Distance of vectors (E, n) to the nearest prototype."""
        parts = torch.from_numpy(vectors.T.copy()).float().split(1 << 16)
        return torch.cat([torch.cdist(part, self.prototypes.float()).min(1).values for part in parts])

    def labels(self, sample: dict, mask: np.ndarray | None, objectness: bool, **keywords) -> np.ndarray:
        """Objects within a mask (everywhere without one)."""
        sample = dict(sample)
        if not objectness:
            sample["pred"] = np.array(sample["pred"])
            sample["pred"][-1] = CERTAIN
        if mask is None:
            return plain(self.clustering(**{"background": "none", **keywords})(sample), "pred")
        sample["foreground"] = torch.from_numpy(mask)[None]
        return plain(self.clustering(background="foreground", foreground_key="foreground")(sample), "pred")

    def configured(self, sample: dict) -> np.ndarray:
        """What `spoco predict` does: objectness above the threshold of the model, grown to its extent if it has one."""
        return plain(self.clustering()(dict(sample)), "pred")

    def fixed(self, threshold: float):
        """Objectness above one number."""
        return lambda sample: self.labels(sample, probability(sample) > threshold, True)

    def otsu(self, sample: dict) -> np.ndarray:
        """Objectness above Otsu's threshold of the image's objectness."""
        objectness = probability(sample)
        return self.labels(sample, objectness > threshold_otsu(objectness), True)

    def calibrated_objectness(self, sample: dict) -> np.ndarray:
        """Objectness above what 90% of the annotated voxels of train/ have."""
        return self.labels(sample, probability(sample) > self.calibrated, True)

    def intensity(self, sample: dict) -> np.ndarray:
        """Brighter than Otsu's threshold of the image."""
        image = np.asarray(sample["image"]).mean(0)
        return self.labels(sample, image > threshold_otsu(image), False)

    def prototype(self, sample: dict) -> np.ndarray:
        """Embedding (without votes) as near to that of an annotated object as 90% of the annotated voxels are."""
        shape = sample["pred"].shape[1:]
        return self.labels(
            sample, (self.distance(colours(sample, self.votes)) < self.far).numpy().reshape(shape), False
        )

    def largest(self, sample: dict) -> np.ndarray:
        """All but the largest cluster."""
        labels = self.labels(sample, None, False)
        return np.where(labels == np.bincount(labels[labels > 0]).argmax(), 0, labels) if labels.any() else labels

    def density(self, sample: dict) -> np.ndarray:
        """Clusters that keep the spread of their voxels' positions; without votes, clusters that lie scattered."""
        return self.labels(sample, None, False, background="density" if self.votes else "scatter")

    def agreement(self, sample: dict) -> np.ndarray:
        """The paper's rule: clusters of the student that the teacher's embedding confirms."""
        keywords = {"method": "consistency", "merge_distance": None, "teacher_key": "second_pred"}
        keywords |= {"max_samples": 5000, "max_seeds": 1000}
        return self.labels(sample, None, False, **keywords)

    def truth(self, sample: dict) -> np.ndarray:
        """The true foreground given as a mask."""
        return self.labels(sample, plain(sample, "label") > 0, True)


def medians(train, whole, samples: list[dict]) -> str:
    """Median objectness in the objects of train/ that are annotated, in those that are not, and in the background."""
    found: dict[str, list] = {"annotated objects": [], "other objects": [], "background": []}
    for sample, number in zip(samples, train.numbers(), strict=True):
        objectness, known = probability(sample), plain(sample, "label") > 0
        every = plain(whole.dataset[number], "label") > 0
        for name, mask in zip(found, (known, every & ~known, ~every), strict=True):
            found[name].append(objectness[mask])
    return ", ".join(f"{name} {np.median(np.concatenate(parts)):.2f}" for name, parts in found.items())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="DATA=MODEL")
    parser.add_argument("--keep", type=float, default=0.25, help="share of the objects that the model was trained on")
    parser.add_argument("--volumes", type=int, default=6, help="of train/ that rules learn from")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| data | rule | AP50 | SBD | foreground IoU |\n|---|---|---|---|---|")
    for pair in arguments.pairs:
        data, model = pair.split("=")
        common = {"agreement": True, "partly_labelled": False}
        common["max_volumes"] = arguments.volumes
        train = make_tuner(data, Path(model), split="train", keep_fraction=arguments.keep, **common)
        whole = make_tuner(data, Path(model), split="train", **common)
        judge = make_tuner(data, Path(model), split="val", **{**common, "max_volumes": 10_000})
        # the confidence of the comparison is the agreement's in one rule only
        judge.clustering.keywords["teacher_key"] = None
        with TemporaryDirectory() as first, TemporaryDirectory() as second:
            annotated = train.embed(Path(first))
            print(f"{Path(data).name}, median objectness: {medians(train, whole, annotated)}", flush=True)
            rules = Rules(judge, annotated)
            samples = judge.embed(Path(second))
            for name, rule in {
                "as the model's configuration says": rules.configured,
                "objectness above 0.4": rules.fixed(0.4),
                "objectness above 0.5": rules.fixed(0.5),
                "objectness, Otsu's threshold per image": rules.otsu,
                f"objectness, calibrated ({rules.calibrated:.2f})": rules.calibrated_objectness,
                "distance to prototypes": rules.prototype,
                "image intensity, Otsu": rules.intensity,
                "largest cluster": rules.largest,
                "spread of the votes": rules.density,
                "agreement of student and teacher (consistency clustering)": rules.agreement,
                "given: the true foreground": rules.truth,
            }.items():
                scores, both, either = [], 0, 0
                for sample in samples:
                    truth, found = plain(sample, "label"), rule(sample)
                    scores.append(instance_scores(truth, found, iou_thresholds=(0.5,)))
                    both += int(((truth > 0) & (found > 0)).sum())
                    either += int(((truth > 0) | (found > 0)).sum())
                pooled = pool_scores(scores)
                columns = f"{pooled['ap_50']:.2f} | {pooled['sbd']:.2f} | {both / either:.2f}"
                print(f"| {Path(data).name} | {name} | {columns} |", flush=True)


if __name__ == "__main__":
    main()
