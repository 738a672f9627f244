"""Will more labels help? Trainings on parts of what is annotated, and what twice as much can be expected to give."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spoco_bundle.app.config import find_overlays, json_content, read_configs
from spoco_bundle.app.training import train
from spoco_bundle.app.training_plan import training_files
from spoco_bundle.core.atomic_files import write_json
from spoco_bundle.core.errors import SpocoError, unwrapped
from spoco_bundle.handlers.checkpoint import LAST, PREVIOUS
from spoco_bundle.handlers.held_out_scores import HELD_OUT_SCORES
from spoco_bundle.metrics.forecast import Forecast, forecast_score
from spoco_bundle.report.curve_picture import learning_curve_picture

#: shares of the annotated objects that are trained on
PARTS = (0.25, 0.5, 1.0)
#: minutes of a training above which more choices of objects say more than longer trainings
MINUTES = 10.0
#: choices of objects for each part, at least and at most
CHOICES = (2, 5)
#: a gain in score that is not worth drawing for
LITTLE = 0.02

#: overlay that keeps the scores, and the files in the folder of results
OVERLAY = "learning_curve"
RESULT, PICTURE, TRAININGS = "learning_curve.json", "learning_curve.png", "trainings"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LearningCurve:
    """Trainings on parts of the annotated objects, and what follows from them.

    Attributes:
        minutes: of each training.
        trainings: a dict for each, with ``name``, ``objects`` (those that trained), and what ``HeldOutScores`` writes.
        forecast: for twice as many objects as there are.
    """

    minutes: float
    trainings: Sequence[Mapping[str, Any]]
    forecast: Forecast

    def lines(self) -> list[str]:
        """A small table, and three sentences."""
        found, metric = self.forecast, self.trainings[0]["metric"]
        by_size: dict[int, list[float]] = {}
        for row in self.trainings:
            by_size.setdefault(row["objects"], []).append(row["score"])
        table = [f"{'objects':>8}  {metric}"]
        table += [f"{size:>8}  {'  '.join(f'{score:.3f}' for score in by_size[size])}" for size in sorted(by_size)]
        table += [f"{found.objects:>8}  {found.score:.3f} expected ({found.low:.3f} to {found.high:.3f})"]
        held_out = f"{self.trainings[0]['held_out']} held-out objects"
        return [
            *table,
            f"now: training on {found.present} objects gives {metric} {found.now:.2f} on {held_out}, which tell it to "
            f"about {found.noise:.2f}",
            f"twice as many: {found.objects} can be expected to give {found.score:.2f}, between {found.low:.2f} and "
            f"{found.high:.2f} in {round(10 * found.level)} of 10 trainings of {self.minutes:.3g} minutes",
            self.verdict(),
        ]

    def verdict(self) -> str:
        """What that says of drawing more, in a sentence."""
        found = self.forecast
        least, most = found.low - found.now, found.high - found.now
        if least > 0:
            return f"so more labels help: twice as many add about {found.gain:.2f}"
        if most < LITTLE:
            return f"so more labels help little: twice as many add at most {max(most, 0):.2f}"
        return (
            "so whether more labels help cannot be told: twice as many change the score by "
            f"{least:+.2f} to {most:+.2f}; more --minutes or more held-out objects tell it better"
        )


def learning_curve(
    folder: str | Path, minutes: float, output: str | Path = OVERLAY, config: str = "", **overrides: Any
) -> LearningCurve:
    """Trains on a quarter, half and all of the annotated objects, and forecasts what twice as many give.

    Each part is drawn several times. Every training is one of ``spoco train``, lasts an equal share of the time, and is
    scored by its best validation, on ``val/`` or on objects held out of ``train/``. What is finished lies in the folder
    of results and is not done again.

    Args:
        folder: see ``spoco_bundle.train``.
        minutes: of all trainings together.
        output: folder for the results, and for the models.
        config: extra settings as for ``spoco_bundle.train``.
        overrides: any id of ``configs/train.json``; ``keep_fraction`` takes that share for all there is.

    Raises:
        SpocoError: for bad input, too few objects for parts of them, or results of other settings in the folder.
    """
    output = Path(output)
    ids = {"dataset_dir": str(folder), **overrides}
    planned = list(_planned(folder, minutes, config, ids))
    share = float(f"{minutes / len(planned):.4g}")
    settings = {
        "dataset_dir": str(Path(folder).resolve()),
        "minutes": minutes,
        "configs": [json_content(file) for file in find_overlays(config)],
        "ids": json.loads(json.dumps(overrides, default=str)),
        "objects": [objects for _, objects, _ in planned],
    }
    done = _done(output, settings)
    result = {"settings": settings, "trainings": done}
    write_json(output / RESULT, result)  # what is interrupted belongs to these settings
    for number, (name, objects, own) in enumerate(planned, 1):
        if any(row["name"] == name for row in done):
            continue
        logger.info("training %d of %d: on %d objects, %.3g minutes", number, len(planned), objects, share)
        model = output / TRAININGS / name
        began = any((model / file).is_file() for file in (LAST, PREVIOUS))
        train(folder, model, ",".join(filter(None, (config, OVERLAY))), began, **{**overrides, **own, "minutes": share})
        scores = json.loads((model / HELD_OUT_SCORES).read_text())
        done.append({"name": name, "objects": objects, **scores})
        write_json(output / RESULT, result)
    curve = LearningCurve(share, done, _forecast(done))
    write_json(output / RESULT, result | {"forecast": asdict(curve.forecast)})
    learning_curve_picture(output / PICTURE, done, curve.forecast)
    return curve


def _planned(
    folder: str | Path, minutes: float, config: str, ids: dict[str, Any]
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Name, number of objects and ids of each training, every part once before any comes again."""
    files = [*training_files(config, ids), *find_overlays(OVERLAY)]
    parser = read_configs(files, ids)
    with unwrapped():
        fraction, keep_seed, seed, held_out = (
            parser.get_parsed_content(name) for name in ("keep_fraction", "keep_seed", "seed", "holdout_seed")
        )
    counts = []
    for part in PARTS:
        parser = read_configs(files, {**ids, "keep_fraction": fraction * part})
        with unwrapped():
            counts.append(parser.get_parsed_content("profile").objects)
    if not counts[0] < counts[1] < counts[2]:
        raise SpocoError(
            f"{folder}: a quarter, half and all of the objects to train on are {', '.join(map(str, counts))} here, as "
            "one is kept in every image: too few to train on parts: annotate more in each image"
        )
    choices = min(max(int(minutes / len(PARTS) / MINUTES), CHOICES[0]), CHOICES[1])
    number = 0
    for choice in range(choices):
        for part, objects in zip(PARTS, counts):
            own = {"keep_fraction": fraction * part, "keep_seed": keep_seed + number, "seed": seed + number}
            yield f"{100 * part:g}_percent_{choice}", objects, own | {"holdout_seed": held_out}
            number += 1


def _done(output: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The trainings that are finished in a folder of results."""
    file = output / RESULT
    content = json_content(file) if file.is_file() else {}
    begun = content.get("trainings") or [*(output / TRAININGS).glob(f"*/{LAST}")]
    if not begun:
        return []
    if content.get("settings") != settings:
        raise SpocoError(f"{file}: holds trainings of other settings or labels: name another folder with --output")
    return content["trainings"]


def _forecast(rows: Sequence[Mapping[str, Any]]) -> Forecast:
    return forecast_score(
        [row["objects"] for row in rows],
        [row["score"] for row in rows],
        [row["halves"] for row in rows],
        min(row["held_out"] for row in rows),
        2 * max(row["objects"] for row in rows),
    )
