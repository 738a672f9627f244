"""Instance scores as a MONAI metric: accumulated over iterations and processes, pooled over the images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric
from monai.utils import evenly_divisible_all_gather

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.metrics.matching import IOU_THRESHOLDS
from spoco_bundle.metrics.partly_labelled import ANNOTATED_SIZES, SCOPE
from spoco_bundle.metrics.scores import instance_scores, pool_scores

# found objects from which their share says something, and the share from which a truth looks complete
_MANY, _NEARLY_ALL = 20, 0.8


class InstanceMetric(CumulativeIterationMetric):
    """Instance scores pooled over all images of an epoch, one of them the metric's value.

    Use it in an evaluator's `key_val_metric` through `monai.handlers.IgniteMetricHandler`, with predicted and true
    label volumes: a batch (B, 1, *spatial) or a list of (1, *spatial) tensors, whose shapes may differ. A truth in
    which objects were held out may name the sizes of all in its metadata, under `ANNOTATED_SIZES`, and one in which
    objects are not annotated as a whole what their annotations say, under `SCOPE`.

    Args:
        metric: key of the pooled scores that `aggregate` returns; by default `ap_50`, or `partly_labelled_score` for
            partly labelled truths. `dic_abs`, `voi_*` and the counts of errors are better when lower.
        iou_thresholds: thresholds in (0, 1].
        partly_labelled: whether 0 in the truth means "unknown" and not "no object".
        background_label: id in the truth of voxels known to belong to no object.
        ignore_label: id in the truth of voxels that count nowhere.

    Raises:
        SpocoError: `metric` is none of the scores that these arguments yield.
    """

    def __init__(
        self,
        metric: str | None = None,
        iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
        partly_labelled: bool = False,
        background_label: int | None = None,
        ignore_label: int | None = None,
    ) -> None:
        super().__init__()
        self.metric = metric or ("partly_labelled_score" if partly_labelled else "ap_50")
        self.arguments = {
            "iou_thresholds": tuple(iou_thresholds),
            "partly_labelled": partly_labelled,
            "background_label": background_label,
            "ignore_label": ignore_label,
        }
        empty = np.zeros((1, 1), dtype=np.int64)
        self.keys = tuple(instance_scores(empty, empty, **self.arguments))
        self._check(self.metric)

    def _check(self, metric: str) -> None:
        if metric not in self.keys:
            kind = "partly" if self.arguments["partly_labelled"] else "completely"
            raise SpocoError(
                f"metric {metric!r} is no score of {kind} labelled truths; use one of {', '.join(self.keys)}"
            )

    def of_image(self, prediction: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
        """All scores of one image, both label volumes (1, *spatial); nothing is kept, nor asked of other processes."""
        scope, sizes = (getattr(truth, "meta", {}).get(name) for name in (SCOPE, ANNOTATED_SIZES))
        # of objects that are not annotated as a whole they are no sizes
        sizes = None if sizes is None or scope is not None else torch.as_tensor(sizes).flatten().tolist()
        return instance_scores(truth[0], prediction[0], **self.arguments, annotated_sizes=sizes, scope=scope)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """Scores of every image, (B, number of scores) float64, columns in the order of `keys`."""
        if y is None:
            raise SpocoError("InstanceMetric got no truth; give it predicted and true label volumes")
        if y_pred.shape[:2] != (len(y_pred), 1) or y.shape[:2] != (len(y_pred), 1):
            raise SpocoError(
                f"InstanceMetric got a prediction of shape {tuple(y_pred.shape)} and a truth of {tuple(y.shape)}; "
                "both are label volumes with one channel, (B, 1, *spatial)"
            )
        images = [self.of_image(p, t) for p, t in zip(y_pred, y, strict=True)]
        return torch.tensor([[image[key] for key in self.keys] for image in images], dtype=torch.float64)

    def _sync(self) -> None:
        if self._buffers is None and not self._synced:
            # a process that was given no image must join the others' gathering, or they wait for it forever
            empty = torch.zeros((0, len(self.keys)), dtype=torch.float64)
            self._synced_tensors = [evenly_divisible_all_gather(empty, concat=True)]
            self._synced = True
        super()._sync()

    def details(self) -> list[dict[str, float]]:
        """Scores of every image so far, of all processes, in the order in which they were gathered."""
        return [dict(zip(self.keys, row, strict=True)) for row in self.get_buffer().tolist()]

    def scores(self) -> dict[str, float]:
        """All scores, pooled over the images so far (see `pool_scores`)."""
        return pool_scores(self.details())

    def hint(self) -> str | None:
        """A line for a person where the truths, scored as partly labelled, look complete; else None.

        In images annotated in part about as many of the found objects lie on annotated ones as are annotated; in
        complete ones nearly all do, unless the model is bad.
        """
        if not self.arguments["partly_labelled"]:
            return None
        pooled = self.scores()
        judged, objects = round(pooled["judged_objects"]), round(pooled["objects"])
        if objects < _MANY or judged < _NEARLY_ALL * objects:
            return None
        return (
            f"{judged} of {objects} found objects lie on annotated ones: if every object is annotated, give "
            "--partly_labelled False, and false ones count too"
        )

    def aggregate(self, metric: str | None = None) -> torch.Tensor:
        """The pooled score named `metric` (by default the one chosen at construction), a scalar tensor."""
        metric = metric or self.metric
        self._check(metric)
        return torch.tensor(self.scores()[metric])
