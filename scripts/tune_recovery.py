"""What `spoco tune` gets back from a mis-set start, tuned on train/ with few annotated objects, scored on val/.

python scripts/tune_recovery.py bbbc050 --spacing 1.75 0.8 0.8 --keep 0.1 --seeds 0 1 2

For each start and each choice of annotated objects: the scores on val/ before and after, and their share of the best
in the search space, which is gone through as a whole on val/ (each score's own best).
"""

from __future__ import annotations

import argparse
import itertools
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from spoco_bundle.app.config import find_config, read_configs
from spoco_bundle.app.model_config import MODEL_CONFIG
from spoco_bundle.app.tuner import ClusteringTuner

STARTS = {
    "default": {},
    "threshold too high": {"objectness_threshold": 0.9},
    "threshold too low": {"objectness_threshold": 0.05},
    "only large objects": {"min_fraction": 0.4},
    "all wrong": {"objectness_threshold": 0.9, "min_fraction": 0.4, "clustering#merge_distance": 4.0},
}
SCORES = ("ap_50", "sbd", "mean_ap")


class Remembered:
    """A clustering that keeps its results: they depend on the image and the setting, not on what is annotated."""

    def __init__(self, clustering, restore, results: dict):
        self.clustering, self.restore, self.results = clustering, restore, results

    def __call__(self, **setting):
        """The transform of a setting."""
        transform = self.clustering(**setting)

        def remembered(sample: dict) -> dict:
            key = (str(sample["image"].meta["filename_or_obj"]), repr(sorted(setting.items())))
            if key not in self.results:
                labels = self.restore(transform(sample))["pred"].as_tensor().short()
                self.results[key] = labels.shape, zlib.compress(labels.numpy().tobytes(), 1)
            shape, packed = self.results[key]
            return {"pred": torch.frombuffer(bytearray(zlib.decompress(packed)), dtype=torch.int16).reshape(shape)}

        return remembered


def make_tuner(data: str, model: Path, **overrides) -> ClusteringTuner:
    """The tuner of `spoco tune` with these ids."""
    own = [model / MODEL_CONFIG] if (model / MODEL_CONFIG).is_file() else []
    parser = read_configs(
        [find_config("train"), *own, find_config("evaluate"), find_config("tune")],
        {"dataset_dir": data, "ckpt_dir": str(model), "device": "cpu", "tuned_file": "tuned.json", **overrides},
    )
    return parser.get_parsed_content("tuner")


def val_scores(tuner: ClusteringTuner, samples: list, setting: dict) -> dict[str, float]:
    """Pooled scores of a setting on completely annotated volumes."""
    tuner.scores(samples, setting)
    pooled = tuner.metric.scores()
    return {name: pooled[name] for name in SCORES}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with train/ and val/; val/ is completely annotated")
    parser.add_argument("--model", type=Path, default=Path("models"), help="folder with model.pt")
    parser.add_argument("--spacing", type=float, nargs="+", help="voxel size, where the files do not say it")
    parser.add_argument("--keep", type=float, default=0.1, help="share of the objects of train/ that are annotated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the choice of annotated objects")
    parser.add_argument("--volumes", type=int, default=12, help="of train/ that are tuned on")
    parser.add_argument("--without-preference", action="store_true", help="leave ties of the score to the best value")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    common = {"spacing": arguments.spacing}

    with TemporaryDirectory() as folder:
        judge = make_tuner(arguments.data, arguments.model, split="val", partly_labelled=False, **common)
        val = judge.embed(Path(folder))
        default = dict(judge.start)
        grid = [dict(zip(judge.search, values, strict=True)) for values in itertools.product(*judge.search.values())]
        known = {repr(setting): val_scores(judge, val, setting) for setting in [default, *grid]}
        best = {name: max(scores[name] for scores in known.values()) for name in SCORES}
        print(f"best of {len(grid)} settings on val: {best}")
        print(f"default on val: {known[repr(default)]}", flush=True)
        print("| start | seed | annotated objects | before | after | share of the best | loss to the default |")
        print("|---|---|---|---|---|---|---|")
        results: dict = {}
        for seed in arguments.seeds:
            tuner = make_tuner(
                arguments.data,
                arguments.model,
                split="train",
                keep_fraction=arguments.keep,
                keep_seed=seed,
                max_volumes=arguments.volumes,
                **common,
            )
            if arguments.without_preference:
                tuner.preferred = {}
            tuner.clustering, tuner.restore = Remembered(tuner.clustering, tuner.restore, results), dict
            with TemporaryDirectory() as train_folder:
                train = tuner.embed(Path(train_folder))
                for name, wrong in STARTS.items():
                    tuner.start = {**default, **wrong}
                    tuned, _ = tuner.tune(train)
                    before = val_scores(judge, val, tuner.start)
                    after = val_scores(judge, val, tuned)
                    share = [after[score] / best[score] for score in SCORES]
                    lost = [known[repr(default)][score] - after[score] for score in SCORES]
                    annotated = int(tuner.metric.scores()["true_objects"])
                    columns = [
                        name,
                        str(seed),
                        str(annotated),
                        *(" / ".join(f"{scores[score]:.3f}" for score in SCORES) for scores in (before, after)),
                        " / ".join(f"{part:.2f}" for part in share),
                        " / ".join(f"{part:+.3f}" for part in lost),
                    ]
                    print(f"| {' | '.join(columns)} | {tuned}", flush=True)


if __name__ == "__main__":
    main()
