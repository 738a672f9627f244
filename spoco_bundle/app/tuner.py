"""Chooses clustering parameters on volumes with a few annotated objects; every volume is embedded once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.transforms import Transform

from spoco_bundle.app.coordinate_search import Trial, are_numbers, coordinate_search
from spoco_bundle.clustering import default_parameters
from spoco_bundle.core.atomic_files import write_json
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.progress import Progress
from spoco_bundle.handlers import InstanceMetric
from spoco_bundle.metrics import expected_ap, pool_scores

#: score of images that may be annotated in part, see `expected_ap`
EXPECTED = "expected_ap_50"
OUTPUTS = ("pred", "second_pred")  # where ClusterEmbeddingsd finds the network's outputs


class ClusteringTuner:
    """Searches clustering parameters that score best and writes them as an overlay config.

    Images that may be annotated in part are scored by the average precision to be expected were they annotated wholly
    (`expected_ap`). How large a share of their objects is annotated, the settings of the first parameter tell.

    Raw network outputs are kept as memory-mapped files in a temporary folder, so only one volume's are in memory.

    Args:
        dataset: samples with `image` and `label` MetaTensors (1, *spatial), loaded one by one; 0 in the label counts as
            the metric says.
        networks: the network that is clustered, and a second one where agreement is asked for; weights loaded.
        inferer: of the prediction.
        clustering: makes the transform from raw outputs to instances, taking the parameters as keywords; a partial of
            ``ClusterEmbeddingsd``.
        restore: brings instances back to the grid of the label, see ``RestoreGridd``.
        metric: scores each image.
        score: what is maximized: "expected_ap_50", or one of the metric's.
        search: `{"id": ID, "values": [...]}` for each parameter; ID is a config id whose last part is a keyword of
            `clustering`. The value in use need not be among the values.
        tuned_file: overlay config to write.
        max_volumes: volumes to tune on, spread evenly over the dataset; 1 or more.
        minutes: of it all; then what was tried so far decides. A third at most goes to the network's outputs, but for
            those of the first volume. None takes what it needs.
        caution: standard errors by which another value must be better, see `coordinate_search`.
        min_gain: least gain that counts.
        max_rounds: rounds over all parameters at most.
        min_objects: of fewer annotated objects the start is kept.

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
        score: str,
        search: Sequence[Mapping[str, Any]],
        tuned_file: str,
        max_volumes: int = 12,
        minutes: float | None = None,
        caution: float = 2.0,
        min_gain: float = 0.02,
        max_rounds: int = 3,
        min_objects: int = 0,
    ):
        if max_volumes < 1:
            raise SpocoError(f"max_volumes is {max_volumes}: give 1 or more")
        self.dataset = dataset
        self.networks = networks
        self.inferer = inferer
        self.clustering = clustering
        self.restore = restore
        self.metric = metric
        self.score = score
        # MONAI's parser rewrites the separator
        self.search = {entry["id"].replace("::", "#"): list(entry["values"]) for entry in search}
        if not self.search:
            raise SpocoError("search: names no parameter to choose: give at least one")
        self.tuned_file = Path(tuned_file)
        if self.tuned_file.is_dir():
            raise SpocoError(
                f"{tuned_file}: is a folder: name a file for the settings, such as {tuned_file}/tuned.json"
            )
        self.max_volumes = max_volumes
        self.seconds = math.inf if minutes is None else 60 * minutes
        self.min_objects = min_objects
        self.choice = {"caution": caution, "min_gain": min_gain, "max_rounds": max_rounds}
        self.start = {key: self._in_use(key) for key in self.search}
        for key, values in self.search.items():
            for value in values:
                self.clustering(**{keyword(key): value})  # refuses what it does not take

    def run(self) -> dict[str, Any]:
        """Embeds, searches, prints the table, writes the overlay; returns its content."""
        tuned, trials = self.search_best()
        print(self.table(tuned, trials), flush=True)
        write_json(self.tuned_file, tuned)
        return tuned

    def search_best(self) -> tuple[dict[str, Any], list[Trial]]:
        """Embeds and searches: the setting kept, by config id, and the trials."""
        began = time.monotonic()
        with TemporaryDirectory(prefix="spoco-tune-") as folder:
            samples = self.embed(Path(folder), began + self.seconds / 3)
            return self.tune(samples, began + self.seconds)

    def numbers(self) -> list[int]:
        """Positions in the dataset of the volumes that are tuned on."""
        count = min(self.max_volumes, len(self.dataset))
        return np.linspace(0, len(self.dataset) - 1, count).round().astype(int).tolist()

    @torch.no_grad()
    def embed(self, folder: Path, until: float = math.inf) -> list[dict[str, Any]]:
        """Samples with image, label and memory-mapped network outputs, kept in the folder.

        Args:
            folder: for the outputs.
            until: time on the monotonic clock from which no further volume is begun.
        """
        samples = []
        numbers = self.numbers()
        progress = Progress("images embedded", len(numbers))
        for number in numbers:
            if samples and time.monotonic() >= until:
                break
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

    def tune(self, samples: Sequence[Mapping[str, Any]], until: float = math.inf) -> tuple[dict[str, Any], list[Trial]]:
        """The setting kept, by config id, and the trials.

        Args:
            samples: from `embed`.
            until: time on the monotonic clock from which no further setting is tried.

        Raises:
            SpocoError: if no sample holds an annotated object and `min_objects` is 0.
        """
        with Progress("settings") as progress:

            @cache
            def images(**setting: Any) -> list[dict[str, float]]:
                found = self.details(samples, setting)
                progress.update()
                return found

            first = images(**self.start)
            if sum(image["true_objects"] for image in first) < self.min_objects:
                return self.start, []
            pool_scores(first)  # refuses images of which none says anything
            shares = []
            if self.score == EXPECTED:
                shares = annotated_shares([first, *(images(**setting) for setting in self._nearest_first(until))])
            return coordinate_search(
                lambda setting: self.scores(images(**setting), shares),
                self.search,
                self.start,
                **self.choice,
                is_over=lambda: time.monotonic() >= until,
            )

    def _nearest_first(self, until: float) -> Iterator[dict[str, Any]]:
        """Settings that differ from the start in the first parameter, the nearest first, for a third of the time."""
        key, values = next(iter(self.search.items()))
        end = time.monotonic() + (until - time.monotonic()) / 3
        if are_numbers((self.start[key], *values)):
            values = sorted(values, key=lambda value: abs(value - self.start[key]))
        for value in values:
            if time.monotonic() >= end:
                return
            yield {**self.start, key: value}

    def details(self, samples: Sequence[Mapping[str, Any]], setting: Mapping[str, Any]) -> list[dict[str, float]]:
        """All scores of every sample with a setting, by config id."""
        transform = self.clustering(**{keyword(key): value for key, value in setting.items()})
        return [self.metric.of_image(self.restore(transform(sample))["pred"], sample["label"]) for sample in samples]

    def scores(self, images: Sequence[Mapping[str, float]], shares: Sequence[float]) -> np.ndarray:
        """The score (images,) that is maximized; to be expected where so large shares of the images are annotated."""
        if self.score == EXPECTED:
            return np.array([expected_ap(image, share) for image, share in zip(images, shares, strict=True)])
        return np.array([image[self.score] for image in images])

    def table(self, tuned: Mapping[str, Any], trials: Sequence[Trial]) -> str:
        """The trials, and the values before and after."""
        width = max(map(len, self.search))
        lines = [f"{'id':<{width}}  {'value':>8}  {self.score}   gain  noise"]
        for trial in trials:
            columns = f"{trial.score:{len(self.score)}.3f} {trial.gain:+6.3f} {trial.noise:6.3f}"
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


def annotated_shares(settings: Sequence[Sequence[Mapping[str, float]]], enough: float = 0.8) -> list[float]:
    """The share of each image's objects that is annotated, as far as found objects tell.

    It is the share of the found objects that lie on annotated ones. False objects make it too small, so it is taken
    from the setting that finds the fewest of them: that of the largest share over all images, among those with about as
    many true objects as any.

    Args:
        settings: for each setting the partly-labelled scores of every image.
        enough: share of the most true positives that a setting must have to be asked.
    """

    def total(images: Sequence[Mapping[str, float]], name: str) -> float:
        return sum(image[name] for image in images)

    least = enough * max(total(images, "tp_50") for images in settings)
    asked = [images for images in settings if total(images, "tp_50") >= least]
    purest = max(asked, key=lambda images: total(images, "judged_objects") / max(total(images, "objects"), 1))
    return [image["judged_objects"] / max(image["objects"], 1) for image in purest]
