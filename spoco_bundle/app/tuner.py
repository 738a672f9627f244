"""Chooses clustering parameters on volumes with a few annotated objects; every volume is embedded once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.transforms import Transform

from spoco_bundle.app.coordinate_search import Trial, coordinate_search
from spoco_bundle.clustering import default_parameters
from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.progress import Progress
from spoco_bundle.handlers import InstanceMetric

OUTPUTS = ("pred", "second_pred")  # where ClusterEmbeddingsd finds the network's outputs


class ClusteringTuner:
    """Searches clustering parameters that score best and writes them as an overlay config.

    Raw network outputs are kept as memory-mapped files in a temporary folder, so only one volume's are in memory.

    Args:
        dataset: samples with `image` and `label` MetaTensors (1, *spatial), loaded one by one; 0 in the label counts as
            the metric says.
        networks: the network that is clustered, and a second one where agreement is asked for; weights loaded.
        inferer: of the prediction.
        clustering: makes the transform from raw outputs to instances, taking the parameters as keywords; a partial of
            ``ClusterEmbeddingsd``.
        restore: brings instances back to the grid of the label, see ``RestoreGridd``.
        metric: scores each image; its key score is maximized.
        search: `{"id": ID, "values": [...], "preferred": VALUE}` for each parameter; ID is a config id whose last part
            is a keyword of `clustering`. The value in use need not be among the values, and `preferred` may be missing.
        tuned_file: overlay config to write.
        max_volumes: volumes to tune on, spread evenly over the dataset; 1 or more.
        caution: standard errors by which another value must be better, see `coordinate_search`.
        min_gain: least gain that counts.
        max_rounds: rounds over all parameters at most.

    Raises:
        SpocoError: for an id or a value that the clustering does not take, before anything is computed.
    """

    def __init__(
        self,
        dataset: Sequence[Mapping[str, Any]],
        networks: Sequence[torch.nn.Module],
        inferer: Inferer,
        clustering: Callable[..., Transform],
        restore: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        metric: InstanceMetric,
        search: Sequence[Mapping[str, Any]],
        tuned_file: str,
        max_volumes: int = 12,
        caution: float = 2.0,
        min_gain: float = 0.02,
        max_rounds: int = 3,
    ):
        if max_volumes < 1:
            raise SpocoError(f"max_volumes is {max_volumes}: give 1 or more")
        self.dataset = dataset
        self.networks = networks
        self.inferer = inferer
        self.clustering = clustering
        self.restore = restore
        self.metric = metric
        # MONAI's parser rewrites the separator
        entries = {entry["id"].replace("::", "#"): entry for entry in search}
        self.search = {key: list(entry["values"]) for key, entry in entries.items()}
        self.preferred = {key: entry["preferred"] for key, entry in entries.items() if "preferred" in entry}
        self.tuned_file = Path(tuned_file)
        self.max_volumes = max_volumes
        self.choice = {"caution": caution, "min_gain": min_gain, "max_rounds": max_rounds}
        self.start = {key: self._in_use(key) for key in self.search}

    def run(self) -> dict[str, Any]:
        """Embeds, searches, prints the table, writes the overlay; returns its content."""
        with TemporaryDirectory(prefix="spoco-tune-") as folder:
            samples = self.embed(Path(folder))
            tuned, trials = self.tune(samples)
        print("\n".join(filter(None, (self.table(tuned, trials), self.metric.hint()))), flush=True)
        with atomic_write(self.tuned_file) as path:
            path.write_text(json.dumps(tuned, indent=4) + "\n")
        return tuned

    def numbers(self) -> list[int]:
        """Positions in the dataset of the volumes that are tuned on."""
        count = min(self.max_volumes, len(self.dataset))
        return np.linspace(0, len(self.dataset) - 1, count).round().astype(int).tolist()

    @torch.no_grad()
    def embed(self, folder: Path) -> list[dict[str, Any]]:
        """Samples with image, label and memory-mapped network outputs, kept in the folder."""
        samples = []
        numbers = self.numbers()
        progress = Progress("images embedded", len(numbers))
        for number in numbers:
            sample = dict(self.dataset[number])
            for key, network in zip(OUTPUTS, self.networks):
                network.eval()
                device = next(network.parameters()).device
                output = self.inferer(sample["image"].as_tensor()[None].to(device), network)[0]
                np.save(folder / f"{len(samples)}_{key}.npy", output.float().cpu().numpy())
                sample[key] = np.load(folder / f"{len(samples)}_{key}.npy", mmap_mode="c")
            samples.append(sample)
            progress.update()
        progress.close()
        return samples

    def tune(self, samples: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[Trial]]:
        """The setting kept, by config id, and the trials."""
        others = sum(
            len([value for value in values if value != self.start[key]]) for key, values in self.search.items()
        )
        first_round = 1 + others
        with Progress("settings of the first round", first_round) as progress:

            def evaluate(setting: dict[str, Any]) -> np.ndarray:
                scores = self.scores(samples, setting)
                self.evaluated += 1
                if self.evaluated == first_round + 1:
                    progress.extend(others, "settings, again with what was taken")
                progress.update()
                return scores

            self.evaluated = 0
            return coordinate_search(evaluate, self.search, self.start, self.preferred, **self.choice)

    def scores(self, samples: Sequence[Mapping[str, Any]], setting: Mapping[str, Any]) -> np.ndarray:
        """Key score (images,) of a setting, by config id, on every sample.

        Raises:
            SpocoError: if no sample holds an annotated object.
        """
        transform = self.clustering(**{keyword(key): value for key, value in setting.items()})
        self.metric.reset()
        for sample in samples:
            self.metric([self.restore(transform(sample))["pred"]], [sample["label"]])
        self.metric.scores()
        return np.array([image[self.metric.metric] for image in self.metric.details()])

    def table(self, tuned: Mapping[str, Any], trials: Sequence[Trial]) -> str:
        """The trials, and the values before and after."""
        width = max(map(len, self.search))
        lines = [f"{'id':<{width}}  {'value':>8}  {self.metric.metric}   gain  noise"]
        for trial in trials:
            columns = f"{trial.score:{len(self.metric.metric)}.3f} {trial.gain:+6.3f} {trial.noise:6.3f}"
            lines.append(f"{trial.name:<{width}}  {trial.value!s:>8}  {columns}{'  taken' * trial.chosen}")
        for key, value in tuned.items():
            kept = "kept" if value == self.start[key] else f"instead of {self.start[key]}"
            lines.append(f"{key:<{width}}  {value!s:>8}  {kept}")
        return "\n".join(lines)

    def _in_use(self, key: str) -> Any:
        """Value of a parameter before the search: as configured, else the default of the clustering."""
        name = keyword(key)
        given = {name: value for name, value in self.clustering.keywords.items() if value is not None}
        known = {
            **default_parameters(given.get("method", "density_peaks")),
            **self.clustering.func.__init__.__kwdefaults__,
            **given,
        }
        if name not in known:
            raise SpocoError(f"search: {key} is no parameter of the clustering; there are {', '.join(sorted(known))}")
        return known[name]


def keyword(key: str) -> str:
    """Name of the clustering's keyword that a config id sets: its last part."""
    return key.split("#")[-1]
