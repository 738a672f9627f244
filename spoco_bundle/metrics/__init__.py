"""Scores of instance segmentations, all computed from one contingency table."""

from __future__ import annotations

from spoco_bundle.metrics.contingency import ContingencyTable, contingency_table
from spoco_bundle.metrics.matching import IOU_THRESHOLDS
from spoco_bundle.metrics.partly_labelled import expected_ap
from spoco_bundle.metrics.scores import instance_scores, pool_scores

__all__ = [
    "IOU_THRESHOLDS",
    "ContingencyTable",
    "contingency_table",
    "expected_ap",
    "instance_scores",
    "pool_scores",
]
