from __future__ import annotations

import csv
import json

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from spoco_bundle.handlers import InstanceMetric
from spoco_bundle.handlers.scores import ScoresHandler


@pytest.mark.parametrize("partly_labelled", [False, True])
def test_files_hold_what_the_metric_knows(tmp_path, capsys, partly_labelled):
    metric = InstanceMetric(partly_labelled=partly_labelled)

    def evaluate(engine, batch):
        truth = torch.zeros(1, 12, 12, dtype=torch.int32)
        truth[:, 1:5, 1:5], truth[:, 7:11, 2:9] = 2, 5
        found = truth.clone()
        found[:, 7:, : batch[0]["cut"]] = 0
        metric([found], [truth])

    evaluator = Engine(evaluate)
    evaluator.state.rank = 0  # as MONAI's workflows say it
    ScoresHandler(metric, str(tmp_path / "out")).attach(evaluator)
    data = [
        [{"image": MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": f"folder/{name}.tif"}), "cut": cut}]
        for name, cut in (("a", 0), ("b", 7))
    ]
    evaluator.run(data)
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("image") for row in rows] == ["a.tif", "b.tif"]
    for row, expected in zip(rows, metric.details(), strict=True):
        assert {key: float(value) for key, value in row.items()} == pytest.approx(expected, nan_ok=True)
    pooled = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert pooled.pop("images") == 2
    assert pooled == pytest.approx(metric.scores(), nan_ok=True)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["image", "a.tif", "b.tif", "all"]
    assert ("ap_50" in printed[0]) != partly_labelled and ("recall_50" in printed[0]) == partly_labelled
