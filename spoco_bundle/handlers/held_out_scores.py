"""The score of the best validation, with how much it owes to the choice of held-out objects."""

from __future__ import annotations

import hashlib
from pathlib import Path

import fastremap
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.handlers import from_engine

from spoco_bundle.core.atomic_files import write_json
from spoco_bundle.handlers.best_weights import BestWeights
from spoco_bundle.handlers.instance_metric import InstanceMetric
from spoco_bundle.metrics import pool_scores

#: file that the scores are written to, in the folder of the weights
HELD_OUT_SCORES = "held_out_scores.json"


class HeldOutScores:
    """Writes the score of a validation that is the best so far, and its scores on random halves of what is held out.

    The halves are the same for every training that is validated on the same images, so scores on them can be compared
    one by one. They are halves of the images in which an object is annotated, whose objects succeed or fail together;
    of fewer than ``min_images`` images, halves of the objects. Attach it behind ``BestWeights``.

    The file is JSON: ``metric``, ``score``, ``halves`` (a list), ``held_out`` and ``images`` (numbers of objects and
    of images with one).

    Args:
        metric: the metric of the evaluator.
        best_weights: what keeps the best weights there.
        path: the file.
        halves: how many.
        min_images: images from which on they are divided, not their objects.
    """

    def __init__(
        self, metric: InstanceMetric, best_weights: BestWeights, path: str, halves: int = 20, min_images: int = 4
    ):
        self.metric = metric
        self.best_weights = best_weights
        self.path = Path(path)
        self.halves = halves
        self.min_images = min_images
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def attach(self, engine: Engine) -> None:
        """Collects predictions during a validation and writes at its end."""
        engine.add_event_handler(Events.STARTED, lambda _: self._pairs.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Writes the scores, if no validation before was better."""
        images = [image for image in self.metric.details() if image["true_objects"] > 0]
        key, pooled = self.metric.metric, self.metric.scores()
        if float(engine.state.metrics[engine.state.key_metric_name]) == self.best_weights.best_score:
            halved = self._of_images(images) if len(images) >= self.min_images else self._of_objects()
            content = {
                **{"metric": key, "score": pooled[key], "halves": halved},
                **{"held_out": int(pooled["true_objects"]), "images": len(images)},
            }
            write_json(self.path, content)
        self._pairs.clear()

    def _collect(self, engine: Engine) -> None:
        predictions, truths = from_engine(["pred", "label"])(engine.state.output)
        self._pairs += [(prediction.cpu(), truth.cpu()) for prediction, truth in zip(predictions, truths, strict=True)]

    def _of_images(self, images: list[dict[str, float]]) -> list[float]:
        ranked = [np.random.default_rng(half).permutation(len(images)) for half in range(self.halves)]
        chosen = [[images[number] for number in order[: len(images) // 2]] for order in ranked]
        return [pool_scores(half)[self.metric.metric] for half in chosen]

    def _of_objects(self) -> list[float]:
        arguments = self.metric.arguments
        # where all else is background, an object that does not count has to be passed over
        hidden = 0 if arguments["partly_labelled"] else -1
        scorer = InstanceMetric(self.metric.metric, **arguments | ({} if hidden == 0 else {"ignore_label": hidden}))
        ignored = arguments["ignore_label"]
        special = (0, ignored, arguments["background_label"])
        objects = [
            (image, number)
            for image, (_, truth) in enumerate(self._pairs)
            for number in fastremap.unique(np.asarray(truth)).tolist()
            if number not in special
        ]
        found = []
        for half in range(self.halves):
            ranked = sorted(objects, key=lambda one, half=half: _lot(half, *one))
            scorer.reset()
            for image, (prediction, truth) in enumerate(self._pairs):
                left_out = [number for place, number in ranked[len(objects) // 2 :] if place == image]
                left_out += [] if hidden == 0 or ignored is None else [ignored]
                ids = torch.as_tensor(left_out, dtype=truth.dtype)
                scorer([prediction], [truth.masked_fill(torch.isin(truth, ids), hidden)])
            found.append(float(scorer.aggregate()))
        return found


def _lot(half: int, image: int, number: int) -> bytes:
    return hashlib.sha256(f"{half}/{image}/{number}".encode()).digest()
